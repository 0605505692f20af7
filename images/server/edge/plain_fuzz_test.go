package edge

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/adit-tunnel/adit/images/server/routing"
)

// addrConn is a connection that has nothing but the visitor's address.
type addrConn struct {
	net.Conn
	addr string
}

func (c addrConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.addr), 4567))
}

// fuzzedConn is a connection of a trusted proxy on the fast path.
func fuzzedConn() *guardConn { return fuzzedConnOf("10.0.0.0/8", "10.1.2.3") }

// fuzzedConnOf is one from an address to an edge that trusts these proxies.
func fuzzedConnOf(trusted, addr string) *guardConn {
	e := &Edge{table: new(routing.Table)}
	if err := e.trusted.Decode(trusted); err != nil {
		panic(err)
	}
	return &guardConn{Conn: addrConn{addr: addr}, fast: fastConn{edge: e, gate: newGate()}}
}

// headOf reads a request that an upstream gets.
func headOf(t *testing.T, text []byte) (*http.Request, string) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
	if err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("%v in the body of %q", err, text)
	}
	return r, string(body)
}

// FuzzPlainRequest requires that whatever request the fast path takes the guard and the
// HTTP server take too, and that the upstream reads the same, whichever way it goes.
func FuzzPlainRequest(f *testing.F) {
	f.Add([]byte(get))
	f.Add([]byte(lengthy + "\r\nhello" + get))
	for _, tt := range smuggling {
		f.Add([]byte(tt.request))
	}
	for _, line := range []string{
		"GET /a/../b?c=%20 HTTP/1.1", "OPTIONS //x HTTP/1.1", "POST / HTTP/1.1", "GET /%61 HTTP/1.1", "GET /#x? HTTP/1.1", "GET  / HTTP/1.1",
		"GET / HTTP/1.0", "get / HTTP/1.1", "DELETE http://x/ HTTP/1.1",
	} {
		for _, fields := range []string{
			"Connection: keep-alive\r\nKeep-Alive: 5\r\nX: y\r\nx: z", "Connection: close\r\nClose: x", "Content-Length: 0", "Content-Length: 05",
			"X-Forwarded-For: 6.6.6.6\r\nX-Real-Ip: 7.7.7.7\r\nx-forwarded-FOR: 10.0.0.1", "X_Forwarded_For: 6.6.6.6", "Forwarded: for=x\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b",
			"X-Forwarded-Proto:\r\nX-Forwarded-Proto: https", "TE: trailers", "Upgrade: websocket\r\nConnection: Upgrade", "Pragma: no-cache", "A :b", "A:\x80\t", "A: b\r\n c",
			"Fly-Client-IP: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6, 7.7.7.7", "FLY-client-IP: 6.6.6.6\r\nfly-client-ip: 7.7.7.7", "fly_client_ip: 6.6.6.6\r\nCf-Connecting-Ip:",
			"CF-Connecting-IP: 2001:db8::1\r\nTrue-Client-IP: 6.6.6.6\r\nX-Client-IP: 6.6.6.6", "X-Forwarded-For: 6.6.6.6, 7.7.7.7\r\nCloudFront-Viewer-Address: 7.7.7.7:80",
			"Host: b", "Cookie: a=b\r\nCookie: c=d", "Proxy-Authorization: x\r\nAuthorization: y", "Authorization: y", "A: b\r\nAUTHORIZATION:\r\nC: d", "Authorization: y\r\nauthorization: z", ":", "A", "A:\x00", "Date: x\r\nContent-Type: y", "X-Forwarded-: y\r\nXx: y\r\nF: x",
		} {
			f.Add([]byte(line + "\r\nHost: a.Example:80\r\n" + fields + "\r\n\r\n"))
		}
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		c := fuzzedConn()
		q := &c.fast.request
		if !q.parse(input) {
			return
		}
		c.match()
		if c.fast.host != string(q.host) { // refused by match
			return
		}
		size := len(q.head) + len(q.body)
		var g guard
		if g.check(input[:size]); g.err != nil || !g.between() {
			t.Fatalf("the guard says %v, and %v for the end of %q", g.err, g.between(), input[:size])
		}
		r, body := headOf(t, input[:size])
		if r.ProtoMajor != 1 || r.ProtoMinor != 1 || !isTarget(r) || !httpguts.ValidHostHeader(r.Host) || upgradeOf(r) != "" || r.Close != q.close {
			t.Fatalf("%q is not plain for the server, or ends the connection: %v", input, r.Close)
		}
		for name, values := range r.Header { // as the server does
			for _, value := range values {
				if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
					t.Fatalf("the server refuses %q: %q in %q", name, value, input)
				}
			}
		}
		if clean, err := routing.CleanHost(r.Host); err != nil || clean != c.fast.clean || r.Method != q.method || cleanPath(r.URL.Path) != cleanPath(string(q.path)) {
			t.Fatalf("the fast path sees %s %q of %q, the server %s %q of %q", q.method, q.path, c.fast.clean, r.Method, r.URL.Path, clean)
		}
		if q.replayable() != isReplayable(r) {
			t.Fatalf("may %q go again?", input)
		}
		for trusted, addr := range map[string]string{"10.0.0.0/8": "10.1.2.3", "fly": "172.16.1.2", "cloudflare": "104.16.1.2", "cloudfront,alb": "130.176.1.2", "heroku": "8.8.8.8"} {
			c := fuzzedConnOf(trusted, addr)
			c.fast.request.parse(input)
			c.match()
			r.RemoteAddr = c.RemoteAddr().String()
			v := c.fast.edge.visitorOf(r, false)
			c.fast.strips = len(input)%2 == 0
			want, _ := headOf(t, append(appendHead(nil, r, &v, changes{rules: &noRules, strip: c.fast.strips}), body...))
			got, gotBody := headOf(t, c.appendRequest(nil, ""))
			if gotBody != body || got.Method != want.Method || got.RequestURI != want.RequestURI || got.Host != want.Host ||
				got.ContentLength != want.ContentLength || !reflect.DeepEqual(got.Header, want.Header) {
				t.Fatalf("with %s the upstream gets\n%q\n%v\nthe long way\n%q\n%v", trusted, gotBody, got.Header, body, want.Header)
			}
		}
	})
}

