package main

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"slices"
	"strings"

	"github.com/adit-tunnel/adit/images/server/acme"
	"github.com/adit-tunnel/adit/shared/config"
)

// onDemand is the word in LETSENCRYPT_DOMAINS for the hosts that clients serve. No host can have that name.
const onDemand = "on-demand"

// acmeDomains is LETSENCRYPT_DOMAINS.
type acmeDomains struct {
	hosts    []string // in lower case
	onDemand bool
}

func (d acmeDomains) isSet() bool { return d.onDemand || len(d.hosts) > 0 }

// Decode implements envconfig.Decoder.
func (d *acmeDomains) Decode(value string) error {
	*d = acmeDomains{}
	for host := range strings.SplitSeq(value, ",") {
		host = strings.ToLower(strings.TrimSuffix(strings.TrimSpace(host), "."))
		switch {
		case host == "":
			continue
		case host == onDemand:
			d.onDemand = true
			continue
		case strings.Contains(host, "*"):
			return fmt.Errorf("%q: a certificate for a wildcard takes changes of the DNS, which this server does not make: name the hosts, or use on-demand", host)
		case net.ParseIP(strings.Trim(host, "[]")) != nil:
			return fmt.Errorf("%q is an address: certificates are for names", host)
		case !acme.IsName(host):
			return fmt.Errorf("%q is not the name of a host: write it without scheme, port and path, international names in their xn-- form", host)
		}
		if !slices.Contains(d.hosts, host) {
			d.hosts = append(d.hosts, host)
		}
	}
	return nil
}

// acmeDirectory is LETSENCRYPT_ISSUER: the URL of an ACME directory.
type acmeDirectory string

// Decode implements envconfig.Decoder.
func (d *acmeDirectory) Decode(value string) error {
	switch value {
	case "prod":
		*d = acme.Production
		return nil
	case "staging":
		*d = acme.Staging
		return nil
	}
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("%q is neither prod nor staging nor the https:// URL of an ACME directory", value)
	}
	*d = acmeDirectory(value)
	return nil
}

// validateACME checks the settings of certificates from a directory.
func (s *settings) validateACME() (errs []error) {
	fault := func(name, format string, args ...any) { errs = append(errs, config.Fault(name, format, args...)) }
	if _, err := s.acmeRoots(); err != nil {
		errs = append(errs, err)
	}
	if s.ACMEEmail != "" {
		if a, err := mail.ParseAddress(s.ACMEEmail); err != nil || a.Address != s.ACMEEmail {
			fault("LETSENCRYPT_EMAIL", "%q is not an address of e-mail: write one such as admin@example.com", s.ACMEEmail)
		}
	}
	if !s.Domains.isSet() {
		const without = "is not set, but %s is: set it to the hosts that are to have certificates"
		if s.ACMEEmail != "" {
			fault("LETSENCRYPT_DOMAINS", without, "LETSENCRYPT_EMAIL")
		}
		if s.ACMECA.IsSet() {
			fault("LETSENCRYPT_DOMAINS", without, "ACME_CA")
		}
		return errs
	}
	if !s.Mode.HTTP {
		fault("LETSENCRYPT_DOMAINS", "is set, but MODE is %s: certificates are for visitors with HTTP", s.Mode)
	}
	if s.ACMEDir == "" {
		fault("LETSENCRYPT_DIR", "is blank: set it to a folder that keeps certificates over restarts")
	}
	if acme.Public(string(s.ACMEIssuer)) {
		for _, host := range s.Domains.hosts {
			if !acme.IsPublic(host) {
				fault("LETSENCRYPT_DOMAINS", "%q is not a public name, and Let's Encrypt has certificates only for these: use another LETSENCRYPT_ISSUER, or TLS_CERT", host)
			}
		}
	}
	return errs
}

// acmeRoots returns the certificates of ACME_CA, nil if it is not set.
func (s *settings) acmeRoots() (*x509.CertPool, error) {
	if !s.ACMECA.IsSet() {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(s.ACMECA.Value())) {
		return nil, config.Fault("ACME_CA", "holds no certificate in PEM form: it begins with -----BEGIN CERTIFICATE-----")
	}
	return pool, nil
}
