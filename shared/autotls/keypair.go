package autotls

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// KeyPair serves the operator's certificate and takes up a new one when what read returns changes. It is safe for
// concurrent use.
type KeyPair struct {
	read func() (certPEM, keyPEM []byte, err error)
	log  zerolog.Logger

	pair atomic.Pointer[tls.Certificate] // with Leaf set

	mu    sync.Mutex        // held by Reload
	seen  [sha256.Size]byte // what was read last, good or not
	fault string            // why read failed last, "" if it did not
}

// NewKeyPair returns the key pair that read returns: a certificate in PEM, followed by those that lead to its CA
// if there are any, and its private key in PEM. read is called again by Reload and Run and must return what is
// there at that moment; that it compares content, not names or times, is what makes the symlink swaps of mounted
// secrets visible. A pair that cannot be read or used is an error.
func NewKeyPair(read func() (certPEM, keyPEM []byte, err error), log zerolog.Logger) (*KeyPair, error) {
	k := &KeyPair{read: read, log: log}
	certPEM, keyPEM, err := read()
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	pair, err := parsePair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	k.seen = digest(certPEM, keyPEM)
	k.use(pair, "certificate loaded")
	return k, nil
}

// Run calls Reload every so often until ctx ends, and returns nil then.
func (k *KeyPair) Run(ctx context.Context, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			k.Reload()
		}
	}
}

// Reload takes up the key pair if it has changed. One that cannot be read or used is logged, once, and the one
// before stays in use: a certificate and a key that are written one after the other do not match for a moment.
func (k *KeyPair) Reload() {
	k.mu.Lock()
	defer k.mu.Unlock()
	certPEM, keyPEM, err := k.read()
	if err != nil {
		if k.fault != err.Error() {
			k.fault = err.Error()
			k.log.Error().Err(err).Msg("certificate cannot be read, the one before stays in use")
		}
		return
	}
	k.fault = ""
	seen := digest(certPEM, keyPEM)
	if seen == k.seen {
		return
	}
	k.seen = seen
	pair, err := parsePair(certPEM, keyPEM)
	if err != nil {
		k.log.Error().Err(err).Msg("new certificate cannot be used, the one before stays in use")
		return
	}
	k.use(pair, "certificate replaced")
}

// use serves pair from now on.
func (k *KeyPair) use(pair *tls.Certificate, message string) {
	k.pair.Store(pair)
	leaf := pair.Leaf
	event := k.log.Info()
	if time.Now().After(leaf.NotAfter) {
		event = k.log.Error().Bool("expired", true)
	}
	event.Str("subject", leaf.Subject.String()).Strs("dns_names", leaf.DNSNames).
		Time("not_after", leaf.NotAfter).Msg(message)
}

// TLSConfig returns a configuration for a server: TLS 1.2 or later, HTTP/1.1 unless NextProtos is set to more,
// and the certificate of the moment.
func (k *KeyPair) TLSConfig() *tls.Config { return serverConfig(k.GetCertificate) }

// GetCertificate is for tls.Config.GetCertificate: it returns the certificate of the moment, whichever name the
// client asks for.
func (k *KeyPair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return k.pair.Load(), nil
}

// NotAfter returns when the certificate expires.
func (k *KeyPair) NotAfter() time.Time { return k.pair.Load().Leaf.NotAfter }

func parsePair(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	if bytes.Contains(keyPEM, []byte("ENCRYPTED")) {
		return nil, errors.New("the private key is encrypted: decrypt it first, with: openssl pkey -in KEY -out PLAIN")
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("use the certificate and its key (the server's own certificate must be the first in its file): %w", err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &pair, nil
}

// digest identifies a pair without keeping a second copy of the key.
func digest(certPEM, keyPEM []byte) [sha256.Size]byte {
	cert := sha256.Sum256(certPEM)
	key := sha256.Sum256(keyPEM)
	return sha256.Sum256(append(cert[:], key[:]...))
}
