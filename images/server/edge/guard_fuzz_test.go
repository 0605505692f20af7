package edge

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/route"
)

// framed is a request as one of the parsers saw it.
type framed struct {
	line string // of the request
	body string
}

// guardView returns the complete requests that a guard sees in input, and whether it has
// refused something behind them.
func guardView(input []byte) (requests []framed, err error) {
	var (
		g    guard
		line []byte
		cur  framed
	)
	for i := range input {
		before := g.state
		g.check(input[i : i+1])
		if g.err != nil {
			return requests, g.err
		}
		switch before {
		case guardStart:
			if line = append(line, input[i]); input[i] == '\n' {
				cur, line = framed{line: string(line[:len(line)-2])}, nil
			}
		case guardBody, guardChunk:
			cur.body += string(input[i : i+1])
		}
		if before != guardStart && g.state == guardStart {
			requests = append(requests, cur)
		}
	}
	return requests, nil
}

// fragments is a connection whose reads return pieces of all sizes.
type fragments struct {
	net.Conn
	rest []byte
	rand *rand.Rand
}

func (f *fragments) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		return 0, io.EOF
	}
	n := 1 + f.rand.IntN(1+f.rand.IntN(len(f.rest)))
	n = copy(p, f.rest[:n])
	f.rest = f.rest[n:]
	return n, nil
}

// serverView returns the requests that net/http sees behind a guard.
func serverView(input []byte, seed uint64) (requests []framed, guarded error) {
	e := new(Edge)
	e.heads.most.Store(maxHeads)
	c := &guardConn{Conn: &fragments{rest: input, rand: rand.New(rand.NewPCG(seed, 0))}, fast: fastConn{edge: e}}
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return requests, c.guard.err
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return requests, c.guard.err
		}
		requests = append(requests, framed{line: req.Method + " " + req.RequestURI + " " + req.Proto, body: string(body)})
		if req.ProtoMajor != 1 { // the server closes behind it
			return requests, c.guard.err
		}
		if req.Method == "POST" { // the server does so too
			peek, _ := r.Peek(4)
			_, _ = r.Discard(len(peek) - len(bytes.TrimLeft(peek, "\r\n")))
		}
	}
}

// FuzzGuard requires that whatever the guard lets pass is framed by net/http exactly as
// the guard thinks, however it arrives, and that nothing gets past what it refuses.
func FuzzGuard(f *testing.F) {
	for _, tt := range smuggling {
		f.Add([]byte(get+tt.request+get), uint64(1))
	}
	f.Add([]byte(lengthy+"\r\nhello"+coded+"\r\n"+chunks+"\r\n"+get), uint64(2))
	f.Add([]byte(coded+"Trailer: X\r\n\r\n5;x=\"y\"\r\nhello\r\n00\r\nX: y\r\n\r\n"+get), uint64(3))
	f.Add([]byte(lengthy+"\r\nhello"+"\r"+get), uint64(5))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), uint64(4))
	f.Fuzz(func(t *testing.T, input []byte, seed uint64) {
		if len(input) > 4<<10 {
			return
		}
		guard, refused := guardView(input)
		server, guarded := serverView(input, seed)
		if len(server) > len(guard) {
			t.Fatalf("net/http sees more requests than the guard:\n%q\n%q", server, guard)
		}
		for i, got := range server {
			if got != guard[i] {
				t.Fatalf("request %d is %q for net/http and %q for the guard", i, got, guard[i])
			}
		}
		if guarded != nil && guarded != refused {
			t.Fatalf("cut into pieces, the guard says %v, else %v", guarded, refused)
		}
	})
}

