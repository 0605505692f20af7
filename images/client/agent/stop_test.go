package agent

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// TestStopInHandshake ends the context while the server, or a proxy, keeps the client
// waiting: Run returns at once, not after the handshake's deadline.
func TestStopInHandshake(t *testing.T) {
	reached := make(chan struct{}, 8)
	// hold reads n heads of requests and then says nothing.
	hold := func(answer string, n int) string {
		return listen(t, func(c net.Conn) {
			br := bufio.NewReader(c)
			for i := range n {
				if i > 0 {
					_, _ = io.WriteString(c, answer)
				}
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
			}
			if n == 0 {
				_, _ = br.Peek(1)
			}
			reached <- struct{}{}
			_, _ = io.Copy(io.Discard, br)
		})
	}
	const established = "HTTP/1.1 200 OK\r\n\r\n"
	for _, c := range []struct {
		name, url, proxy string
		tls              TLSMode
	}{
		{name: "TLS", url: "wss://" + hold("", 0), tls: TLSPublic},
		{name: "CA", url: "wss://" + hold("", 0), tls: TLSAuto},
		{name: "websocket", url: "ws://" + hold("", 1)},
		{name: "proxy", url: "ws://server.test", proxy: "http://" + hold("", 1)},
		{name: "behind the proxy", url: "ws://server.test", proxy: "http://" + hold(established, 2)},
		{name: "https proxy", url: "ws://server.test", proxy: "https://" + hold("", 0)},
		{name: "socks proxy", url: "ws://server.test", proxy: "socks5://" + hold("", 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			u, err := url.Parse(c.url)
			must(t, err)
			a := newAgent(t, u, "http://app", func(cfg *Config) { cfg.TLS = c.tls })
			if c.proxy != "" {
				p, err := url.Parse(c.proxy)
				must(t, err)
				a.proxy = http.ProxyURL(p)
			}
			a.run(t)
			within(t, reached)
			began := time.Now()
			a.stop()
			within(t, a.done)
			if took := time.Since(began); took > handshakeTimeout/2 {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestStopElsewhere ends the context in all other states.
func TestStopElsewhere(t *testing.T) {
	t.Run("before it begins", func(t *testing.T) {
		s := newServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		must(t, newAgent(t, s.url, "http://app").Run(ctx))
		select {
		case <-s.come:
			t.Error("it has connected")
		default:
		}
	})
	t.Run("between attempts", func(t *testing.T) {
		s := newServer(t)
		s.refuseWith(401, "no")
		a := newAgent(t, s.url, "http://app").run(t)
		a.log.await(t, "cannot connect")
		a.stop()
		within(t, a.done)
	})
	t.Run("idle", func(t *testing.T) {
		s := newServer(t)
		a := newAgent(t, s.url, "http://app").run(t)
		v := s.next(t)
		a.log.await(t, "connected")
		a.stop()
		within(t, v.goAway)
		v.Close() // as servers do then
		within(t, a.done)
	})
	t.Run("the server ends nothing", func(t *testing.T) {
		s := newServer(t)
		a := newAgent(t, s.url, "http://app").run(t)
		s.next(t)
		a.log.await(t, "connected")
		a.stop()
		within(t, a.done)
	})
	t.Run("sent away", func(t *testing.T) {
		s := newServer(t)
		a := newAgent(t, s.url, "http://app").run(t)
		s.next(t).GoAway(tunnel.GoAway{After: time.Hour})
		a.log.await(t, "server is leaving")
		a.stop()
		within(t, a.done)
	})
	t.Run("sent away, and connecting again", func(t *testing.T) {
		s := newServer(t)
		asked, release := make(chan struct{}), make(chan struct{})
		a := newAgent(t, s.url, "http://app").run(t)
		v := s.next(t)
		s.refuseBy(func(http.ResponseWriter, *http.Request) bool {
			close(asked)
			<-release
			return true
		})
		v.GoAway(tunnel.GoAway{})
		within(t, asked)
		a.stop()
		within(t, a.done)
		close(release)
	})
}

// TestStopWhileConnected just as the session is there: it is left in good order.
func TestStopWhileConnected(t *testing.T) {
	for range 20 {
		s := newServer(t)
		a := newAgent(t, s.url, "http://app")
		ctx, cancel := context.WithCancel(t.Context())
		s.refuseBy(func(http.ResponseWriter, *http.Request) bool {
			cancel()
			return false
		})
		must(t, a.Run(ctx))
	}
}
