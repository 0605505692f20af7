package edge

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// TestCutResponsesAreCut breaks a response off in its body, in each framing, in the
// ways in which an upstream or a client may go.
func TestCutResponsesAreCut(t *testing.T) {
	framings := []struct{ name, response string }{
		{"fixed", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"},
		{"in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello"},
		{"between chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		{"in the trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Su"},
		{"to the end of the connection", "HTTP/1.1 200 OK\r\n\r\nhello"},
	}
	ends := []struct {
		name string
		end  func(c *wire, cl *client)
	}{
		{"the upstream closes", func(c *wire, _ *client) { _ = c.Close() }},
		{"the upstream resets", func(c *wire, _ *client) { resetConn(c.Conn) }},
		{"the client goes", func(_ *wire, cl *client) { _ = cl.there.Close() }},
	}
	for _, framing := range framings {
		for _, end := range ends {
			if framing.name == "to the end of the connection" && end.name == "the upstream closes" {
				continue // which is how it ends
			}
			t.Run(framing.name+"/"+end.name, func(t *testing.T) {
				got := make(chan struct{})
				var cl *client
				s := newSite(t)
				cl = s.client("http://" + rawUpstream(t, func(_ int, c *wire) {
					c.head()
					c.send(framing.response)
					<-got
					end.end(c, cl)
					c.discard()
				}))
				for _, version := range []string{"1.1", "1.0"} {
					if version == "1.0" && end.name == "the client goes" {
						continue // it went
					}
					c := s.dial()
					c.send("GET / HTTP/" + version + "\r\nHost: a.example\r\n\r\n")
					resp, err := http.ReadResponse(c.r, nil)
					if err != nil {
						t.Fatal(err)
					}
					if !strings.HasPrefix(framing.name, "in ") { // where net/http waits for more
						body := make([]byte, 5)
						if _, err := io.ReadFull(resp.Body, body); err != nil || string(body) != "hello" {
							t.Errorf("body begins with %q and %v", body, err)
						}
					}
					got <- struct{}{}
					if rest, err := io.ReadAll(resp.Body); err == nil {
						t.Errorf("HTTP/%s: the response ends cleanly behind %q", version, rest)
					}
				}
			})
		}
	}
}

// TestWhatCameBeforeACutArrives has the cut come along with the first bytes.
func TestWhatCameBeforeACutArrives(t *testing.T) {
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		c.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
	})
	for _, version := range []string{"1.1", "1.0"} {
		c := s.dial()
		c.send("GET / HTTP/" + version + "\r\nHost: a.example\r\n\r\n")
		if rest, _ := c.rest(); !strings.HasSuffix(rest, "\r\n\r\nhello") {
			t.Errorf("the visitor got %q", rest)
		}
	}
}

// TestCutIsSeenWithHTTP10 is about a response that ends with the connection: only a
// reset says that it is not complete.
func TestCutIsSeenWithHTTP10(t *testing.T) {
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	})
	c := s.dial()
	c.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n")
	rest, err := c.rest()
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ends with %v, want a reset", err)
	}
	if !strings.HasSuffix(rest, "\r\n\r\nhello") {
		t.Errorf("the visitor got %q", rest)
	}
}

