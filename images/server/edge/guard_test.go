package edge

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

const (
	head    = "POST / HTTP/1.1\r\nHost: a.example\r\n"
	chunks  = "5\r\nhello\r\n0\r\n\r\n"
	coded   = head + "Transfer-Encoding: chunked\r\n"
	lengthy = head + "Content-Length: 5\r\n"
)

// smuggling are requests that two servers may read in two ways, or that are just wrong.
var smuggling = []struct{ name, request string }{
	{"two lengths", lengthy + "Content-Length: 6\r\n\r\nhello!"},
	{"the same length twice", lengthy + "Content-Length: 5\r\n\r\nhello"},
	{"a list of lengths", head + "Content-Length: 5, 5\r\n\r\nhello"},
	{"a length with a sign", head + "Content-Length: +5\r\n\r\nhello"},
	{"a negative length", head + "Content-Length: -5\r\n\r\nhello"},
	{"a length in hex", head + "Content-Length: 0x5\r\n\r\nhello"},
	{"a length with an underscore", head + "Content-Length: 1_0\r\n\r\nhellohello"},
	{"an empty length", head + "Content-Length: \r\n\r\n"},
	{"a length with something behind", head + "Content-Length: 5 x\r\n\r\nhello"},
	{"a length that overflows", head + "Content-Length: 18446744073709551621\r\n\r\nhello"},
	{"a length with a vertical tab", head + "Content-Length: \x0b5\r\n\r\nhello"},
	{"length and coding", lengthy + "Transfer-Encoding: chunked\r\n\r\n" + chunks},
	{"coding and length", coded + "Content-Length: 5\r\n\r\n" + chunks},
	{"an empty length and a coding", coded + "Content-Length:\r\n\r\n" + chunks},
	{"another coding", head + "Transfer-Encoding: gzip\r\n\r\nhello"},
	{"a list of codings", head + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks},
	{"two codings", coded + "Transfer-Encoding: chunked\r\n\r\n" + chunks},
	{"a coding and identity", coded + "Transfer-Encoding: identity\r\n\r\n" + chunks},
	{"identity", head + "Transfer-Encoding: identity\r\n\r\n"},
	{"an empty coding", head + "Transfer-Encoding:\r\n\r\n"},
	{"a quoted coding", head + "Transfer-Encoding: \"chunked\"\r\n\r\n" + chunks},
	{"a coding with a parameter", head + "Transfer-Encoding: chunked;x=y\r\n\r\n" + chunks},
	{"a coding behind a vertical tab", head + "Transfer-Encoding: \x0bchunked\r\n\r\n" + chunks},
	{"a coding with a Kelvin sign", head + "Transfer-Encoding: chun\u212aed\r\n\r\n" + chunks},
	{"a coding behind a comma", head + "Transfer-Encoding: ,chunked\r\n\r\n" + chunks},
	{"a folded coding", head + "Transfer-Encoding:\r\n chunked\r\n\r\n" + chunks},
	{"a coding with HTTP/1.0", strings.Replace(coded, "1.1", "1.0", 1) + "\r\n" + chunks},
	{"a coding with HTTP/1.2", strings.Replace(coded, "1.1", "1.2", 1) + "\r\n" + chunks},
	{"space before the colon of a coding", head + "Transfer-Encoding : chunked\r\n\r\n" + chunks},
	{"space before the colon of a length", head + "Content-Length : 5\r\n\r\nhello"},
	{"space in a name", head + "Bad Name: x\r\n\r\n"},
	{"a name that is empty", head + ": x\r\n\r\n"},
	{"a field without a colon", head + "nonsense\r\n\r\n"},
	{"a folded field", head + "X: a\r\n b\r\n\r\n"},
	{"a field folded by a tab", head + "X: a\r\n\tb\r\n\r\n"},
	{"space before the first field", "GET / HTTP/1.1\r\n Host: a.example\r\n\r\n"},
	{"a bare LF behind a field", head + "X: y\n\r\n"},
	{"a bare LF behind the request line", "GET / HTTP/1.1\nHost: a.example\r\n\r\n"},
	{"a bare LF as the empty line", head + "\n"},
	{"nothing but bare LF", "GET / HTTP/1.1\nHost: a.example\n\n"},
	{"a bare CR in a value", head + "X: a\rTransfer-Encoding: chunked\r\n\r\n"},
	{"CR CR LF", head + "X: a\r\r\n\r\n"},
	{"CR before the request line", "\r" + get},
	{"a NUL in a value", head + "X: a\x00b\r\n\r\n"},
	{"a NUL in a name", head + "X\x00: b\r\n\r\n"},
	{"a control character in the target", "GET /\x01 HTTP/1.1\r\nHost: a.example\r\n\r\n"},
	{"space in the target", "GET /a b HTTP/1.1\r\nHost: a.example\r\n\r\n"},
	{"no version", "GET /\r\nHost: a.example\r\n\r\n"},
	{"a version that is none", "GET / HTTP/1.1x\r\nHost: a.example\r\n\r\n"},
	{"a version in small letters", "GET / http/1.1\r\nHost: a.example\r\n\r\n"},
	{"a method that is none", "G@T / HTTP/1.1\r\nHost: a.example\r\n\r\n"},
	{"an empty line before it", "\r\n" + get},
	{"a chunk size that is none", coded + "\r\nx\r\nhello\r\n0\r\n\r\n"},
	{"an empty chunk size", coded + "\r\n\r\nhello\r\n0\r\n\r\n"},
	{"a chunk size with a sign", coded + "\r\n+5\r\nhello\r\n0\r\n\r\n"},
	{"a chunk size with 0x", coded + "\r\n0x5\r\nhello\r\n0\r\n\r\n"},
	{"a chunk size that overflows", coded + "\r\n10000000000000005\r\nhello\r\n0\r\n\r\n"},
	{"a chunk size behind space", coded + "\r\n 5\r\nhello\r\n0\r\n\r\n"},
	{"a chunk size before a bare LF", coded + "\r\n5\nhello\r\n0\r\n\r\n"},
	{"an extension before a bare LF", coded + "\r\n5;x\nhello\r\n0\r\n\r\n"},
	{"a bare CR in an extension", coded + "\r\n5;x\ry\r\nhello\r\n0\r\n\r\n"},
	{"a chunk without its end", coded + "\r\n5\r\nhelloX\r\n0\r\n\r\n"},
	{"a bare LF behind a chunk", coded + "\r\n5\r\nhello\n0\r\n\r\n"},
	{"a bare LF behind the last chunk", coded + "\r\n5\r\nhello\r\n0\n\r\n"},
	{"a bare LF as the end of trailers", coded + "\r\n5\r\nhello\r\n0\r\n\n"},
	{"a bare LF behind a trailer", coded + "\r\n5\r\nhello\r\n0\r\nX: y\n\r\n"},
	{"a bare CR in a trailer", coded + "\r\n5\r\nhello\r\n0\r\nX: y\rz\r\n\r\n"},
	{"a trailer in the header that frames", coded + "Trailer: Content-Length\r\n\r\n" + chunks},
}

