package edge

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/autotls"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// tlsSite is a site whose visitors come with TLS.
func tlsSite(t *testing.T, upstream string, change ...func(*Config)) *site {
	t.Helper()
	ca, err := autotls.New("", nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := ca.TLSConfig()
	config.NextProtos = []string{"h2", "http/1.1"}
	s := newSiteOn(t, tls.NewListener(l, config), true, change...)
	s.client("http://" + upstream)
	return s
}

// trusting takes any certificate: who the server is does not matter here.
var trusting = &tls.Config{InsecureSkipVerify: true}

func (s *site) dialTLS() *wire {
	s.tb.Helper()
	conn, err := tls.Dial("tcp", s.addr, trusting)
	if err != nil {
		s.tb.Fatal(err)
	}
	c := newWire(s.tb, conn)
	s.tb.Cleanup(func() { _ = c.Close() })
	return c
}

func TestTLS(t *testing.T) {
	heads := make(chan string, 1)
	s := tlsSite(t, rawUpstream(t, func(_ int, c *wire) {
		for head := c.head(); head != ""; head = c.head() {
			heads <- head
			c.send(hello)
		}
	}))
	c := s.dialTLS()
	c.send(get)
	c.want("GET", 200, "hello")
	wantFields(t, <-heads, map[string][]string{"X-Forwarded-Proto": {"https"}, "Forwarded": {`for=127.0.0.1;host="a.example";proto=https`}})
	c.send("GET / HTTP/1.1\nHost: a.example\r\n\r\n") // guarded too
	if resp, _ := c.response("GET"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("response is %d", resp.StatusCode)
	}
	c.wantEOF()
}

// TestCutIsSeenWithTLS is about responses that end with the connection: close_notify
// behind them would say that they are complete.
func TestCutIsSeenWithTLS(t *testing.T) {
	s := tlsSite(t, rawUpstream(t, func(_ int, c *wire) {
		c.head()
		c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	}))
	c := s.dialTLS()
	c.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n")
	if rest, err := c.rest(); err == nil {
		t.Errorf("%q ends cleanly", rest)
	}
}

func TestWebsocketOverTLS(t *testing.T) {
	s := tlsSite(t, httpUpstream(t, echoSockets(t)))
	conn, _, err := (&websocket.Dialer{TLSClientConfig: trusting}).Dial("wss://"+s.addr+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wantEcho(t, conn, []byte("hello"))
	s.edge.Close()
	if _, _, err := conn.ReadMessage(); err == nil {
		t.Error("the websocket lives on")
	}
}

func TestPlainHTTPWhereTLSIsSpoken(t *testing.T) {
	s := tlsSite(t, freeport.Addr(t))
	c := s.dial()
	c.send(get)
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != 400 || !strings.Contains(string(body), "use https://") {
		t.Errorf("response is %d %q and %v", resp.StatusCode, body, err)
	}
}

func TestDeadlines(t *testing.T) {
	srv := newSite(t).edge.Server(t.Context(), false)
	if srv.ReadHeaderTimeout <= 0 || srv.ReadHeaderTimeout > 30*time.Second { // of a TLS handshake too
		t.Errorf("the deadline of a head is %s", srv.ReadHeaderTimeout)
	}
	if srv.IdleTimeout < 95*time.Second { // of a load balancer in front that reuses connections for 90 s
		t.Errorf("the deadline of an idle connection is %s", srv.IdleTimeout)
	}
	if srv.ReadTimeout != 0 || srv.WriteTimeout != 0 {
		t.Error("live bodies have a deadline")
	}
}

// TestSlowHeadsAreCutOff has heads and handshakes that do not come.
func TestSlowHeadsAreCutOff(t *testing.T) {
	ca, err := autotls.New("", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		wrap func(net.Listener) net.Listener
		sent string
	}{
		{"half a head", func(l net.Listener) net.Listener { return l }, "GET / HTTP/1.1\r\nHost: a"},
		{"no handshake", func(l net.Listener) net.Listener { return tls.NewListener(l, ca.TLSConfig()) }, ""},
		{"half a handshake", func(l net.Listener) net.Listener { return tls.NewListener(l, ca.TLSConfig()) }, "\x16\x03\x01\x01\x00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := newSite(t).edge.Server(t.Context(), false)
			srv.ReadHeaderTimeout = 50 * time.Millisecond
			served := make(chan error)
			go func() { served <- srv.Serve(Listener(tt.wrap(l))) }()
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c := newWire(t, conn)
			c.send(tt.sent)
			var timeout net.Error
			if _, err := c.rest(); errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("the connection is kept")
			}
			_ = c.Close()
			_ = srv.Close()
			<-served
		})
	}
}
