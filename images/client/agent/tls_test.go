package agent

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/shared/autotls"
)

// certificate returns the certificate of a test server in PEM form.
func certificate(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func withTLS(s *httptest.Server) {
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // for clients that do not trust it
	s.StartTLS()
}

// TestTLS verifies servers in the three ways that there are.
func TestTLS(t *testing.T) {
	authority, err := autotls.New("", nil)
	must(t, err)
	withAuthority := func(tokens ...string) func(*httptest.Server) {
		return func(s *httptest.Server) {
			ca, next := authority.Handler(func() []string { return tokens }), s.Config.Handler
			s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/.well-known/") {
					ca.ServeHTTP(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
			s.Listener = tls.NewListener(s.Listener, authority.TLSConfig())
			s.Start()
		}
	}
	other := newServer(t, withTLS)
	for _, c := range []struct {
		name   string
		server *server
		mode   TLSMode
		ca     func(*server) string
		want   string // why it cannot connect; empty if it can
		level  string
	}{
		{"own authority", newServer(t, withTLS), TLSCustom, func(s *server) string { return certificate(s.Server) }, "", ""},
		{"another authority", newServer(t, withTLS), TLSCustom, func(*server) string { return string(authority.CertificatePEM()) }, "the server's certificate does not fit TLS_CA", "warn"},
		{"no certificate", other, TLSCustom, func(*server) string { return "" }, "TLS_CA holds no certificate in PEM form", "warn"},
		{"public authorities", other, TLSPublic, nil, "the server's certificate is not from a public authority: set AUTO_TLS=true", "warn"},
		{"by the token", newServer(t, withAuthority("another-token-0123456789", token)), TLSAuto, nil, "", ""},
		{"by another token", newServer(t, withAuthority("another-token-0123456789")), TLSAuto, nil, "the server has another TOKEN", "error"},
		{"no CA of its own", newServer(t, func(s *httptest.Server) { s.Config.Handler = http.NotFoundHandler(); withTLS(s) }), TLSAuto, nil, "set AUTO_TLS=false here", "error"},
		{"plain HTTP, auto-TLS", newServer(t), TLSAuto, nil, "the server speaks plain http on this port", "error"},
		{"plain HTTP", newServer(t), TLSPublic, nil, "the server does not speak TLS on this port: write ws:// together with AUTO_TLS=false", "warn"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := *c.server.url
			u.Scheme = "wss"
			a := newAgent(t, &u, "http://"+echo(t), func(cfg *Config) {
				cfg.TLS = c.mode
				if c.ca != nil {
					cfg.CA = func() string { return c.ca(c.server) }
				}
			}).run(t)
			if c.want == "" {
				alive(t, c.server.next(t).open(t, 0))
				return
			}
			a.log.await(t, "cannot connect", "error", c.want, "level", c.level)
		})
	}
}

// TestPlain uses no TLS for ws://, whatever the mode.
func TestPlain(t *testing.T) {
	for _, mode := range []TLSMode{TLSPublic, TLSAuto, TLSCustom} {
		config, err := TLSConfig(t.Context(), mode, &url.URL{Scheme: "ws", Host: "host"}, token, nil)
		if config != nil || err != nil {
			t.Errorf("mode %d: %v %v", mode, config, err)
		}
	}
}

// TestTokenChanges takes the token of the moment for each attempt.
func TestTokenChanges(t *testing.T) {
	s := newServer(t)
	s.refuseBy(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "Bearer "+token {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	tokens := []string{"the-old-token-0123456789", token}
	newAgent(t, s.url, "http://"+echo(t), func(cfg *Config) {
		cfg.Token = func() string {
			next := tokens[0]
			tokens = tokens[len(tokens)-1:]
			return next
		}
	}).run(t)
	alive(t, s.next(t).open(t, 0))
}
