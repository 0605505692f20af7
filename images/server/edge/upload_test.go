package edge

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// upload is the beginning of a request of which much is still to come.
const upload = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000000\r\n\r\n"

func TestEarlyResponse(t *testing.T) {
	for _, tt := range []struct {
		name  string
		serve func(c *wire, over <-chan struct{})
		lost  bool // the response may be: what was not read resets the upstream's connection
	}{
		{"and the upstream goes", func(*wire, <-chan struct{}) {}, true},
		{"and the upstream neither reads nor goes", func(_ *wire, over <-chan struct{}) { <-over }, false},
		{"and the upstream reads on", func(c *wire, _ <-chan struct{}) { c.discard() }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			over := make(chan struct{})
			s := rawSite(t, func(_ int, c *wire) {
				c.head()
				c.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno\n")
				tt.serve(c, over)
			})
			c := s.dial()
			c.send(upload)
			stop := make(chan struct{})
			go func() { // as fast as it goes, until the connection is closed
				defer close(stop)
				for c.send(strings.Repeat("x", 64<<10)) {
				}
			}()
			resp, body := c.response("POST")
			if resp.StatusCode != 413 && (resp.StatusCode != 502 || !tt.lost) {
				t.Errorf("response is %d %q", resp.StatusCode, body)
			}
			if !resp.Close {
				t.Error("the visitor is not told that the connection will be closed")
			}
			if _, err := c.rest(); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is kept")
			}
			_ = c.Close()
			<-stop
			close(over)
			s.wantCount(1, resp.Status[:3], "*", "POST")
		})
	}
}

// TestUnreadBodyDoesNotResetTheConnection has more of a body come than anybody reads.
func TestUnreadBodyDoesNotResetTheConnection(t *testing.T) {
	done := make(chan struct{})
	s := newSite(t)
	s.clientOf([]route.Upstream{{Host: "*", Scheme: route.HTTP}}, func(st *tunnel.Stream) {
		_ = st.Accept()
		_, _ = io.WriteString(st, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno\n")
		<-done
		_ = st.Close()
	})
	c := s.dial()
	c.send("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("10000\r\n"+strings.Repeat("x", 64<<10)+"\r\n", 16))
	c.want("POST", 413, "no\n")
	c.wantEOF()
	close(done)
}

// TestUpstreamDiesUnderABody has a visitor who takes a break in the body.
func TestUpstreamDiesUnderABody(t *testing.T) {
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		c.bytes(5)
	})
	for _, framing := range []string{"Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"} {
		c := s.dial()
		c.send("POST / HTTP/1.1\r\nHost: a.example\r\n" + framing)
		resp := c.want("POST", 502, "502 Bad Gateway: the upstream broke off before it answered\n")
		if !resp.Close {
			t.Error("the visitor is not told that the connection will be closed")
		}
	}
	s.wantCount(2, "502", "*", "POST")
}

// TestRestOfBodyIsNoRequest is about a visitor that sends the rest of a body late, with
// something in it that looks like a request.
func TestRestOfBodyIsNoRequest(t *testing.T) {
	var served atomic.Int32
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		served.Add(1)
		c.send("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		c.discard()
	})
	for _, framing := range []string{"Content-Length: 1000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n3e8\r\n"} {
		c := s.dial()
		c.send("POST / HTTP/1.1\r\nHost: a.example\r\n" + framing)
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 403 ") {
			t.Errorf("head is %q", head)
		}
		eventually(t, func() bool { return c.send("\r\n\r\n"+get) == false })
	}
	if n := served.Load(); n != 2 {
		t.Errorf("the upstream got %d requests, want 2", n)
	}
}

func TestMalformedBody(t *testing.T) {
	for _, tt := range []struct{ name, framing, rest string }{
		{"chunk size", "Transfer-Encoding: chunked\r\n\r\n", "zz\r\n"},
		{"bare LF behind a chunk size", "Transfer-Encoding: chunked\r\n\r\n", "5\nhello\r\n0\r\n\r\n"},
		{"no end of a chunk", "Transfer-Encoding: chunked\r\n\r\n", "5\r\nhelloX" + get},
		{"extensions without bound", "Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("1;"+strings.Repeat("x", 4000)+"\r\nx\r\n", 6) + get},
		{"a line without end", "Transfer-Encoding: chunked\r\n\r\n", "1;" + strings.Repeat("x", 5000) + "\r\nx\r\n0\r\n\r\n" + get},
		{"a trailer that is no field", "Transfer-Encoding: chunked\r\n\r\n0\r\n", "trailer\r\n\r\n" + get},
		{"a folded trailer", "Transfer-Encoding: chunked\r\n\r\n0\r\n", "X: 1\r\n 2\r\n\r\n" + get},
		{"trailers without end", "Transfer-Encoding: chunked\r\n\r\n0\r\n", strings.Repeat("X: 1\r\n", 1000) + "\r\n" + get},
	} {
		t.Run(tt.name, func(t *testing.T) {
			broke := make(chan error, 2)
			head := make(chan struct{}, 2)
			s := rawSite(t, func(n int, c *wire) {
				if c.head() == "" { // the reset was faster
					broke <- io.ErrUnexpectedEOF
					return
				}
				head <- struct{}{}
				_, err := c.rest()
				broke <- err
			})
			for _, late := range []bool{true, false} {
				c := s.dial()
				request := "POST / HTTP/1.1\r\nHost: a.example\r\n" + tt.framing
				if late {
					c.send(request)
					<-head
					c.send(tt.rest)
				} else {
					c.send(request + tt.rest)
				}
				c.want("POST", 400, "400 Bad Request: the request body is malformed\n")
				if rest, _ := c.rest(); rest != "" {
					t.Errorf("there is more: %q", rest)
				}
				if err := <-broke; err == nil {
					t.Error("the upstream saw a clean end")
				}
			}
			s.wantCount(2, "400", "*", "POST")
		})
	}
}

func TestVisitorBreaksOffInTheBody(t *testing.T) {
	for _, framing := range []string{"Content-Length: 10\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\n"} {
		started, broke := make(chan struct{}), make(chan error)
		s := rawSite(t, func(_ int, c *wire) {
			c.head()
			close(started)
			_, err := c.rest()
			broke <- err
		})
		c := s.dial()
		c.send("POST / HTTP/1.1\r\nHost: a.example\r\n" + framing + "abc")
		<-started
		_ = c.Close()
		if err := <-broke; err == nil {
			t.Error("the upstream saw a clean end")
		}
		s.wantCount(1, "499", "*", "POST")
	}
}
