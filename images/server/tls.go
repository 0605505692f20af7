package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/autotls"
	"github.com/adit-tunnel/adit/shared/config"
)

// certificates are what the listeners speak TLS with.
type certificates struct {
	control *tls.Config  // nil: plain HTTP
	data    *tls.Config  // for listeners of visitors that are secure
	ca      http.Handler // nil: no CA of our own
	own     *autotls.KeyPair
}

// newCertificates takes the operator's certificate, or makes a CA, or neither.
func newCertificates(cfg *settings, tokens *auth.Tokens, refused func(*http.Request), reg prometheus.Registerer, log zerolog.Logger) (certificates, error) {
	switch {
	case cfg.TLSCert.IsSet():
		pair, err := autotls.NewKeyPair(readKeyPair(cfg), log)
		if err != nil {
			return certificates{}, config.Fault("TLS_CERT", "%w", err)
		}
		exportExpiry(reg, "tls_cert", pair.NotAfter)
		return certificates{control: pair.TLSConfig(), data: pair.TLSConfig(), own: pair}, nil
	case cfg.AutoTLS:
		ca, err := autotls.New(cfg.AutoTLSDir, cfg.AutoTLSSAN)
		if err != nil {
			return certificates{}, config.Fault("AUTO_TLS_DIR", "%w", err)
		}
		ca.Refused = refused
		exportExpiry(reg, "auto_tls_ca", ca.NotAfter)
		return certificates{control: ca.TLSConfig(), ca: ca.Handler(tokens.List)}, nil
	}
	log.Warn().Msg("the control plane speaks plain HTTP: TLS has to end in front of it, or the token travels in clear text")
	return certificates{}, nil
}

// readKeyPair reads TLS_CERT and TLS_KEY, again from their files if they have any.
func readKeyPair(cfg *settings) func() (cert, key []byte, err error) {
	read := func(s config.Secret) ([]byte, error) {
		if s.File() == "" {
			return []byte(s.Value()), nil
		}
		return os.ReadFile(s.File())
	}
	return func() (cert, key []byte, err error) {
		if cert, err = read(cfg.TLSCert); err != nil {
			return nil, nil, err
		}
		key, err = read(cfg.TLSKey)
		return cert, key, err
	}
}

func exportExpiry(reg prometheus.Registerer, name string, notAfter func() time.Time) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "adit_certificate_expiry_timestamp_seconds",
		Help:        "When the certificate expires, in seconds since 1970.",
		ConstLabels: prometheus.Labels{"name": name},
	}, func() float64 { return float64(notAfter().Unix()) }))
}

func (c certificates) wrapControl(l net.Listener) net.Listener {
	if c.control == nil {
		return l
	}
	return tls.NewListener(l, c.control)
}

// wrapData has visitors, on a shared port without a certificate for them, make do with
// that of the clients: who comes there with TLS can have it no other way.
func (c certificates) wrapData(p dataPort) net.Listener {
	if !p.secure {
		return p.Listener
	}
	config := c.data
	if config == nil {
		config = c.control
	}
	return tls.NewListener(p.Listener, config)
}

// run takes up changed files until ctx ends.
func (c certificates) run(ctx context.Context) error {
	if c.own == nil {
		<-ctx.Done()
		return nil
	}
	_ = c.own.Run(ctx, rereadEvery)
	return nil
}
