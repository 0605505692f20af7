package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/adit-tunnel/adit/images/server/edge"
	"github.com/adit-tunnel/adit/shared/config"
)

// hsts is HSTS: the value of Strict-Transport-Security.
type hsts string

// hstsValue is what a value may be (RFC 6797 section 6.1), of the directives that there are.
var hstsValue = regexp.MustCompile(`(?i)^max-age=[0-9]{1,10}(; *(includeSubDomains|preload))*$`)

// Decode implements envconfig.Decoder.
func (h *hsts) Decode(value string) error {
	if d, err := time.ParseDuration(value); err == nil && d >= 0 {
		*h = hsts("max-age=" + strconv.FormatInt(int64(d/time.Second), 10))
		return nil
	}
	if !hstsValue.MatchString(value) || len(value) > 100 {
		return fmt.Errorf("%q is neither a time such as 8760h nor a value of Strict-Transport-Security such as max-age=31536000; includeSubDomains", value)
	}
	*h = hsts(value)
	return nil
}

// redirect is HTTPS_REDIRECT, whose default depends on where certificates come from.
func (s *settings) redirect() bool {
	if !config.Given("HTTPS_REDIRECT") {
		return s.Domains.isSet()
	}
	return s.HTTPSRedirect
}

// validateHTTPS checks what visitors are told about HTTPS.
func (s *settings) validateHTTPS() (errs []error) {
	if s.visitorTLS() || !s.TrustedProxies.Empty() {
		return nil
	}
	const without = "is set, but there is no HTTPS: set LETSENCRYPT_DOMAINS or TLS_CERT, or TRUSTED_PROXIES if proxies in front of the server have it and say so in X-Forwarded-Proto"
	if s.redirect() {
		errs = append(errs, config.Fault("HTTPS_REDIRECT", without))
	}
	if s.HSTS != "" {
		errs = append(errs, config.Fault("HSTS", without))
	}
	return errs
}

// tell is what the data plane tells visitors about HTTPS. Nobody is sent where nothing is: hosts that have no certificate yet, and
// platforms whose proxies do not say how the visitor came.
func (s *settings) tell(bound ports, certs *certificates) edge.HTTPS {
	h := edge.HTTPS{HSTS: string(s.HSTS)}
	if port := bound.https(); port != 0 {
		h.Port = strconv.Itoa(port)
	}
	if !s.redirect() {
		return h
	}
	h.Redirect = func(host string, told bool) bool {
		switch {
		case told, certs.own != nil:
			return true
		case certs.acme != nil:
			return certs.acme.Has(strings.Trim(host, "[]"))
		}
		return false
	}
	return h
}