// TestSmuggling sends each, whole and cut anywhere, behind a good request and with one
// behind it, which must not be served.
func TestSmuggling(t *testing.T) {
	var served, smuggled atomic.Int32
	s := webSite(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if r.URL.Path != "/good" && err == nil {
			t.Errorf("the upstream got %s %s with %q", r.Method, r.RequestURI, body)
			smuggled.Add(1)
		}
		served.Add(1)
		_, _ = io.WriteString(w, "hello")
	})
	const good = "GET /good HTTP/1.1\r\nHost: a.example\r\n\r\n"
	for _, tt := range smuggling {
		t.Run(tt.name, func(t *testing.T) {
			refused := func(c *wire) {
				t.Helper()
				resp, body := c.response("GET")
				if resp.StatusCode != http.StatusBadRequest || !resp.Close {
					t.Errorf("response is %d %q", resp.StatusCode, body)
				}
				if rest, _ := c.rest(); rest != "" {
					t.Errorf("behind it came %q", rest)
				}
			}
			c := s.dial()
			c.send(tt.request + get)
			refused(c)
			c = s.dial()
			c.send(good + tt.request + get)
			c.want("GET", 200, "hello") // what came before is served
			refused(c)
			c = s.dial()
			for i := range tt.request {
				c.send(tt.request[i : i+1])
			}
			// The server closes when it has seen enough; what comes then resets the connection.
			if resp, err := http.ReadResponse(c.r, nil); err == nil && resp.StatusCode != http.StatusBadRequest {
				t.Errorf("response is %d", resp.StatusCode)
			}
		})
	}
}

