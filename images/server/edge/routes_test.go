package edge

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// named is a web server that answers with its name.
func named(tb testing.TB, name string) string {
	return httpUpstream(tb, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
}

func TestMostSpecificRouteServes(t *testing.T) {
	s := newSite(t)
	s.client("http://" + named(t, "default"))
	s.client("*.example.com=http://"+named(t, "wildcard"), "a.b.example.com=http://"+named(t, "exact"),
		"a.b.example.com/api=http://"+named(t, "prefix"))
	for _, tt := range []struct{ name, url, want string }{
		{"exact host", "http://a.b.example.com/", "exact"},
		{"case of the host", "http://A.B.Example.COM/", "exact"},
		{"port", "http://a.b.example.com:8000/x", "exact"},
		{"trailing dot", "http://a.b.example.com./", "exact"},
		{"prefix", "http://a.b.example.com/api/x", "prefix"},
		{"prefix as it is", "http://a.b.example.com/api?x=/y", "prefix"},
		{"no whole segment", "http://a.b.example.com/apis", "exact"},
		{"dots within the prefix", "http://a.b.example.com/api/./x/../y", "prefix"},
		{"dots outside of it", "http://a.b.example.com/.well-known/x", "exact"},
		{"parameters", "http://a.b.example.com/x;y=z/api", "exact"},
		{"into the prefix by slashes", "http://a.b.example.com//api//x", "prefix"},
		{"wildcard", "http://c.example.com/", "wildcard"},
		{"wildcard over several labels", "http://a.c.example.com/", "wildcard"},
		{"wildcard needs a label", "http://example.com/", "default"},
		{"default", "http://elsewhere.example/", "default"},
		{"address", "http://127.0.0.1/", "default"},
		{"IPv6 address", "http://[::1]:8000/", "default"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := s.dial()
			url := strings.SplitN(strings.TrimPrefix(tt.url, "http://"), "/", 2)
			c.send("GET /" + url[1] + " HTTP/1.1\r\nHost: " + url[0] + "\r\n\r\n")
			c.want("GET", 200, tt.want)
		})
	}
}

// TestPathsOfTwoRoutes asks for paths that servers read in different ways: none of them may
// lead past what one route protects by another.
func TestPathsOfTwoRoutes(t *testing.T) {
	s := newSite(t)
	s.client("a.example=http://"+named(t, "app"), "a.example/public=http://"+named(t, "public"))
	for _, tt := range []struct {
		path string
		want string // "" for a refusal
	}{
		{"/public/x", "public"}, {"/publicity", "app"}, {"/public/a;b=c", "public"}, {"/public/a..;b", "public"}, {"/public/100%25", "public"},
		{"/%70ublic", "public"}, {"/public/a%5Cb", "public"},
		{"/public/../admin", ""}, {"/admin/../public", ""}, {"/public/%2e%2e/admin", ""}, {"/public%2f..%2fadmin", ""},
		{"/public/..;/admin", ""}, {"/public/..;a=b/admin", ""}, {"/public;/../admin", ""}, {"/public;a", ""},
		{"/public/..\\admin", ""}, {"/public\\..\\admin", ""}, {"/public/%5c../admin", ""},
		{"/public/%252e%252e/admin", ""}, {"/public/%25252e%25252e%25252fadmin", ""}, {"/./public", ""},
		{"/public%00", ""}, {"/public%0a/x", ""}, {"/public/%00", "public"}, {"/other%00", "app"},
	} {
		t.Run(tt.path, func(t *testing.T) {
			c := s.dial()
			for range 2 { // the second may go the fast way
				c.send("GET " + tt.path + " HTTP/1.1\r\nHost: a.example\r\n\r\n")
				if tt.want != "" {
					c.want("GET", 200, tt.want)
					continue
				}
				if resp, body := c.response("GET"); resp.StatusCode != 400 || !strings.Contains(body, "read in two ways") {
					t.Errorf("response is %d %q", resp.StatusCode, body)
				}
			}
		})
	}
}

func TestHTTP10WithoutHostGetsTheDefault(t *testing.T) {
	s := newSite(t)
	s.client("http://" + named(t, "default"))
	c := s.dial()
	c.send("GET / HTTP/1.0\r\n\r\n")
	c.want("GET", 200, "default")
	c.wantEOF()
}

