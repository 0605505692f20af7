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

	"github.com/adit-tunnel/adit/images/server/acme"
	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/autotls"
	"github.com/adit-tunnel/adit/shared/config"
)

// certificates are what the listeners speak TLS with.
type certificates struct {
	control *tls.Config       // nil: plain HTTP
	ca      http.Handler      // nil: no CA of our own
	own     *autotls.KeyPairs // nil: the operator gives none
	acme    *acme.Manager     // nil: none are got from a directory
}

// newCertificates takes the operator's certificates, or makes a CA, or neither.
func newCertificates(cfg *settings, tokens *auth.Tokens, refused func(*http.Request), reg prometheus.Registerer, log zerolog.Logger) (certificates, error) {
	switch {
	case cfg.TLSCert.IsSet():
		pairs, err := autotls.NewKeyPairs(readKeyPairs(cfg), log)
		if err != nil {
			return certificates{}, config.Fault("TLS_CERT", "%w", err)
		}
		exportExpiry(reg, "tls_cert", pairs.NotAfter)
		return certificates{control: pairs.TLSConfig(), own: pairs}, nil
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

// readKeyPairs reads TLS_CERT and TLS_KEY, again from their files if they have any.
func readKeyPairs(cfg *settings) func() (cert, key []byte, err error) {
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

// wrapData has the secure listeners of visitors speak TLS.
func (c certificates) wrapData(p dataPort) net.Listener {
	if !p.secure {
		return p.Listener
	}
	return tls.NewListener(p.Listener, c.visitorTLS(p.shared))
}

// visitorTLS is how visitors are spoken TLS with, on every listener: protocols, versions and certificates are decided
// here and nowhere else.
func (c certificates) visitorTLS(shared bool) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.forVisitor(shared)}
	if c.acme != nil {
		config.NextProtos = append(config.NextProtos, acme.Protocol)
	}
	return config
}

// forVisitor returns the certificate for a visitor: the operator's own if that is valid for the name, one from the ACME
// directory, or else the operator's first. On a shared port visitors for whom there is no other make do with that of the
// clients: who comes there with TLS can have it no other way.
func (c certificates) forVisitor(shared bool) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		challenge := c.acme != nil && acme.IsChallenge(hello)
		if challenge || c.acme != nil && !(c.own != nil && c.own.ValidFor(hello.ServerName)) {
			if cert, err := c.acme.GetCertificate(hello); cert != nil || err != nil || challenge {
				return cert, err
			}
		}
		switch {
		case c.own != nil:
			return c.own.GetCertificate(hello)
		case shared && c.control != nil:
			return c.control.GetCertificate(hello)
		case c.acme != nil && hello.ServerName == "": // such as a load balancer's check of health
			return c.acme.Default(hello), nil
		}
		return nil, nil
	}
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

// newACME returns what gets certificates from the ACME directory, nil if nothing is to be got.
func newACME(cfg *settings, bound ports, table *routing.Table, own *autotls.KeyPairs, reg prometheus.Registerer, log zerolog.Logger) (*acme.Manager, error) {
	if !cfg.Domains.isSet() {
		return nil, nil
	}
	roots, err := cfg.acmeRoots()
	if err != nil {
		return nil, err
	}
	c := acme.Config{
		Domains: cfg.Domains.hosts, Directory: string(cfg.ACMEIssuer), Roots: roots, Email: cfg.ACMEEmail, Dir: cfg.ACMEDir,
		Addr: cfg.DataAddr, HTTPPort: bound.number("PORT"), HTTPSPort: bound.https(), Metrics: acme.NewMetrics(reg), Log: log,
	}
	if c.HTTPSPort == 0 { // a shared port without TLS: there is no challenge of that kind, and no port to take for it
		c.HTTPSPort = c.HTTPPort
	}
	if cfg.Domains.onDemand {
		c.Served = table.Served
	}
	if own != nil {
		c.Covered = own.ValidFor
	}
	m, err := acme.New(c)
	if err != nil {
		return nil, config.Fault("LETSENCRYPT_DIR", "%w", err)
	}
	table.Changed = m.Changed
	return m, nil
}
