package edge

import (
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// exchangeHeads sends a request and returns the head that the upstream got, without its
// end, and the response's.
func exchangeHeads(t *testing.T, s *site, request string, heads <-chan string) string {
	t.Helper()
	c := s.dial()
	c.send(request)
	c.want("GET", 200, "hello")
	return <-heads
}

// headSite is a site whose upstream keeps the heads that it gets.
func headSite(t *testing.T, upstream string, change ...func(*Config)) (*site, <-chan string) {
	heads := make(chan string, 16)
	s := newSite(t, change...)
	address := rawUpstream(t, func(_ int, c *wire) {
		for head := c.head(); head != ""; head = c.head() {
			heads <- head
			c.send(hello)
		}
	})
	s.client(strings.ReplaceAll(upstream, "ADDRESS", address))
	return s, heads
}

func TestRequestHead(t *testing.T) {
	s, heads := headSite(t, "http://ADDRESS")
	rewriting, rewritten := headSite(t, "http://ADDRESS?host=inner.example:81")
	for _, tt := range []struct {
		name, request string
		rewrite       bool
		line          string
		want          map[string][]string // of these fields
	}{
		{name: "as it is", request: "GET /a%2Fb/../c;d?e=%zz&f HTTP/1.1\r\nHost: A.example:8000\r\naCCept: x\r\nAccept: y\r\nX-Empty:\r\n\r\n",
			line: "GET /a%2Fb/../c;d?e=%zz&f HTTP/1.1",
			want: map[string][]string{"Host": {"A.example:8000"}, "Accept": {"x", "y"}, "X-Empty": {""}, "User-Agent": nil,
				"Accept-Encoding": nil, "Content-Length": nil, "Transfer-Encoding": nil, "Connection": nil}},
		{name: "absolute form", request: "GET http://b.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n", line: "GET /x?y HTTP/1.1",
			want: map[string][]string{"Host": {"b.example"}, "X-Forwarded-Host": {"b.example"}}},
		{name: "HTTP/1.0", request: "GET /x HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n", line: "GET /x HTTP/1.1",
			want: map[string][]string{"Host": {"a.example"}, "Connection": nil}},
		{name: "*", request: "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", line: "OPTIONS * HTTP/1.1"},
		{name: "host rewritten", rewrite: true, request: get, line: "GET / HTTP/1.1",
			want: map[string][]string{"Host": {"inner.example:81"}, "X-Forwarded-Host": {"a.example"}}},
		{name: "what ends at this hop", request: "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close, x-mine ,TE\r\nX-Mine: 1\r\n" +
			"Keep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: gzip, trailers;q=1\r\nTrailer: x\r\n" +
			"HTTP2-Settings: x\r\nUpgrade: h2c\r\nX-Stays: 1\r\n\r\n", line: "GET / HTTP/1.1",
			want: map[string][]string{"X-Mine": nil, "Keep-Alive": nil, "Proxy-Connection": nil, "Proxy-Authorization": nil, "TE": nil,
				"Trailer": nil, "HTTP2-Settings": nil, "Upgrade": nil, "Connection": nil, "X-Stays": {"1"}}},
		{name: "trailers are welcome", request: "GET / HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\n\r\n", line: "GET / HTTP/1.1",
			want: map[string][]string{"TE": {"trailers"}, "Connection": {"TE"}}},
		{name: "h2c is not passed on", line: "GET / HTTP/1.1",
			request: "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
			want:    map[string][]string{"Upgrade": nil, "Connection": nil, "HTTP2-Settings": nil}},
		{name: "an upgrade that is not in Connection", request: "GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\r\n",
			line: "GET / HTTP/1.1", want: map[string][]string{"Upgrade": nil, "Connection": nil}},
		{name: "an upgrade with HTTP/1.0", request: "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
			line: "GET / HTTP/1.1", want: map[string][]string{"Upgrade": nil, "Connection": nil}},
		{name: "an upgrade with a body", line: "GET / HTTP/1.1",
			request: "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
			want:    map[string][]string{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Content-Length": {"0"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			site, got := s, heads
			if tt.rewrite {
				site, got = rewriting, rewritten
			}
			head := exchangeHeads(t, site, tt.request, got)
			if line, _, _ := strings.Cut(head, "\r\n"); line != tt.line {
				t.Errorf("the upstream got %q, want %q", line, tt.line)
			}
			wantFields(t, head, tt.want)
		})
	}
}

func wantFields(t *testing.T, head string, want map[string][]string) {
	t.Helper()
	for name, values := range want {
		if got := field(head, name); !slices.Equal(got, values) {
			t.Errorf("%s is %q, want %q", name, got, values)
		}
	}
}

// forged is what a visitor may send to seem to be someone else.
const forged = "X-Forwarded-For: 6.6.6.6\r\nx_forwarded_for: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\n" +
	"Forwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 666\r\n" +
	"X-FORWARDED-PREFIX: /evil\r\nX_FORWARDED_HOST: evil.example\r\n" +
	"Fly-Client-IP: 6.6.6.6\r\nCF-Connecting-IP: 6.6.6.6\r\nCF_CONNECTING_IP: 6.6.6.6\r\nTrue-Client-IP: 6.6.6.6\r\nX-Client-IP: 6.6.6.6\r\n" +
	"CloudFront-Viewer-Address: 6.6.6.6:666\r\nX-Cluster-Client-IP: 6.6.6.6\r\nClient-IP: 6.6.6.6\r\nX-Original-Forwarded-For: 6.6.6.6\r\n"

func TestForgedForwardingFieldsAreDropped(t *testing.T) {
	s, heads := headSite(t, "http://ADDRESS")
	head := exchangeHeads(t, s, "GET / HTTP/1.1\r\nHost: a.example\r\n"+forged+"\r\n", heads)
	for _, evil := range []string{"6.6.6.6", "evil", "666", "https"} {
		if strings.Contains(head, evil) {
			t.Errorf("the upstream got %q:\n%s", evil, head)
		}
	}
	wantFields(t, head, map[string][]string{
		"X-Forwarded-For": {"127.0.0.1"}, "X-Real-IP": {"127.0.0.1"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"a.example"},
		"Forwarded": {`for=127.0.0.1;host="a.example";proto=http`},
	})
}

// trustProxies has these proxies be trusted.
func trustProxies(proxies string) func(*Config) {
	return func(cfg *Config) {
		if err := cfg.Trusted.Decode(proxies); err != nil {
			panic(err)
		}
	}
}

// fromListener accepts connections that seem to come from an address.
type fromListener struct {
	net.Listener
	addr string
}

func (l fromListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return fromConn{c, l.addr}, err
}

type fromConn struct {
	net.Conn
	addr string
}

func (c fromConn) RemoteAddr() net.Addr { return addrConn{addr: c.addr}.RemoteAddr() }

// Each platform's proxy is believed in its own fields, and the visitor who came through it
// in none, on the long way and on the fast path. The fields of platforms reach the upstream
// only where they were believed.
func TestPresets(t *testing.T) {
	const forged = "X-Forwarded-Host: evil.example\r\nTrue-Client-IP: 6.6.6.6\r\nX-Client-IP: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n"
	for _, tt := range []struct {
		name, trusted, peer string
		fields              string
		real, chain, proto  string
		own                 map[string][]string
	}{
		{"fly", "fly", "172.16.1.2", forged + "X-Forwarded-For: 6.6.6.6, 203.0.113.7, 2a09:8280:1::1\r\nFly-Client-IP: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nCF-Connecting-IP: 6.6.6.6\r\n",
			"203.0.113.7", "203.0.113.7, 172.16.1.2", "https", map[string][]string{"Fly-Client-IP": {"203.0.113.7"}, "CF-Connecting-IP": nil}},
		{"heroku", "heroku", "10.1.2.3", forged + "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nX-Forwarded-Proto: https\r\nFly-Client-IP: 6.6.6.6\r\nCF-Connecting-IP: 6.6.6.6\r\n",
			"203.0.113.7", "203.0.113.7, 10.1.2.3", "https", map[string][]string{"Fly-Client-IP": nil, "CF-Connecting-IP": nil}},
		{"alb", "alb", "172.31.2.3", forged + "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.7:4711\r\nX-Forwarded-Proto: https\r\nFly-Client-IP: 6.6.6.6\r\n",
			"203.0.113.7", "203.0.113.7, 172.31.2.3", "https", map[string][]string{"Fly-Client-IP": nil}},
		{"cloudflare", "cloudflare", "2400:cb00::1", forged + "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nCF-Connecting-IP: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nFly-Client-IP: 6.6.6.6\r\n",
			"203.0.113.7", "203.0.113.7, 2400:cb00::1", "https", map[string][]string{"Fly-Client-IP": nil, "CF-Connecting-IP": {"203.0.113.7"}}},
		{"cloudfront", "cloudfront", "130.176.1.2", forged + "X-Forwarded-For: 6.6.6.6, 2a00::7\r\nCloudFront-Viewer-Address: 2a00::7:4711\r\nX-Forwarded-Proto: https\r\nCF-Connecting-IP: 6.6.6.6\r\n",
			"2a00::7", "2a00::7, 130.176.1.2", "http", map[string][]string{"CloudFront-Viewer-Address": {"2a00::7:4711"}, "CF-Connecting-IP": nil}},
		{"fly, past the proxy", "fly", "203.0.113.7", forged + "X-Forwarded-For: 6.6.6.6\r\nFly-Client-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n",
			"203.0.113.7", "203.0.113.7", "http", map[string][]string{"Fly-Client-IP": nil}},
		{"cloudflare, past the proxy", "cloudflare,cloudfront,heroku", "203.0.113.7", forged + "X-Forwarded-For: 6.6.6.6\r\nCF-Connecting-IP: 6.6.6.6\r\nCloudFront-Viewer-Address: 6.6.6.6:1\r\n",
			"203.0.113.7", "203.0.113.7", "http", map[string][]string{"CF-Connecting-IP": nil, "CloudFront-Viewer-Address": nil}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			heads := make(chan string, 1)
			s := newSiteOn(t, fromListener{l, tt.peer}, false, trustProxies(tt.trusted))
			s.client("http://" + rawUpstream(t, func(_ int, c *wire) {
				for head := c.head(); head != ""; head = c.head() {
					heads <- head
					c.send(hello)
				}
			}))
			c := s.dial()
			for range 3 {
				c.send("GET / HTTP/1.1\r\nHost: a.example\r\n" + tt.fields + "\r\n")
				c.want("GET", 200, "hello")
				head := <-heads
				if strings.Contains(head, "6.6.6.6") || strings.Contains(head, "evil") {
					t.Errorf("the upstream got what is forged:\n%s", head)
				}
				node := tt.real
				if strings.Contains(node, ":") {
					node = `"[` + node + `]"`
				}
				wantFields(t, head, map[string][]string{"X-Forwarded-For": {tt.chain}, "X-Real-IP": {tt.real}, "X-Forwarded-Proto": {tt.proto}, "X-Forwarded-Host": {"a.example"},
					"Forwarded": {"for=" + node + `;host="a.example";proto=` + tt.proto}})
				wantFields(t, head, tt.own)
			}
		})
	}
}