// FuzzPlainResponse requires that whatever response the fast path takes package net/http
// reads in the same way, and that the visitor gets the same, whichever way it goes.
func FuzzPlainResponse(f *testing.F) {
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, body := range []string{
		"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "5;x\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\nX: y\r\n\r\n", "05\r\nhello\r\n00\r\n\r\n", "5\nhello\r\n0\r\n\r\n",
		"5 \r\nhello\r\n0\r\n\r\n", "-5\r\nhello\r\n0\r\n\r\n", "A\r\n0123456789\r\n0\r\n\r\nHTTP/1.1", "ffffffffffff\r\n", "5\r\nhelloxx0\r\n\r\n",
	} {
		f.Add([]byte(chunked + body))
	}
	for _, line := range []string{"HTTP/1.1 200 OK", "HTTP/1.1 404", "HTTP/1.1 204 x", "HTTP/1.1 304 Not Modified", "HTTP/1.1 999 x", "HTTP/1.0 200 OK", "HTTP/1.1 101 x", "HTTP/1.1  200", "HTTP/1.1 2000", "HTTP/1.1 500 \x80"} {
		for _, fields := range []string{
			"Content-Length: 5", "Content-Length: 5\r\nContent-Length: 5", "content-length:5\r\nDATE: x\r\nConnection: Keep-Alive\r\nKeep-Alive: y", "Connection: close\r\nContent-Length: 5",
			"ETag: x", "Content-Type: a\r\ncontent-type: b\r\nContent-Length: 5", "Pragma: no-cache\r\nContent-Length: 5", "Trailer: X\r\nContent-Length: 5", "Content-Length: 5\r\nTransfer-Encoding: chunked",
			"Set-Cookie: a\r\nset-cookie: b\r\nContent-Length: 5\r\nX-Forwarded-For: z\r\nHost: h", "Upgrade: h2c\r\nContent-Length: 5", "Content-Length: 5\r\n x: y", "Content-Length: +5", "Date:\r\nContent-Length: 5\r\nProxy-Authenticate: x",
		} {
			f.Add([]byte(line + "\r\n" + fields + "\r\n\r\nhello"))
		}
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		c := fuzzedConn()
		p := &c.fast.response
		if p.parse(input) != complete || p.bodyOf(input[p.size:]) != complete {
			return
		}
		br := bufio.NewReader(bytes.NewReader(input))
		r, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("%v in %q", err, input)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || br.Buffered() > 0 || r.Close || len(r.Trailer) > 0 || r.StatusCode != p.code {
			t.Fatalf("%v, %d bytes behind, close %v, trailers %v, status %d in %q", err, br.Buffered(), r.Close, r.Trailer, r.StatusCode, input)
		}
		sent := c.rewrite(append(make([]byte, fastRoom), input...))
		if sent == nil {
			return
		}
		br = bufio.NewReader(bytes.NewReader(sent))
		got, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("%v in %q", err, sent)
		}
		gotBody, err := io.ReadAll(got.Body)
		if err != nil || br.Buffered() > 0 || got.Close || len(got.Trailer) > 0 || !bytes.Equal(body, gotBody) || got.Status != fmt.Sprint(p.code, " ", http.StatusText(p.code)) {
			t.Fatalf("%q became %q", input, sent)
		}
		// What the server does to the fields of a handler.
		want := http.Header{}
		copyHeader(want, r.Header)
		if want["Content-Type"] == nil || p.code == http.StatusNotModified {
			delete(want, "Content-Type")
		}
		if len(want["Date"]) == 0 {
			want["Date"] = got.Header["Date"]
		}
		if !reflect.DeepEqual(got.Header, want) {
			t.Fatalf("the visitor gets\n%v\nthe long way\n%v", got.Header, want)
		}
	})
}

// The parsers of plain heads must not look behind what they are given.
func TestPlainCut(t *testing.T) {
	request := "POST /a HTTP/1.1\r\nHost: a\r\nX:\r\nContent-Length: 5\r\n\r\nhello"
	response := "HTTP/1.1 200 OK\r\nX:\r\nContent-Length: 5\r\n\r\nhello"
	chunked := "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
	for n := range len(request) {
		if new(plainRequest).parse([]byte(request)[:n:n]) {
			t.Errorf("%q is taken for a request", request[:n])
		}
	}
	if !new(plainRequest).parse([]byte(request + strings.Repeat("x", 10))) {
		t.Error("a request is not taken")
	}
	for _, text := range []string{response, chunked} {
		for n := range len(text) + 1 {
			var p plainResponse
			b := []byte(text)[:n:n]
			state := p.parse(b)
			if state == complete {
				state = p.bodyOf(b[p.size:])
			}
			if want := map[bool]completeness{false: partial, true: complete}[n == len(text)]; state != want {
				t.Errorf("%q is %d, want %d", b, state, want)
			}
		}
	}
}
