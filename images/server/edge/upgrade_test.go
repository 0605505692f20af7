package edge

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// echoSockets is a web server whose websockets send back what comes.
func echoSockets(t *testing.T) http.HandlerFunc {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }, Subprotocols: []string{"echo"}}
	return func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, http.Header{"X-Upstream": {"yes"}})
		if err != nil {
			t.Errorf("upgrade: %v", err)
			return
		}
		defer conn.Close()
		for {
			typ, message, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if err := conn.WriteMessage(typ, message); err != nil {
				return
			}
		}
	}
}

// websocket connects a visitor by websocket.
func (s *site) websocket() *websocket.Conn {
	s.tb.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{"echo"}}
	conn, resp, err := dialer.Dial("ws://"+s.addr+"/chat", nil)
	if err != nil {
		s.tb.Fatal(err)
	}
	if resp.Header.Get("X-Upstream") != "yes" || conn.Subprotocol() != "echo" {
		s.tb.Errorf("head of the response is %v", resp.Header)
	}
	s.tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

func wantEcho(t *testing.T, conn *websocket.Conn, message []byte) {
	t.Helper()
	if err := conn.WriteMessage(websocket.BinaryMessage, message); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.ReadMessage(); err != nil || !bytes.Equal(got, message) {
		t.Fatalf("%d bytes came back for %d, and %v", len(got), len(message), err)
	}
}

func (s *site) wantUpgraded(n float64) {
	s.tb.Helper()
	eventually(s.tb, func() bool { return testutil.ToFloat64(s.edge.metrics.upgraded) == n })
}

func TestWebsocket(t *testing.T) {
	s := webSite(t, echoSockets(t))
	a, b := s.websocket(), s.websocket()
	s.wantUpgraded(2)
	for _, conn := range []*websocket.Conn{a, b, a} {
		wantEcho(t, conn, []byte("hello"))
		wantEcho(t, conn, bytes.Repeat([]byte("\nGET / HTTP/1.1\r\n"), 1<<15)) // nothing of HTTP any more
	}
	_ = a.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "bye"))
	var closed *websocket.CloseError
	if _, _, err := a.ReadMessage(); !errors.As(err, &closed) || closed.Code != websocket.CloseNormalClosure {
		t.Errorf("the end is %v", err)
	}
	_ = a.Close()
	s.wantUpgraded(1)
	s.wantCount(2, "101", "*", "GET")
	wantEcho(t, b, []byte("still there"))
}