func TestRoundRobin(t *testing.T) {
	s := newSite(t)
	for _, name := range []string{"a", "b", "c"} {
		s.client("http://" + named(t, name))
	}
	var got strings.Builder
	v := s.visitor()
	for range 9 {
		resp, err := v.Get("http://x.example/")
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString(readAll(t, resp))
	}
	if got.String() != "abcabcabc" {
		t.Errorf("served by %s, want turns", got.String())
	}
	s.wantCount(9, "200", "*", "GET")
}

// refusing is a client that resets every stream with the code.
func (s *site) refusing(code tunnel.Code) {
	s.clientOf([]route.Upstream{{Host: "*", Scheme: route.HTTP}}, func(st *tunnel.Stream) {
		st.Reset(code, "dial tcp 10.1.2.3:80: secret")
	})
}

func TestRefusalsAreToldApart(t *testing.T) {
	quick := func(cfg *Config) { cfg.OpenTimeout, cfg.ResponseTimeout = 100*time.Millisecond, 100*time.Millisecond }
	for _, tt := range []struct {
		name   string
		change func(*Config)
		setup  func(t *testing.T, s *site)
		code   int
		text   string
		host   string // the metric's
		retry  bool
	}{
		{name: "no such route", setup: func(*testing.T, *site) {}, code: 404, host: unmatched,
			text: "404 Not Found: nothing is exposed under this host and path\n"},
		{name: "the client has left", code: 503, host: "*", retry: true,
			text:  "503 Service Unavailable: the client that serves this host is not connected\n",
			setup: func(t *testing.T, s *site) { s.client("http://127.0.0.1:1").leave() }},
		{name: "the client is about to leave", code: 503, host: "*", retry: true,
			text:  "503 Service Unavailable: the client that serves this host is not connected\n",
			setup: func(t *testing.T, s *site) { s.client("http://127.0.0.1:1").goAway(t) }},
		{name: "the session has died", code: 503, host: "*", retry: true,
			text:  "503 Service Unavailable: the client that serves this host is not connected\n",
			setup: func(t *testing.T, s *site) { s.client("http://127.0.0.1:1").there.Close() }},
		{name: "connection refused", code: 502, host: "*",
			text:  "502 Bad Gateway: the upstream refused the connection\n",
			setup: func(t *testing.T, s *site) { s.client("http://" + freeport.Addr(t)) }},
		{name: "unreachable", code: 502, host: "*", text: "502 Bad Gateway: the upstream cannot be reached\n",
			setup: func(t *testing.T, s *site) { s.refusing(tunnel.CodeUnreachable) }},
		{name: "certificate", code: 502, host: "*", text: "502 Bad Gateway: the upstream's certificate, or its TLS, was not accepted\n",
			setup: func(t *testing.T, s *site) { s.refusing(tunnel.CodeTLS) }},
		{name: "fault of the client", code: 502, host: "*", text: "502 Bad Gateway: the upstream broke off before it answered\n",
			setup: func(t *testing.T, s *site) { s.refusing(tunnel.CodeInternal) }},
		{name: "overload", code: 503, host: "*", retry: true, text: "503 Service Unavailable: too many requests are under way\n",
			setup: func(t *testing.T, s *site) { s.refusing(tunnel.CodeOverload) }},
		{name: "connecting took the client too long", code: 504, host: "*",
			text:  "504 Gateway Timeout: the upstream did not accept the connection in time\n",
			setup: func(t *testing.T, s *site) { s.refusing(tunnel.CodeTimeout) }},
		{name: "connecting takes too long", change: quick, code: 504, host: "*",
			text: "504 Gateway Timeout: the upstream did not accept the connection in time\n",
			setup: func(t *testing.T, s *site) {
				done := make(chan struct{})
				s.clientOf([]route.Upstream{{Host: "*", Scheme: route.HTTP}}, func(st *tunnel.Stream) { <-done })
				t.Cleanup(func() { close(done) })
			}},
		{name: "no response in time", change: quick, code: 504, host: "*",
			text: "504 Gateway Timeout: the upstream did not answer in time\n",
			setup: func(t *testing.T, s *site) {
				s.client("http://" + rawUpstream(t, func(_ int, c *wire) { c.discard() }))
			}},
		{name: "half a head in time", change: quick, code: 504, host: "*",
			text: "504 Gateway Timeout: the upstream did not answer in time\n",
			setup: func(t *testing.T, s *site) {
				s.client("http://" + rawUpstream(t, func(_ int, c *wire) {
					c.send("HTTP/1.1 200 OK\r\nContent-Le")
					c.discard()
				}))
			}},
		{name: "closed without an answer", code: 502, host: "*",
			text: "502 Bad Gateway: the upstream broke off before it answered\n",
			setup: func(t *testing.T, s *site) {
				s.client("http://" + rawUpstream(t, func(_ int, c *wire) { c.head() }))
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			if tt.change != nil {
				s = newSite(t, tt.change)
			}
			tt.setup(t, s)
			resp, body := s.get("http://a.example/x")
			if resp.StatusCode != tt.code || body != tt.text {
				t.Errorf("response is %d %q, want %d %q", resp.StatusCode, body, tt.code, tt.text)
			}
			if got := resp.Header.Get("Retry-After") != ""; got != tt.retry {
				t.Errorf("Retry-After is %q", resp.Header.Get("Retry-After"))
			}
			for name, want := range map[string]string{"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			s.wantCount(1, resp.Status[:3], tt.host, "GET")
		})
	}
}

func TestRefusalOfHEADHasNoBody(t *testing.T) {
	c := newSite(t).dial()
	c.send("HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n" + get)
	c.want("HEAD", 404, "")
	c.want("GET", 404, "404 Not Found: nothing is exposed under this host and path\n")
}

func TestRequestsThatAreNotServed(t *testing.T) {
	s := webSite(t, func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the upstream got %s %s", r.Method, r.RequestURI)
	})
	for _, tt := range []struct {
		name, request string
		code          int
	}{
		{"CONNECT", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 405},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		{"a method of HTTP/2", "GET / HTTP/2.0\r\nHost: a.example\r\n\r\n", 505},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", 400},
		{"a host twice", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n", 400},
		{"a list of hosts", "GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", 400},
		{"a user in the host", "GET / HTTP/1.1\r\nHost: user@a.example\r\n\r\n", 400},
		{"a path in the host", "GET / HTTP/1.1\r\nHost: a.example/x\r\n\r\n", 400},
		{"a port that is none", "GET / HTTP/1.1\r\nHost: a.example:http\r\n\r\n", 400},
		{"quotes in the target's host", "GET http://a\"b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		{"* with GET", "GET * HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		{"an opaque target", "GET http:path HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		{"another scheme", "GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		{"a target that is no path", "GET path HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		{"an expectation nobody knows", "GET / HTTP/1.1\r\nHost: a.example\r\nExpect: tea\r\n\r\n", 417},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := s.dial()
			c.send(tt.request)
			if resp, body := c.response("GET"); resp.StatusCode != tt.code {
				t.Errorf("response is %d %q, want %d", resp.StatusCode, body, tt.code)
			}
		})
	}
}

// Visitors of a service that is not there yet are told to come back, and get it once it is.
func TestWaiting(t *testing.T) {
	s := newSite(t)
	a := s.client("example.com=http://" + named(t, "a"))
	s.client("http://" + named(t, "default"))
	a.backends[0].SetWaiting(true)
	resp, body := s.get("http://example.com/")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "the service behind this host is not ready") {
		t.Errorf("%s %q %q", resp.Status, body, resp.Header)
	}
	s.wantCount(1, "503", "example.com", "GET")
	if _, body := s.get("http://elsewhere.test/"); body != "default" {
		t.Errorf("got %q", body)
	}
	b := s.client("example.com=http://" + named(t, "b"))
	v := s.visitor()
	for i := range 4 {
		resp, err := v.Get("http://example.com/")
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(t, resp); body != "b" {
			t.Errorf("visit %d: got %q", i, body)
		}
	}
	b.backends[0].SetWaiting(true) // also if there is a stream left over
	if resp, _ := s.get("http://example.com/"); resp.StatusCode != 503 {
		t.Errorf("got %s", resp.Status)
	}
	a.backends[0].SetWaiting(false)
	if _, body := s.get("http://example.com/"); body != "a" {
		t.Errorf("got %q", body)
	}
}
