package edge

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

func TestResponses(t *testing.T) {
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tt := range []struct {
		name, method string // GET if empty
		response     string
		code         int
		body         string
		fields       map[string]string
		closes       bool // the upstream closes behind it
	}{
		{name: "fixed", response: hello, code: 200, body: "hello", fields: map[string]string{"Content-Length": "5"}},
		{name: "empty", response: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", code: 200, fields: map[string]string{"Content-Length": "0"}},
		{name: "chunked", response: chunked + "2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n", code: 200, body: "hello"},
		{name: "to the end of the connection", response: "HTTP/1.1 200 OK\r\n\r\nhello", code: 200, body: "hello", closes: true},
		{name: "HTTP/1.0", response: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", code: 200, body: "hello"},
		{name: "HTTP/1.0 to the end of the connection", response: "HTTP/1.0 200 OK\r\n\r\nhello", code: 200, body: "hello", closes: true},
		{name: "no content", response: "HTTP/1.1 204 No Content\r\n\r\n", code: 204, fields: map[string]string{"Content-Length": "", "Transfer-Encoding": ""}},
		{name: "not modified", response: "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n", code: 304, fields: map[string]string{"ETag": `"x"`}},
		{name: "HEAD with a length", method: "HEAD", response: "HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\n", code: 200,
			fields: map[string]string{"Content-Length": "5000000000"}},
		{name: "HEAD in chunks", method: "HEAD", response: chunked, code: 200, fields: map[string]string{"Content-Length": ""}},
		{name: "an error", response: "HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\nhello", code: 500, body: "hello"},
		{name: "a redirect", response: "HTTP/1.1 302 Found\r\nLocation: http://inner:8080/x\r\nContent-Length: 0\r\n\r\n", code: 302,
			fields: map[string]string{"Location": "http://inner:8080/x"}},
		{name: "the same length twice", response: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", code: 200, body: "hello"},
		{name: "no type is guessed", response: "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", code: 200, body: "<html>",
			fields: map[string]string{"Content-Type": ""}},
		{name: "encoded", response: "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", code: 200, body: "hello",
			fields: map[string]string{"Content-Encoding": "gzip"}},
		{name: "the largest status", response: "HTTP/1.1 999 Odd\r\nContent-Length: 5\r\n\r\nhello", code: 999, body: "hello"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			method := tt.method
			if method == "" {
				method = "GET"
			}
			s := rawSite(t, func(_ int, c *wire) {
				for c.head() != "" && c.send(tt.response) && !tt.closes {
				}
			})
			c := s.dial()
			for range 2 { // the connection stays in step
				c.send(method + " / HTTP/1.1\r\nHost: a.example\r\n\r\n")
				resp := c.want(method, tt.code, tt.body)
				for name, want := range tt.fields {
					if got := resp.Header.Get(name); got != want {
						t.Errorf("%s is %q, want %q", name, got, want)
					}
				}
			}
			old := s.dial()
			old.send(method + " / HTTP/1.0\r\nHost: a.example\r\n\r\n")
			if resp := old.want(method, tt.code, tt.body); len(resp.TransferEncoding) > 0 {
				t.Errorf("Transfer-Encoding to HTTP/1.0 is %v", resp.TransferEncoding)
			}
			old.wantEOF()
		})
	}
}

func TestHTTP10KeepAlive(t *testing.T) {
	s := webSite(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	c := s.dial()
	for range 3 {
		c.send("GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n")
		if resp := c.want("GET", 200, "hello"); resp.Header.Get("Connection") != "keep-alive" {
			t.Errorf("Connection is %q", resp.Header.Get("Connection"))
		}
	}
	c.send("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
	c.want("GET", 200, "hello")
	c.wantEOF()
}

func TestPipelining(t *testing.T) {
	var n atomic.Int32
	s := webSite(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%d %s%s", n.Add(1), r.Method, body)
	})
	c := s.dial()
	post := "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n"
	c.send(get + post + "\r\n" + get + post + get)
	for i, want := range []string{"1 GET", "2 POSTxy", "3 GET", "4 POSTxy", "5 GET"} {
		if _, body := c.response("GET"); body != want {
			t.Errorf("response %d is %q, want %q", i, body, want)
		}
	}
}

func TestResponseTrailers(t *testing.T) {
	const rest = "\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Late: 2\r\nContent-Length: 6\r\nTransfer-Encoding: x\r\nBad Name: 3\r\n\r\n"
	for _, tt := range []struct{ name, response string }{
		{"announced", "HTTP/1.1 200 OK\r\nTrailer: X-Sum, X-Late, X-Missing\r\nTransfer-Encoding: chunked\r\n" + rest},
		{"one announced", "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n" + rest},
		{"not announced", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + rest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := rawSite(t, func(_ int, c *wire) {
				for c.head() != "" && c.send(tt.response) {
				}
			})
			c := s.dial()
			for range 2 {
				c.send(get)
				resp := c.want("GET", 200, "hello")
				for name, want := range map[string]string{"X-Sum": "1", "X-Late": "2", "Content-Length": "", "Transfer-Encoding": "", "Bad Name": ""} {
					if got := strings.Join(resp.Trailer[name], ","); got != want {
						t.Errorf("trailer %s is %q, want %q", name, got, want)
					}
				}
				if resp.ContentLength >= 0 || resp.Header.Get("X-Sum") != "" {
					t.Errorf("header is %v", resp.Header)
				}
			}
			old := s.dial() // has no trailers
			old.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n")
			old.want("GET", 200, "hello")
			old.wantEOF()
		})
	}
}

func TestInterimResponses(t *testing.T) {
	s := rawSite(t, func(_ int, c *wire) {
		for c.head() != "" {
			c.send("HTTP/1.1 103 Early Hints\r\nLink: a\r\nLink: b\r\nX-Early: 1\r\nConnection: X-Mine\r\nX-Mine: 1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" +
				"HTTP/1.1 100 Continue\r\n\r\n" + hello)
		}
	})
	c := s.dial()
	for range 2 {
		c.send(get)
		head := c.head()
		if !strings.HasPrefix(head, "HTTP/1.1 103 Early Hints\r\n") {
			t.Errorf("head is %q", head)
		}
		wantFields(t, head, map[string][]string{"Link": {"a", "b"}, "X-Early": {"1"}, "X-Mine": nil, "Connection": nil, "Content-Length": nil})
		if head := c.head(); head != "HTTP/1.1 102 Processing\r\n" {
			t.Errorf("head is %q", head)
		}
		if resp := c.want("GET", 200, "hello"); resp.Header.Get("X-Early") != "" {
			t.Error("the final response has fields of an interim one")
		}
	}
	old := s.dial()
	old.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n")
	old.want("GET", 200, "hello")
}

// TestEvents is about Server-Sent Events: each arrives before the next is sent, and
// the last one leaves when the visitor does.
func TestEvents(t *testing.T) {
	next, left := make(chan struct{}), make(chan struct{})
	s := webSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for i := 0; ; i++ {
			select {
			case <-next:
			case <-r.Context().Done():
				close(left)
				return
			}
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
		}
	})
	resp, err := s.visitor().Get("http://a.example/")
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(resp.Body)
	for i := range 5 {
		next <- struct{}{}
		if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("event is %q and %v", line, err)
		}
		_, _ = r.ReadString('\n')
	}
	resp.Body.Close()
	<-left
	s.wantCount(1, "200", "*", "GET")
}

// TestPartsAreFlushed cuts a response where a parser has to look ahead.
func TestPartsAreFlushed(t *testing.T) {
	parts := []struct{ send, want string }{
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ""},
		{"5\r\nhello", "hello"}, {"\r", ""}, {"\n5\r", ""}, {"\nworld", "world"}, {"\r\n6", ""}, {"\r\nagain!\r", "again!"},
		{"\n0\r", ""}, {"\n\r\n", ""},
	}
	next := make(chan string)
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		for part := range next {
			c.send(part)
		}
		c.discard()
	})
	c := s.dial()
	c.send(get)
	for _, part := range parts[:1] {
		next <- part.send
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts[1:] {
		next <- part.send
		got := make([]byte, len(part.want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != part.want {
			t.Errorf("after %q there is %q and %v", part.send, got, err)
		}
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Errorf("the rest is %q and %v", rest, err)
	}
}
