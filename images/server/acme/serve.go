package acme

import (
	"crypto/tls"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

// Protocol is what a directory that looks into a TLS-ALPN-01 challenge asks for instead of HTTP (RFC 8737).
const Protocol = "acme-tls/1"

// ChallengePath begins the paths of HTTP-01 challenges (RFC 8555 section 8.3).
const ChallengePath = "/.well-known/acme-challenge/"

// IsChallenge reports whether a handshake is a challenge of a directory's.
func IsChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == Protocol
}

// GetCertificate returns the certificate for a handshake, nil if there is none. The answer to a challenge is one too.
func (m *Manager) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if IsChallenge(hello) {
		if !m.wants(name) { // nothing is looked up for a name that anybody may have made up
			return nil, nil
		}
		return m.magic.GetCertificate(hello)
	}
	return m.certificate(name, hello), nil
}

// certificate returns what is to be served under the name, nil for nothing.
func (m *Manager) certificate(name string, hello *tls.ClientHelloInfo) *tls.Certificate {
	if name == "" || strings.Count(name, ".") > 20 {
		return nil
	}
	certs := m.cache.AllMatchingCertificates(name)
	if len(certs) == 0 {
		return nil
	}
	cert, err := certmagic.DefaultCertificateSelector(hello, certs)
	if err != nil {
		return nil
	}
	return &cert.Certificate
}

// Default returns the certificate for visitors who ask for no name: that of the first of Config.Domains, nil if there
// is none.
func (m *Manager) Default(hello *tls.ClientHelloInfo) *tls.Certificate {
	if len(m.cfg.Domains) == 0 {
		return nil
	}
	return m.certificate(m.cfg.Domains[0], hello)
}

// Has reports whether visitors of the host, in lower case, get a certificate for it.
func (m *Manager) Has(host string) bool {
	return !m.notAfter(host).Before(time.Now())
}

// notAfter returns when the certificate of a host expires, the zero time if it has none.
func (m *Manager) notAfter(name string) (last time.Time) {
	for _, cert := range m.cache.AllMatchingCertificates(name) {
		if t := cert.Leaf.NotAfter; t.After(last) {
			last = t
		}
	}
	return last
}

// wants reports whether the host is to have a certificate.
func (m *Manager) wants(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hosts[name] != nil
}

// Handler answers HTTP-01 challenges for the hosts that are to have a certificate. All other requests are next's, also
// for challenges that are not ours: an upstream may have its own.
func (m *Manager) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, ChallengePath) && m.wants(hostOf(r)) && m.issuer.HandleHTTPChallenge(w, r) {
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostOf returns the name that a request is for. Nothing depends on the finer points: the answer is given only for a
// name that is wanted, and a token that the directory made up.
func hostOf(r *http.Request) string {
	host := r.Host
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
