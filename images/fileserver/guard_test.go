package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/config"
)

var welcome = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

func TestGuard(t *testing.T) {
	var lan config.CIDRs
	must(t, lan.Decode("10.0.0.0/8, 2001:db8::/32"))
	for _, c := range []struct {
		name, from     string
		allow          config.CIDRs
		basic          string
		user, password string
		code           int
	}{
		{"open", "192.0.2.1:1", nil, "", "", "", 204},
		{"open, password not asked for", "192.0.2.1:1", nil, "", "a", "b", 204},
		{"allowed", "10.1.2.3:1", lan, "", "", "", 204},
		{"allowed, IPv4 in IPv6", "[::ffff:10.1.2.3]:1", lan, "", "", "", 204},
		{"allowed, IPv6", "[2001:db8::1]:1", lan, "", "", "", 204},
		{"not allowed", "192.0.2.1:1", lan, "", "", "", 403},
		{"not an address", "@", lan, "", "", "", 403},
		{"password", "10.1.2.3:1", lan, "a:b:c", "a", "b:c", 204},
		{"password, not allowed", "192.0.2.1:1", lan, "a:b:c", "a", "b:c", 403},
		{"second password", "10.1.2.3:1", nil, "a:b\nc:d", "c", "d", 204},
		{"no password", "10.1.2.3:1", lan, "a:b", "", "", 401},
		{"wrong password", "10.1.2.3:1", nil, "a:b", "a", "c", 401},
		{"wrong user", "10.1.2.3:1", nil, "a:b", "b", "b", 401},
		{"longer password", "10.1.2.3:1", nil, "a:b", "a", "bb", 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := newGuard(c.allow, config.SecretValue(c.basic), zerolog.Nop(), welcome)
			must(t, err)
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = c.from
			if c.user != "" {
				r.SetBasicAuth(c.user, c.password)
			}
			w := httptest.NewRecorder()
			g.ServeHTTP(w, r)
			if w.Code != c.code {
				t.Errorf("got %d, want %d", w.Code, c.code)
			}
			challenge := ""
			if c.code == 401 {
				challenge = `Basic realm="adit fileserver", charset="UTF-8"`
			}
			if got := w.Header().Get("WWW-Authenticate"); got != challenge {
				t.Errorf("challenge %q, want %q", got, challenge)
			}
		})
	}
}

// TestGuardWatch changes the password's file, to something unusable first.
func TestGuardWatch(t *testing.T) {
	file := filepath.Join(t.TempDir(), "auth")
	must(t, os.WriteFile(file, []byte("a:old\n"), 0o600))
	t.Setenv("BASIC_AUTH_FILE", file)
	var cfg settings
	must(t, config.Load(&cfg))
	lines := make(lineWriter, 16)
	g, err := newGuard(nil, cfg.BasicAuth, zerolog.New(lines), welcome)
	must(t, err)
	g.interval = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.watch(ctx) }()
	try := func(password string, want int) {
		t.Helper()
		r := httptest.NewRequest("GET", "/", nil)
		r.SetBasicAuth("a", password)
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: got %d, want %d", password, w.Code, want)
		}
	}
	try("old", 204)
	must(t, os.WriteFile(file, []byte("nonsense"), 0o600))
	lines.until(t, "password file changed, keeping the old password")
	try("old", 204)
	must(t, os.WriteFile(file, []byte("a:new\n"), 0o600))
	lines.until(t, "password changed")
	try("old", 401)
	try("new", 204)
	cancel()
	must(t, <-done)
}
