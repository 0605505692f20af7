package edge

import (
	"io"
	"net/http"
	"testing"
)

// TestRedirect sends visitors to HTTPS. Each request is made twice on one connection: the second may take the fast path.
func TestRedirect(t *testing.T) {
	const line = "308 Permanent Redirect: this is served with HTTPS\n"
	all := func(string, bool) bool { return true }
	told := func(_ string, told bool) bool { return told }
	some := func(host string, _ bool) bool { return host == "some.test" || host == "[2001:db8::1]" }
	for _, tt := range []struct {
		name     string
		redirect func(string, bool) bool
		port     string
		trusted  bool
		request  string
		location string // "": served
	}{
		{"nobody", nil, "", false, "GET / HTTP/1.1\r\nHost: some.test\r\n\r\n", ""},
		{"everybody", all, "", false, "GET /a/../b//c%2fd?q=%41&r HTTP/1.1\r\nHost: Some.Test.\r\n\r\n", "https://some.test/a/../b//c%2fd?q=%41&r"},
		{"hosts with a certificate", some, "443", false, "GET / HTTP/1.1\r\nHost: some.test:80\r\n\r\n", "https://some.test/"},
		{"other hosts", some, "443", false, "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n", ""},
		{"from one port to another", some, "8443", false, "GET /x HTTP/1.1\r\nHost: some.test:8080\r\n\r\n", "https://some.test:8443/x"},
		{"from the usual port to the usual port", some, "8443", false, "GET /x HTTP/1.1\r\nHost: some.test\r\n\r\n", "https://some.test/x"},
		{"IPv6", some, "8443", false, "GET / HTTP/1.1\r\nHost: [2001:DB8::0:1]:80\r\n\r\n", "https://[2001:db8::1]:8443/"},
		{"IPv6 without a port", some, "8443", false, "GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n", "https://[2001:db8::1]/"},
		{"a method with a body", all, "", false, "POST /form HTTP/1.1\r\nHost: some.test\r\nContent-Length: 3\r\n\r\nabc", "https://some.test/form"},
		{"the whole URL", all, "", false, "GET http://some.test/x?y HTTP/1.1\r\nHost: some.test\r\n\r\n", "https://some.test/x?y"},
		{"all of the server", all, "", false, "OPTIONS * HTTP/1.1\r\nHost: some.test\r\n\r\n", ""},
		{"a path like a host", all, "", false, "GET //evil.test/ HTTP/1.1\r\nHost: some.test\r\n\r\n", "https://some.test//evil.test/"},
		{"who says so himself", all, "", false, "GET / HTTP/1.1\r\nHost: some.test\r\nX-Forwarded-Proto: https\r\n\r\n", "https://some.test/"},
		{"a proxy says HTTPS", all, "", true, "GET / HTTP/1.1\r\nHost: some.test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n", ""},
		{"a proxy says HTTP", told, "", true, "GET / HTTP/1.1\r\nHost: some.test\r\nX-Forwarded-Proto: http\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n", "https://some.test/"},
		{"a proxy says nothing", told, "", true, "GET / HTTP/1.1\r\nHost: some.test\r\n\r\n", ""},
		{"a proxy says HTTP, and the host", told, "8443", true, "GET / HTTP/1.1\r\nHost: inside:8000\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: some.test\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n", "https://some.test/"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, func(cfg *Config) {
				cfg.HTTPS = HTTPS{Redirect: tt.redirect, Port: tt.port, HSTS: "max-age=1"}
				if tt.trusted {
					if err := cfg.Trusted.Decode("127.0.0.1"); err != nil {
						t.Fatal(err)
					}
				}
			})
			s.client("http://" + httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(w, "in")
			}))
			for range 2 {
				c := s.dial()
				for range 2 {
					c.send(tt.request)
					if tt.location == "" {
						if resp, body := c.response("GET"); resp.StatusCode != 200 {
							t.Errorf("got %d %q, want to be served", resp.StatusCode, body)
						}
						continue
					}
					resp := c.want("GET", 308, line)
					if got := resp.Header.Get("Location"); got != tt.location || resp.Header.Get("Cache-Control") != "no-store" {
						t.Errorf("sent to %s (%s), want %s", got, resp.Header.Get("Cache-Control"), tt.location)
					}
					if len(resp.Header["Strict-Transport-Security"]) > 0 {
						t.Error("HSTS is sent without TLS")
					}
					if resp.Close {
						break
					}
				}
			}
		})
	}
}

// TestHSTS looks at responses over HTTPS, with each version and on either path.
func TestHSTS(t *testing.T) {
	const ours, theirs = "max-age=31536000; includeSubDomains", "max-age=0"
	s := tlsSite(t, httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/own":
			w.Header().Set("Strict-Transport-Security", theirs)
		case "/large":
			_, _ = w.Write(make([]byte, 200_000))
		}
		_, _ = io.WriteString(w, "in")
	}), func(cfg *Config) { cfg.HTTPS.HSTS = ours })
	check := func(resp *http.Response, want string) {
		t.Helper()
		if got := resp.Header["Strict-Transport-Security"]; len(got) != 1 || got[0] != want {
			t.Errorf("%s %s: %q, want %q", resp.Proto, resp.Status, got, want)
		}
	}
	c := s.dialTLS()
	for range 3 { // the first goes the long way
		for path, want := range map[string]string{"/": ours, "/own": theirs, "/large": ours} {
			c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
			resp, _ := c.response("GET")
			check(resp, want)
		}
	}
	c.send("GET / HTTP/1.1\r\nHost: ..\r\n\r\n") // an answer of our own
	resp, _ := c.response("GET")
	check(resp, ours)
	h2 := &http.Client{Transport: &http.Transport{TLSClientConfig: trusting.Clone(), ForceAttemptHTTP2: true}}
	defer h2.CloseIdleConnections()
	for path, want := range map[string]string{"/": ours, "/own": theirs} {
		resp, err := h2.Get("https://" + s.addr + path)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		if resp.ProtoMajor != 2 {
			t.Errorf("got %s", resp.Proto)
		}
		check(resp, want)
	}

	// A trusted proxy has TLS.
	s = newSite(t, func(cfg *Config) {
		cfg.HTTPS.HSTS = ours
		if err := cfg.Trusted.Decode("127.0.0.1"); err != nil {
			t.Fatal(err)
		}
	})
	s.client("http://" + httpUpstream(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "in") }))
	c = s.dial()
	for range 2 {
		c.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\r\n")
		check(c.want("GET", 200, "in"), ours)
		c.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: http\r\n\r\n")
		if resp := c.want("GET", 200, "in"); len(resp.Header["Strict-Transport-Security"]) > 0 {
			t.Error("HSTS is sent without TLS")
		}
	}
}
