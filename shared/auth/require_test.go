package auth

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

func TestBearer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		header []string
		token  string
		reason string
	}{
		{name: "plain", header: []string{"Bearer " + tokenA}, token: tokenA},
		{name: "any case", header: []string{"bEARER " + tokenA}, token: tokenA},
		{name: "more spaces", header: []string{"Bearer   " + tokenA + " "}, token: tokenA},
		{name: "none", reason: Missing},
		{name: "empty", header: []string{""}, reason: Malformed},
		{name: "scheme only", header: []string{"Bearer"}, reason: Malformed},
		{name: "scheme and space", header: []string{"Bearer "}, reason: Malformed},
		{name: "token only", header: []string{tokenA}, reason: Malformed},
		{name: "basic", header: []string{"Basic " + tokenA}, reason: Malformed},
		{name: "two words", header: []string{"Bearer " + tokenA + " " + tokenB}, reason: Malformed},
		{name: "tab", header: []string{"Bearer\t" + tokenA}, reason: Malformed},
		{name: "two headers", header: []string{"Bearer " + tokenA, "Bearer " + tokenB}, reason: Malformed},
		{name: "control character", header: []string{"Bearer " + tokenA + "\x00"}, reason: Malformed},
		{name: "too long", header: []string{"Bearer " + strings.Repeat("x", MaxToken+1)}, reason: Malformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header["Authorization"] = tt.header
			if tt.header == nil {
				delete(r.Header, "Authorization")
			}
			token, reason := bearer(r)
			if token != tt.token || reason != tt.reason {
				t.Fatalf("bearer = %q, %q, want %q, %q", token, reason, tt.token, tt.reason)
			}
			token, ok := Bearer(r)
			if token != tt.token || ok != (tt.reason == "") {
				t.Fatalf("Bearer = %q, %v", token, ok)
			}
		})
	}
}

func FuzzBearer(f *testing.F) {
	for _, s := range []string{"", "Bearer " + tokenA, "bearer\t" + tokenA, "Basic YTpi", "Bearer a b", "Bearer \x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := &http.Request{Header: http.Header{"Authorization": {s}}}
		token, ok := Bearer(r)
		if !ok {
			if token != "" {
				t.Fatalf("token %q beside ok == false", token)
			}
			return
		}
		if token == "" || len(token) > MaxToken || !visible(token) || !strings.HasSuffix(strings.Trim(s, " "), " "+token) {
			t.Fatalf("bad token %q of %q", token, s)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		if again, ok := Bearer(r); !ok || again != token {
			t.Fatalf("round trip: %q became %q", token, again)
		}
	})
}

// guard is a handler behind Require with what it told the outside.
type guard struct {
	http.Handler
	counts map[string]int
	log    bytes.Buffer
	passed int
}

func newGuard(tokens ...string) *guard {
	g := &guard{counts: make(map[string]int)}
	g.Handler = Require(NewTokens(tokens), NewThrottle(), func(reason string) { g.counts[reason]++ },
		zerolog.New(&g.log), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { g.passed++ }))
	return g
}

func (g *guard) get(authorization string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, "/status", nil)
	r.RemoteAddr = "192.0.2.7:1234"
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	rec := httptest.NewRecorder()
	g.ServeHTTP(rec, r)
	return rec.Result()
}

func TestRequire(t *testing.T) {
	t.Parallel()
	const wrong = "a-wrong-token-that-must-not-be-logged"
	tests := []struct {
		name   string
		header string
		code   int
		body   string
		reason string
	}{
		{name: "valid", header: "Bearer " + tokenB, code: 200},
		{name: "missing", code: 401, body: "a token is needed", reason: Missing},
		{name: "malformed", header: "Basic " + wrong, code: 401, body: "not understood", reason: Malformed},
		{name: "wrong", header: "Bearer " + wrong, code: 401, body: "compare TOKEN", reason: Wrong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGuard(tokenA, tokenB)
			resp := g.get(tt.header)
			var body bytes.Buffer
			body.ReadFrom(resp.Body)
			if resp.StatusCode != tt.code || !strings.Contains(body.String(), tt.body) {
				t.Fatalf("%d %q, want %d with %q", resp.StatusCode, body.String(), tt.code, tt.body)
			}
			if passed := g.passed == 1; passed != (tt.code == 200) {
				t.Fatalf("passed: %v", passed)
			}
			if tt.code == 200 {
				if g.log.Len() > 0 || len(g.counts) > 0 {
					t.Fatalf("a valid token was recorded: %s %v", g.log.String(), g.counts)
				}
				return
			}
			if got := resp.Header.Get("WWW-Authenticate"); got != `Bearer realm="adit"` {
				t.Errorf("WWW-Authenticate: %q", got)
			}
			if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain") {
				t.Errorf("Content-Type: %q", got)
			}
			if !maps.Equal(g.counts, map[string]int{tt.reason: 1}) {
				t.Errorf("counted %v", g.counts)
			}
			want := `{"level":"warn","remote_addr":"192.0.2.7:1234","path":"/status","reason":"` + tt.reason + `","message":"authentication failed"}` + "\n"
			if g.log.String() != want {
				t.Errorf("logged %s want %s", g.log.String(), want)
			}
			if strings.Contains(body.String(), wrong) {
				t.Errorf("the token is in the answer: %s", body.String())
			}
		})
	}
}

func TestRequireNoTokens(t *testing.T) {
	t.Parallel()
	g := newGuard()
	for _, header := range []string{"", "Bearer ", "Bearer " + tokenA} {
		if resp := g.get(header); resp.StatusCode != 401 {
			t.Errorf("%q: %d", header, resp.StatusCode)
		}
	}
	if g.passed != 0 {
		t.Error("passed without any token set")
	}
}

func TestRequireThrottles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(tokenA)
		for i := range FreeFailures {
			if resp := g.get("Bearer " + tokenB); resp.StatusCode != 401 {
				t.Fatalf("failure %d: %d", i+1, resp.StatusCode)
			}
		}
		logged := g.log.Len()
		for range 100 {
			resp := g.get("Bearer " + tokenB)
			if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" {
				t.Fatalf("%d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
			}
		}
		if g.log.Len() != logged {
			t.Error("throttled requests flood the log")
		}
		if !maps.Equal(g.counts, map[string]int{Wrong: FreeFailures, Throttled: 100}) {
			t.Errorf("counted %v", g.counts)
		}
		if resp := g.get("Bearer " + tokenA); resp.StatusCode != 200 {
			t.Errorf("a valid token got %d", resp.StatusCode)
		}
		<-time.After(time.Second)
		if resp := g.get("Bearer " + tokenB); resp.StatusCode != 401 {
			t.Errorf("after the delay: %d", resp.StatusCode)
		}
	})
}

func TestRemoteAddr(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, remote, want string }{
		{name: "v4", remote: "192.0.2.1:80", want: "192.0.2.1"},
		{name: "v6", remote: "[2001:db8::1]:80", want: "2001:db8::1"},
		{name: "no port", remote: "192.0.2.1", want: "192.0.2.1"},
		{name: "unix socket", remote: "@", want: "invalid IP"},
		{name: "empty", remote: "", want: "invalid IP"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := remoteAddr(&http.Request{RemoteAddr: tt.remote}).String(); got != tt.want {
				t.Fatalf("remoteAddr = %s, want %s", got, tt.want)
			}
		})
	}
}