func TestOversizedHeads(t *testing.T) {
	s := webSite(t, func(http.ResponseWriter, *http.Request) { t.Error("the upstream got a request") })
	for _, tt := range []struct{ name, request string }{
		{"a long field", "GET / HTTP/1.1\r\nHost: a.example\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n"},
		{"many fields", "GET / HTTP/1.1\r\nHost: a.example\r\n" + strings.Repeat("X: y\r\n", 14<<10) + "\r\n"},
		{"a long target", "GET /" + strings.Repeat("x", 80<<10) + " HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"a line without end", strings.Repeat("x", 300<<10)},
		{"much more than that", "GET / HTTP/1.1\r\nHost: a.example\r\n" + strings.Repeat("X: y\r\n", 200<<10) + "\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := s.dial()
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				c.send(tt.request)
			}()
			if resp, body := c.response("GET"); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge || !resp.Close {
				t.Errorf("response is %d %q", resp.StatusCode, body)
			}
			_ = c.Close()
			<-sent
		})
	}
}

func TestRefusedLineDoesNotCancelTheRequestBefore(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	s := webSite(t, func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		_, _ = io.WriteString(w, "hello")
	})
	c := s.dial()
	c.send(get + "GET / HTTP/1.1")
	<-asked
	c.send("\nHost: a.example\r\n\r\n")
	close(answer)
	c.want("GET", 200, "hello")
	if resp, _ := c.response("GET"); resp.StatusCode != 400 {
		t.Errorf("the next response is %d", resp.StatusCode)
	}
}

func TestPlainNumber(t *testing.T) {
	for _, tt := range []struct {
		text string
		base int64
		n    int64
		ok   bool
	}{
		{"0", 10, 0, true}, {"007", 10, 7, true}, {"1152921504606846975", 10, 0, false}, {"288230376151711744", 10, 1 << 58, true},
		{"ffffffffffffff", 16, 1<<56 - 1, true}, {"FFFFFFFFFFFFFFFF", 16, 0, false}, {"000000000000000001", 16, 1, true},
		{"0000000000000000001", 16, 0, false}, {"", 10, 0, false}, {"a", 10, 0, false}, {"g", 16, 0, false}, {"-1", 10, 0, false}, {"1 ", 10, 0, false},
	} {
		if n, ok := plainNumber([]byte(tt.text), tt.base); ok != tt.ok || ok && n != tt.n {
			t.Errorf("plainNumber(%q, %d) is %d, %t", tt.text, tt.base, n, ok)
		}
	}
}

// TestGuardAllocatesNothing is about lines that arrive whole.
func TestGuardAllocatesNothing(t *testing.T) {
	c := &guardConn{Conn: &repeated{text: get + coded + "\r\n" + chunks}}
	r := bufio.NewReader(c)
	buf := make([]byte, len(get+coded+"\r\n"+chunks))
	if n := testing.AllocsPerRun(100, func() { _, _ = io.ReadFull(r, buf) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if c.guard.err != nil {
		t.Error(c.guard.err)
	}
}

// repeated is a connection on which the same text comes again and again.
type repeated struct {
	net.Conn
	text string
}

func (r *repeated) Read(p []byte) (int, error) { return copy(p, r.text), nil }