// FuzzGuardedHead is FuzzGuard for the fields of one head, which is where the framing is
// decided, without the rest to be guessed.
func FuzzGuardedHead(f *testing.F) {
	f.Add("Content-Length", "5", "Transfer-Encoding", "chunked", uint64(1))
	f.Add("content-length", "0", "X", "y", uint64(2))
	f.Add("TRANSFER-ENCODING", "\tchunked ", "Trailer", "X", uint64(3))
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string, seed uint64) {
		input := []byte(head + name1 + ":" + value1 + "\r\n" + name2 + ":" + value2 + "\r\n\r\n" + "5\r\nhello\r\n0\r\n\r\n" + get)
		guard, _ := guardView(input)
		server, _ := serverView(input, seed)
		for i, got := range server {
			if i >= len(guard) || got != guard[i] {
				t.Fatalf("net/http sees %q, the guard %q", server, guard)
			}
		}
	})
}

// FuzzRequestHead requires that an upstream reads in a head what the server has read: no
// field of a visitor becomes another, or the end of the head.
func FuzzRequestHead(f *testing.F) {
	f.Add("GET /a?b HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: x\r\nX: y\r\n\r\n")
	f.Add("POST http://a.example:80/%20 HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello")
	f.Add("PUT * HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nTE: trailers\r\n\r\n0\r\nX: y\r\n\r\n")
	f.Add("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	f.Add("GET / HTTP/1.1\r\nHost: a\r\nFly-Client-IP: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6:80,[::1]:80\r\n\r\n")
	e := fuzzedConn().fast.edge
	f.Fuzz(func(t *testing.T, input string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(input)))
		if err != nil || r.ProtoMajor != 1 || !isTarget(r) {
			return
		}
		if _, err := routing.CleanHost(r.Host); err != nil {
			return
		}
		for name, values := range r.Header { // as the server does
			for _, value := range values {
				if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
					return
				}
			}
		}
		r.RemoteAddr = "10.1.2.3:4567"
		v := e.visitorOf(r, false)
		head := appendHead(nil, r, &v, changes{upgrade: upgradeOf(r), rules: &noRules})
		if n := bytes.Count(head, []byte("\r\n\r\n")); n != 1 || !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			t.Fatalf("%d ends in the head %q", n, head)
		}
		var g guard
		if g.check(head); g.err != nil {
			t.Fatalf("our own guard refuses %q: %v", head, g.err)
		}
		got, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if err != nil {
			t.Fatalf("%v in %q", err, head)
		}
		if got.Method != r.Method || got.Host != r.Host || got.ContentLength != r.ContentLength || cleanPath(got.URL.Path) != cleanPath(r.URL.Path) || got.URL.RawQuery != r.URL.RawQuery {
			t.Fatalf("%q became %q", input, head)
		}
		for name := range got.Header {
			if ours := len(got.Header[name]) == 1 && isForwarding(name); !ours && name != "Te" && len(got.Header[name]) != len(r.Header[name]) {
				t.Fatalf("%s is %q in %q", name, got.Header[name], head)
			}
		}
	})
}

// FuzzFind takes any path: one that is not refused leads to the same route however it is escaped once more, and with
// or without its dots.
func FuzzFind(f *testing.F) {
	for _, p := range []string{"/public/../admin", "/public/..;/admin", `/public\..\admin`, "/public/%2e%2e/admin", "//public", "/public;x/./y", "*", ""} {
		f.Add(p)
	}
	e := &Edge{table: new(routing.Table)}
	var backends []*routing.Backend
	for _, text := range []string{"http://a", "a.test=http://a", "a.test/public=http://a", "a.test/public/api=http://a"} {
		u, err := route.Parse(text)
		if err != nil {
			f.Fatal(err)
		}
		backends = append(backends, &routing.Backend{Upstream: u})
	}
	if err := e.table.Add(backends); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, p string) {
		found, sure := e.find("a.test", p)
		if !sure {
			if !odd(p) || found != nil {
				t.Fatalf("%q is refused, %v", p, found)
			}
			return
		}
		for _, other := range []string{cleanPath(p), strings.NewReplacer("%2e", ".", "%2f", "/").Replace(p), path.Clean("/" + strings.ReplaceAll(p, `\`, "/"))} {
			if got := e.table.Match("a.test", cleanPath(other)); got != found {
				t.Fatalf("%q leads to %s, and %q to %s", p, found.Name(), other, got.Name())
			}
		}
	})
}