func TestMalformedResponses(t *testing.T) {
	const malformedText = "502 Bad Gateway: the upstream's answer is malformed\n"
	for _, tt := range []struct{ name, response string }{
		{"another protocol", "SSH-2.0-OpenSSH_9.2\r\n"},
		{"HTTP/0.9", "hello\r\n"},
		{"no status", "HTTP/1.1 OK\r\n\r\n"},
		{"a status of two digits", "HTTP/1.1 99 Low\r\n\r\n"},
		{"a status below 100", "HTTP/1.1 099 Low\r\n\r\n"},
		{"a status of zero", "HTTP/1.1 000 Low\r\n\r\n"},
		{"a status of four digits", "HTTP/1.1 2000 High\r\n\r\n"},
		{"a negative status", "HTTP/1.1 -20 Low\r\n\r\n"},
		{"a field without a colon", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"},
		{"a control character in a value", "HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"},
		{"a length that is none", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"},
		{"an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
		{"two codings", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"a protocol that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		{"a huge field", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n"},
		{"a huge status line", "HTTP/1.1 200 " + strings.Repeat("x", maxHead) + "\r\n\r\n"},
		{"many fields", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", maxHead/5) + "\r\n"},
		{"interim responses without end", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", maxHead/20)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var n atomic.Int32
			s := rawSite(t, func(_ int, c *wire) {
				n.Add(1)
				c.head()
				c.send(tt.response)
				c.discard()
			})
			c := s.dial()
			c.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n")
			c.want("GET", 502, malformedText)
			if n.Load() != 1 {
				t.Errorf("the upstream was asked %d times", n.Load())
			}
		})
	}
}

// TestLargeHeadsPass is about what is large but not too large.
func TestLargeHeadsPass(t *testing.T) {
	large := strings.Repeat("x", 60<<10)
	s := rawSite(t, func(_ int, c *wire) {
		if got := field(c.head(), "X-Large"); len(got) != 1 || got[0] != large {
			t.Error("the upstream did not get the field")
		}
		c.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Large: " + large + large + large + "\r\n\r\n")
		c.discard()
	})
	c := s.dial()
	c.send("GET / HTTP/1.1\r\nHost: a.example\r\nX-Large: " + large + "\r\n\r\n")
	if resp := c.want("GET", 200, ""); len(resp.Header.Get("X-Large")) != 3*len(large) {
		t.Error("the visitor did not get the field")
	}
}

func TestVisitorLeaves(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		leave      func(c *wire)
		code       string
	}{
		{"before the response", "", func(c *wire) { _ = c.Close() }, "499"},
		{"by half, before the response", "", func(c *wire) {
			_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
			// The server cannot tell this from leaving; it must not look like a response.
			if rest, _ := c.rest(); rest != "" {
				t.Errorf("the visitor got %q", rest)
			}
		}, "499"},
		{"in the response", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", func(c *wire) { c.head(); _ = c.Close() }, "200"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked, gone := make(chan struct{}), make(chan struct{})
			s := rawSite(t, func(_ int, c *wire) {
				c.head()
				c.send(tt.sent)
				close(asked)
				c.discard()
				close(gone)
			})
			s.client("http://" + httpUpstream(t, func(http.ResponseWriter, *http.Request) { t.Error("another upstream is asked") }))
			c := s.dial()
			c.send(get)
			<-asked
			tt.leave(c)
			<-gone // the upstream learns of it
			s.wantCount(1, tt.code, "*", "GET")
		})
	}
}

// TestVisitorsWhoDoNotWait leave at any point between their request and the wait for
// the response.
func TestVisitorsWhoDoNotWait(t *testing.T) {
	s := webSite(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
	})
	const n = 100
	for range n {
		c := s.dial()
		c.send(get)
		c.want("GET", 200, "") // leaves an idle stream
		c.send("GET /hang HTTP/1.1\r\nHost: a.example\r\n\r\n")
		_ = c.Close()
	}
	s.wantCount(n, "499", "*", "GET")
}

// TestVisitorLeavesWhileTheClientConnects must not look like a response either.
func TestVisitorLeavesWhileTheClientConnects(t *testing.T) {
	asked, done := make(chan struct{}), make(chan struct{})
	s := newSite(t)
	s.clientOf([]route.Upstream{{Host: "*", Scheme: route.HTTP}}, func(*tunnel.Stream) {
		close(asked)
		<-done
	})
	c := s.dial()
	c.send(get)
	<-asked
	_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	if rest, _ := c.rest(); rest != "" {
		t.Errorf("the visitor got %q", rest)
	}
	close(done)
	s.wantCount(1, "499", "*", "GET")
}

func TestClientDiesUnderRequests(t *testing.T) {
	for _, tt := range []struct{ method, want string }{
		{"GET", "200 other"}, // moves on
		{"POST", "502 502 Bad Gateway: the upstream broke off before it answered\n"},
	} {
		t.Run(tt.method, func(t *testing.T) {
			s := newSite(t)
			var dying *client
			dying = s.client("http://" + rawUpstream(t, func(_ int, c *wire) {
				c.head()
				_ = dying.there.Close()
			}))
			s.client("http://" + named(t, "other"))
			c := s.dial()
			c.send(tt.method + " / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n")
			resp, body := c.response(tt.method)
			if got := resp.Status[:3] + " " + body; got != tt.want {
				t.Errorf("response is %q, want %q", got, tt.want)
			}
			c.send(get)
			c.want("GET", 200, "other")
		})
	}
}

func TestFrozenClientIsGivenUp(t *testing.T) {
	s := newSite(t, func(cfg *Config) { cfg.OpenTimeout = 500 * time.Millisecond })
	// The peer of this session takes everything and says nothing.
	a, b := tcpPair(t)
	frozen := tunnel.New(tunnel.NewConn(a), tunnel.Config{})
	t.Cleanup(func() { _ = b.Close(); _ = frozen.Close() })
	// A stream of its own is accepted by hand: OPEN is answered with ACCEPT.
	thawed := make(chan struct{})
	go func() {
		defer close(thawed)
		head := make([]byte, 8)
		for {
			if _, err := io.ReadFull(b, head); err != nil {
				return
			}
			payload := make([]byte, int(head[2])<<8|int(head[3]))
			if _, err := io.ReadFull(b, payload); err != nil {
				return
			}
			if head[0] == 1 { // OPEN
				accept := append([]byte{2, 0, 0, 4}, head[4:8]...)
				_, _ = b.Write(append(accept, 0, 1, 0, 0))
			}
		}
	}()
	s.add(frozen)
	s.client("http://" + named(t, "other"))
	for range 3 {
		if resp, body := s.get("http://a.example/"); resp.StatusCode != 200 || body != "other" {
			t.Errorf("response is %d %q", resp.StatusCode, body)
		}
	}
	_ = b.Close()
	<-thawed
}