// An upstream that wants a PROXY header learns the port, too, where a proxy tells it.
func TestPresetAddress(t *testing.T) {
	e := fuzzedConnOf("alb", "").fast.edge
	for fields, want := range map[string]string{"203.0.113.7:4711": "203.0.113.7:4711", "203.0.113.7": "203.0.113.7:0", "": "172.31.2.3:80"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "172.31.2.3:80"
		r.Header.Set("X-Forwarded-For", fields)
		if got := e.Address(r); got != want {
			t.Errorf("%q: got %s, want %s", fields, got, want)
		}
	}
}

func TestTrustedProxies(t *testing.T) {
	s, heads := headSite(t, "http://ADDRESS", trustProxies("127.0.0.0/8,10.0.0.0/8,2001:db8:1::/48"))
	for _, tt := range []struct {
		name, fields         string
		chain, real, forward string
		host, proto          string
	}{
		{"the proxy says nothing", "", "127.0.0.1", "127.0.0.1", `for=127.0.0.1;host="a.example";proto=http`, "a.example", "http"},
		{"one hop", "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b.example\r\n",
			"1.2.3.4, 127.0.0.1", "1.2.3.4", `for=1.2.3.4;host="b.example";proto=https`, "b.example", "https"},
		{"hearsay", "X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.1\r\n",
			"1.2.3.4, 10.0.0.1, 127.0.0.1", "1.2.3.4", `for=1.2.3.4;host="a.example";proto=http`, "a.example", "http"},
		{"several lines", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 10.0.0.1\r\n",
			"1.2.3.4, 10.0.0.1, 127.0.0.1", "1.2.3.4", `for=1.2.3.4;host="a.example";proto=http`, "a.example", "http"},
		{"nonsense", "X-Forwarded-For: 1.2.3.4, unknown, 10.0.0.1\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Host: b/c\r\n",
			"10.0.0.1, 127.0.0.1", "10.0.0.1", `for=10.0.0.1;host="a.example";proto=http`, "a.example", "http"},
		{"IPv6", "X-Forwarded-For: 2001:db8::1, 2001:db8:1::1\r\n",
			"2001:db8::1, 2001:db8:1::1, 127.0.0.1", "2001:db8::1", `for="[2001:db8::1]";host="a.example";proto=http`, "a.example", "http"},
		{"a zone that is not one", "X-Forwarded-For: fe80::1%\";host=evil, 10.0.0.1\r\n",
			"fe80::1, 10.0.0.1, 127.0.0.1", "fe80::1", `for="[fe80::1]";host="a.example";proto=http`, "a.example", "http"},
		{"IPv4 in IPv6", "X-Forwarded-For: 1.2.3.4, ::ffff:10.0.0.1\r\n",
			"1.2.3.4, 10.0.0.1, 127.0.0.1", "1.2.3.4", `for=1.2.3.4;host="a.example";proto=http`, "a.example", "http"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			head := exchangeHeads(t, s, "GET / HTTP/1.1\r\nHost: a.example\r\n"+tt.fields+"X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\r\n", heads)
			wantFields(t, head, map[string][]string{"X-Forwarded-For": {tt.chain}, "X-Real-IP": {tt.real}, "Forwarded": {tt.forward},
				"X-Forwarded-Host": {tt.host}, "X-Forwarded-Proto": {tt.proto}, "Host": {"a.example"}})
		})
	}
}

func TestResponseHead(t *testing.T) {
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		c.send("HTTP/1.1 299 Fine\r\nContent-Length: 2\r\nX-A: 1\r\nx-a: 2\r\nConnection: x-mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n" +
			"Proxy-Authenticate: x\r\nUpgrade: x\r\nServer: upstream\r\nDate: yesterday\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nok")
		c.discard()
	})
	c := s.dial()
	c.send(get)
	head := c.head()
	if want := "HTTP/1.1 299 status code 299\r\n"; !strings.HasPrefix(head, want) {
		t.Errorf("the visitor got %q, want %q", head, want)
	}
	wantFields(t, head, map[string][]string{"Content-Length": {"2"}, "X-A": {"1", "2"}, "Connection": nil, "X-Mine": nil, "Keep-Alive": nil,
		"Proxy-Authenticate": nil, "Upgrade": nil, "Server": {"upstream"}, "Date": {"yesterday"}, "Set-Cookie": {"a", "b"},
		"Content-Type": nil, "Transfer-Encoding": nil})
	if body := c.bytes(2); body != "ok" {
		t.Errorf("body is %q", body)
	}
	s.wantCount(1, "299", "*", "GET")
}