func TestWebsocketRefused(t *testing.T) {
	s := webSite(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	_, resp, err := websocket.DefaultDialer.Dial("ws://"+s.addr+"/", nil)
	if !errors.Is(err, websocket.ErrBadHandshake) || resp.StatusCode != http.StatusForbidden {
		t.Errorf("error is %v", err)
	}
	s.wantUpgraded(0)
}

const (
	switching = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: custom/2, other\r\n\r\n"
	switched  = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade, X-Mine\r\nUpgrade: custom/2\r\nX-Mine: 1\r\nX-Kept: 1\r\nContent-Length: 3\r\n\r\n"
)

// switchSite is a site whose upstream changes the protocol, and what serves it then.
func switchSite(t *testing.T, serve func(c *wire)) *site {
	return rawSite(t, func(_ int, c *wire) {
		wantFields(t, c.head(), map[string][]string{"Connection": {"Upgrade"}, "Upgrade": {"custom/2, other"}})
		c.send(switched + "early")
		serve(c)
	})
}

// upgraded is a visitor that has changed the protocol.
func (s *site) upgraded(t *testing.T, behind string) *wire {
	c := s.dial()
	c.send(switching + behind)
	head := c.head()
	if !strings.HasPrefix(head, "HTTP/1.1 101 Switching Protocols\r\n") {
		t.Fatalf("head is %q", head)
	}
	wantFields(t, head, map[string][]string{"Connection": {"Upgrade"}, "Upgrade": {"custom/2"}, "X-Mine": nil, "X-Kept": {"1"}, "Content-Length": nil})
	if got := c.bytes(5); got != "early" {
		t.Errorf("behind the head came %q", got)
	}
	return c
}

func TestUpgradeHalfClose(t *testing.T) {
	s := switchSite(t, func(c *wire) {
		all, err := c.rest()
		if err != nil {
			t.Errorf("the upstream sees %v", err)
		}
		c.send("got " + all)
	})
	c := s.upgraded(t, "sent ahead, ")
	c.send("sent behind")
	_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	if rest, err := c.rest(); rest != "got sent ahead, sent behind" || err != nil {
		t.Errorf("the visitor got %q and %v", rest, err)
	}
	s.wantUpgraded(0)
}

func TestUpstreamsHalfClose(t *testing.T) {
	got := make(chan string)
	s := switchSite(t, func(c *wire) {
		_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		rest, _ := c.rest()
		got <- rest
	})
	c := s.upgraded(t, "")
	c.wantEOF()
	c.send("still here")
	_ = c.Close()
	if rest := <-got; rest != "still here" {
		t.Errorf("the upstream got %q", rest)
	}
}

func TestUpgradedConnectionsBreak(t *testing.T) {
	t.Run("the upstream's", func(t *testing.T) {
		s := switchSite(t, func(c *wire) { resetConn(c.Conn) })
		c := s.upgraded(t, "")
		if _, err := c.rest(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the visitor sees %v", err)
		}
		s.wantUpgraded(0)
	})
	t.Run("the visitor's", func(t *testing.T) {
		broke := make(chan error)
		s := switchSite(t, func(c *wire) {
			_, err := c.rest()
			broke <- err
		})
		resetConn(s.upgraded(t, "").Conn)
		if err := <-broke; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the upstream sees %v", err)
		}
	})
	t.Run("the client's", func(t *testing.T) {
		s := newSite(t)
		cl := s.client("http://" + rawUpstream(t, func(_ int, c *wire) {
			c.head()
			c.send(switched + "early")
			c.discard()
		}))
		c := s.upgraded(t, "")
		_ = cl.there.Close()
		if _, err := c.rest(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the visitor sees %v", err)
		}
	})
	t.Run("the server's", func(t *testing.T) {
		s := switchSite(t, func(c *wire) { c.discard() })
		c := s.upgraded(t, "")
		s.edge.Close()
		if _, err := c.rest(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the visitor sees %v", err)
		}
		s.wantUpgraded(0)
	})
}

func TestUpgradesThatAreNone(t *testing.T) {
	for _, tt := range []struct{ name, request, response string }{
		{"another protocol", switching, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		{"several protocols", switching, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom/2, other\r\n\r\n"},
		{"no protocol", switching, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n"},
		{"not in Connection", switching, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: custom/2\r\n\r\n"},
		{"not asked for", get, switched},
		{"with a body", strings.Replace(switching, "\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx", 1), switched},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := rawSite(t, func(_ int, c *wire) {
				c.head()
				c.send(tt.response)
				c.discard()
			})
			c := s.dial()
			c.send(tt.request)
			c.want("GET", 502, "502 Bad Gateway: the upstream's answer is malformed\n")
			s.wantUpgraded(0)
		})
	}
}

// TestTooEarly is about a visitor whose bytes ahead of the 101 were taken for a request
// that is refused: they are lost, so the connection must be too.
func TestTooEarly(t *testing.T) {
	s := rawSite(t, func(_ int, c *wire) {
		c.head()
		c.send(switched)
		c.discard()
	})
	c := s.dial()
	c.send(switching + "a line of something else\n")
	if rest, err := c.rest(); rest != "" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the visitor got %q and %v", rest, err)
	}
}

func TestCloseEndsUpgradedConnections(t *testing.T) {
	s := webSite(t, echoSockets(t))
	conn := s.websocket()
	wantEcho(t, conn, []byte("hello"))
	s.edge.Close()
	if _, _, err := conn.ReadMessage(); err == nil {
		t.Error("the websocket lives on")
	}
	s.wantUpgraded(0)
	// A handler that was under way may come late.
	late, _, err := websocket.DefaultDialer.Dial("ws://"+s.addr+"/", nil)
	if err != nil {
		return
	}
	defer late.Close()
	_ = late.SetReadDeadline(soon())
	if _, _, err := late.ReadMessage(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a websocket behind Close ends with %v", err)
	}
}

func TestDrainWaitsForUpgradedConnections(t *testing.T) {
	s := newSite(t, func(cfg *Config) { cfg.Drain = patience })
	s.client("http://" + httpUpstream(t, echoSockets(t)))
	conn := s.websocket()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_ = s.edge.Run(ctx)
	}()
	wantEcho(t, conn, []byte("hello"))
	select {
	case <-drained:
		t.Error("drained with a websocket open")
	default:
	}
	_ = conn.Close()
	<-drained
}
