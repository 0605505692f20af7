package autotls

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// KeyPairs serves the operator's certificates and takes up new ones when what read returns changes. It is safe for
// concurrent use.
type KeyPairs struct {
	read func() (certPEM, keyPEM []byte, err error)
	log  zerolog.Logger

	pairs atomic.Pointer[[]tls.Certificate] // one or more, with Leaf set

	mu    sync.Mutex        // held by Reload
	seen  [sha256.Size]byte // what was read last, good or not
	fault string            // why read failed last, "" if it did not
}

// NewKeyPairs returns the key pairs that read returns: certificates in PEM, each followed by those that lead to its CA
// if there are any, and their private keys in PEM, in any order. read is called again by Reload and Run and must return
// what is there at that moment; that it compares content, not names or times, is what makes the symlink swaps of mounted
// secrets visible. Pairs that cannot be read or used are an error, which says all that is wrong.
func NewKeyPairs(read func() (certPEM, keyPEM []byte, err error), log zerolog.Logger) (*KeyPairs, error) {
	k := &KeyPairs{read: read, log: log}
	certPEM, keyPEM, err := read()
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	pairs, err := parsePairs(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	k.seen = digest(certPEM, keyPEM)
	k.use(pairs, "certificate loaded")
	return k, nil
}

// Run calls Reload every so often until ctx ends, and returns nil then.
func (k *KeyPairs) Run(ctx context.Context, every time.Duration) error {
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

// Reload takes up the key pairs if they have changed. What cannot be read or used is logged, once, and all that was
// there before stays in use: a certificate and a key that are written one after the other do not match for a moment.
func (k *KeyPairs) Reload() {
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
	pairs, err := parsePairs(certPEM, keyPEM)
	if err != nil {
		k.log.Error().Err(err).Msg("new certificate cannot be used, the one before stays in use")
		return
	}
	k.use(pairs, "certificate replaced")
}

// use serves pairs from now on.
func (k *KeyPairs) use(pairs []tls.Certificate, message string) {
	k.pairs.Store(&pairs)
	for _, pair := range pairs {
		event := k.log.Info()
		if time.Now().After(pair.Leaf.NotAfter) {
			event = k.log.Error().Bool("expired", true)
		}
		event.Str("subject", pair.Leaf.Subject.String()).Strs("dns_names", pair.Leaf.DNSNames).
			Time("not_after", pair.Leaf.NotAfter).Msg(message)
	}
}

// TLSConfig returns a configuration for a server: TLS 1.2 or later, HTTP/1.1 unless NextProtos is set to more,
// and the certificates of the moment.
func (k *KeyPairs) TLSConfig() *tls.Config { return serverConfig(k.GetCertificate) }

// GetCertificate is for tls.Config.GetCertificate: it returns the first certificate that is valid for the name which
// the client asks for and that the client can use, or the first of all.
func (k *KeyPairs) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	pairs := *k.pairs.Load()
	if len(pairs) > 1 {
		for i := range pairs {
			if hello.SupportsCertificate(&pairs[i]) == nil {
				return &pairs[i], nil
			}
		}
	}
	return &pairs[0], nil
}

// ValidFor reports whether one of the certificates is for the host name.
func (k *KeyPairs) ValidFor(name string) bool {
	return slices.ContainsFunc(*k.pairs.Load(), func(pair tls.Certificate) bool { return pair.Leaf.VerifyHostname(name) == nil })
}

// Serves reports whether the certificate is one of them.
func (k *KeyPairs) Serves(cert *x509.Certificate) bool {
	return slices.ContainsFunc(*k.pairs.Load(), func(pair tls.Certificate) bool { return pair.Leaf.Equal(cert) })
}

// NotAfter returns when the first of the certificates expires.
func (k *KeyPairs) NotAfter() time.Time {
	var first time.Time
	for _, pair := range *k.pairs.Load() {
		if t := pair.Leaf.NotAfter; first.IsZero() || t.Before(first) {
			first = t
		}
	}
	return first
}

// digest identifies pairs without keeping a second copy of the key.
func digest(certPEM, keyPEM []byte) [sha256.Size]byte {
	cert := sha256.Sum256(certPEM)
	key := sha256.Sum256(keyPEM)
	return sha256.Sum256(append(cert[:], key[:]...))
}
