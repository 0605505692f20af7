package edge

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// noise is n bytes, without being held, that repeat themselves in no size of a buffer.
func noise(n int64) io.Reader { return io.LimitReader(new(pattern), n) }

type pattern struct{ at int }

var block = func() []byte {
	p := make([]byte, 1<<20+7)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}()

func (r *pattern) Read(p []byte) (int, error) {
	n := copy(p, block[r.at:])
	r.at = (r.at + n) % len(block)
	return n, nil
}

func digest(tb testing.TB, r io.Reader) string {
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		tb.Errorf("after %d bytes: %v", n, err)
	}
	return strconv.FormatInt(n, 10) + " " + hex.EncodeToString(h.Sum(nil)[:8])
}

// heap returns the bytes of the heap in use, without what is garbage.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// TestLargeBodies sends 64 MiB both ways and looks at the memory in the middle.
func TestLargeBodies(t *testing.T) {
	const size, room = 64 << 20, 24 << 20
	want := digest(t, noise(size))
	var base, most atomic.Uint64
	measure := func() { most.Store(max(most.Load(), heap())) }
	s := webSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			if r.URL.Path == "/fixed" {
				w.Header().Set("Content-Length", strconv.Itoa(size))
			}
			_, _ = io.Copy(w, noise(size/2))
			measure()
			rest := noise(size)
			_, _ = io.CopyN(io.Discard, rest, size/2)
			_, _ = io.Copy(w, rest)
			return
		}
		if fixed := r.URL.Path == "/fixed"; fixed != (r.ContentLength == size) {
			t.Errorf("Content-Length at the upstream is %d", r.ContentLength)
		}
		h := &halfway{r: r.Body, at: size / 2, reached: measure}
		_, _ = io.WriteString(w, digest(t, h))
	})
	v := s.visitor()
	base.Store(heap())
	for _, path := range []string{"/fixed", "/chunked"} {
		req, _ := http.NewRequest("POST", "http://a.example"+path, noise(size))
		if path == "/fixed" {
			req.ContentLength = size
		}
		resp, err := v.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, resp); got != want {
			t.Errorf("upload to %s arrived as %s, want %s", path, got, want)
		}
		resp, err = v.Get("http://a.example" + path)
		if err != nil {
			t.Fatal(err)
		}
		if got := digest(t, resp.Body); got != want {
			t.Errorf("download from %s arrived as %s, want %s", path, got, want)
		}
		resp.Body.Close()
	}
	if grown := int64(most.Load()) - int64(base.Load()); grown > room {
		t.Errorf("the heap grew by %d MiB with bodies of %d MiB under way", grown>>20, size>>20)
	}
}

// halfway calls reached when so many bytes were read.
type halfway struct {
	r       io.Reader
	at      int
	reached func()
}

func (h *halfway) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	if h.at > 0 && h.at <= n {
		h.reached()
	}
	h.at -= n
	return n, err
}

// bodySite is a site whose upstream answers with what it got as a body.
func bodySite(t *testing.T) *site {
	return webSite(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("body at the upstream: %v", err)
		}
		text := r.Method + " " + string(body)
		for name, values := range r.Trailer {
			text += " " + name + "=" + strings.Join(values, ",")
		}
		_, _ = io.WriteString(w, text)
	})
}

func TestRequestBodies(t *testing.T) {
	s := bodySite(t)
	for _, tt := range []struct{ name, request, want string }{
		{"fixed", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST hello"},
		{"empty", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST "},
		{"none", "POST / HTTP/1.1\r\nHost: a\r\n\r\n", "POST "},
		{"GET with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "GET hello"},
		{"HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello", "POST hello"},
		{"leading zeros", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0005\r\n\r\nhello", "POST hello"},
		{"chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n", "POST hello"},
		{"empty in chunks", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", "POST "},
		{"a trailer", "POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "POST hello X-Sum=1"},
		{"a trailer that was not announced", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "POST hello X-Sum=1"},
		{"a trailer that does not come", "POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "POST hello X-Sum="},
		{"trailers that are none", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 6\r\nHost: b\r\n" +
			"X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-For : 6.6.6.6\r\nTransfer-Encoding: x\r\nX-Sum: 1\r\n\r\n", "POST hello X-Sum=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := s.dial()
			for range 2 { // the connection stays in step
				c.send(tt.request)
				if resp := c.want("POST", 200, tt.want); resp.Close {
					t.Error("the connection is to be closed")
				}
			}
		})
	}
}

func TestBodyArrivesAsItIsSent(t *testing.T) {
	got := make(chan string)
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		got <- c.bytes(len("0003\r\none\r\n"))
		got <- c.bytes(len("0003\r\ntwo\r\n0\r\n\r\n"))
		c.send(hello)
		c.discard()
	})
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
	if part := <-got; part != "0003\r\none\r\n" {
		t.Errorf("the upstream got %q", part)
	}
	c.send("3\r\ntwo\r\n0\r\n\r\n")
	if part := <-got; part != "0003\r\ntwo\r\n0\r\n\r\n" {
		t.Errorf("the upstream got %q", part)
	}
	c.want("POST", 200, "hello")
}

func TestBodyAndResponseAtTheSameTime(t *testing.T) {
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for range 3 {
			c.send(c.bytes(len("0001\r\nx\r\n")))
		}
		c.bytes(len("0\r\n\r\n"))
		c.send("0\r\n\r\n")
		c.discard()
	})
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") {
		t.Fatalf("head is %q", head)
	}
	for _, chunk := range []string{"1\r\na\r\n", "1\r\nb\r\n", "1\r\nc\r\n"} {
		c.send(chunk)
		if got := c.bytes(len(chunk)); got != chunk {
			t.Errorf("there came %q for %q", got, chunk)
		}
	}
	c.send("0\r\n\r\n")
	if got := c.bytes(len("0\r\n\r\n")); got != "0\r\n\r\n" {
		t.Errorf("the end is %q", got)
	}
	c.wantEOF() // the response began in the middle of the request: nobody knows where it ends
}

func TestTimeToAnswerBeginsBehindTheBody(t *testing.T) {
	const wait = time.Minute
	x := &exchange{e: &Edge{wait: wait}, r: &http.Request{ProtoMajor: 1}}
	begun := time.Unix(1000, 0)
	now := begun.Add(2 * wait)
	want := func(what string, limit time.Time) {
		t.Helper()
		if got := x.limit(begun, now); !got.Equal(limit) {
			t.Errorf("%s: the limit is %s, want %s", what, got, limit)
		}
	}
	want("no body", begun.Add(wait))
	x.body.done = make(chan struct{})
	want("while the body is sent", now.Add(wait))
	sent := now.Add(-time.Second)
	x.body.sentAt.Store(sent.UnixNano())
	want("after the body", sent.Add(wait))
	x.e.wait = 0
	want("no limit", time.Time{})
}
