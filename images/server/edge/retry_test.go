package edge

import (
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// dropping is an upstream that answers so many requests of each connection and closes it
// when the next one comes, which it counts.
func dropping(t *testing.T, answers int, dropped *atomic.Int32) string {
	return rawUpstream(t, func(_ int, c *wire) {
		for range answers {
			if c.head() == "" {
				return
			}
			c.send(hello)
		}
		if c.head() != "" {
			dropped.Add(1)
		}
	})
}

func (s *site) wantRetries(want float64) {
	s.tb.Helper()
	if got := testutil.ToFloat64(s.edge.metrics.retries); got != want {
		s.tb.Errorf("%v retries, want %v", got, want)
	}
}

func TestStaleStream(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		answers       int // of each connection
		old           bool
		code          int
		dropped       int32
		retries       float64
	}{
		{"GET goes again", get, 1, false, 200, 1, 1},
		{"an upstream that always drops is asked once", get, 0, false, 502, 1, 0},
		{"POST does not go again", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 1, false, 502, 1, 0},
		{"POST takes no old stream", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 1, true, 200, 0, 0},
		{"PUT with a body does not go again", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 1, false, 502, 1, 0},
		{"DELETE goes again", "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", 1, false, 200, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var dropped atomic.Int32
			s := newSite(t)
			s.client("http://" + dropping(t, tt.answers, &dropped))
			if tt.answers > 0 {
				c := s.dial()
				c.send(get)
				c.want("GET", 200, "hello")
				eventually(t, func() bool { return s.idleConns() == 1 })
			}
			if tt.old {
				s.age(freshStream)
			}
			c := s.dial()
			c.send(tt.request)
			if resp, body := c.response("GET"); resp.StatusCode != tt.code {
				t.Errorf("response is %d %q, want %d", resp.StatusCode, body, tt.code)
			}
			if n := dropped.Load(); n != tt.dropped {
				t.Errorf("the upstream dropped %d requests, want %d", n, tt.dropped)
			}
			s.wantRetries(tt.retries)
		})
	}
}

func TestOtherBackends(t *testing.T) {
	post := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"
	for _, tt := range []struct {
		name, request string
		bad           func(t *testing.T, s *site)
		code          int
	}{
		{"refused, GET", get, func(t *testing.T, s *site) { s.client("http://" + freeport.Addr(t)) }, 200},
		{"refused, POST", post, func(t *testing.T, s *site) { s.client("http://" + freeport.Addr(t)) }, 200},
		{"overloaded, POST", post, func(t *testing.T, s *site) { s.refusing(tunnel.CodeOverload) }, 200},
		{"leaving, POST", post, func(t *testing.T, s *site) { s.client("http://127.0.0.1:1").goAway(t) }, 200},
		{"drops it, GET", get, func(t *testing.T, s *site) { s.client("http://" + dropping(t, 0, new(atomic.Int32))) }, 200},
		{"drops it, POST", post, func(t *testing.T, s *site) { s.client("http://" + dropping(t, 0, new(atomic.Int32))) }, 502},
		{"answers nonsense, GET", get, func(t *testing.T, s *site) {
			s.client("http://" + rawUpstream(t, func(_ int, c *wire) { c.head(); c.send("x\r\n"); c.discard() }))
		}, 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			tt.bad(t, s)
			s.client("http://" + httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				_, _ = io.WriteString(w, r.Method+string(body))
			}))
			c := s.dial()
			c.send(tt.request)
			if resp, body := c.response("GET"); resp.StatusCode != tt.code {
				t.Errorf("response is %d %q, want %d", resp.StatusCode, body, tt.code)
			}
		})
	}
}

func TestSlowResponseIsNotAskedForAgain(t *testing.T) {
	var asked atomic.Int32
	s := newSite(t, func(cfg *Config) { cfg.ResponseTimeout = 100 * time.Millisecond })
	for range 3 {
		s.client("http://" + rawUpstream(t, func(_ int, c *wire) {
			if c.head() != "" {
				asked.Add(1)
			}
			c.discard()
		}))
	}
	c := s.dial()
	c.send(get)
	c.want("GET", 504, "504 Gateway Timeout: the upstream did not answer in time\n")
	if n := asked.Load(); n != 1 {
		t.Errorf("%d upstreams were asked, want 1", n)
	}
}

func TestMayRepeat(t *testing.T) {
	broken := func(change func(*brokenError)) error {
		err := &brokenError{err: io.ErrUnexpectedEOF}
		change(err)
		return err
	}
	for _, tt := range []struct {
		name             string
		replayable, want bool
		err              error
	}{
		{"broken", true, true, broken(func(*brokenError) {})},
		{"broken, with effects", false, false, broken(func(*brokenError) {})},
		{"not sent", false, true, broken(func(e *brokenError) { e.unsent = true })},
		{"answered in part", true, false, broken(func(e *brokenError) { e.received = true })},
		{"too slow", true, false, broken(func(e *brokenError) { e.err = os.ErrDeadlineExceeded })},
		{"the client is silent", true, true, broken(func(e *brokenError) { e.err = errSilent })},
		{"the visitor's fault", true, false, errRequestBody},
	} {
		x := &exchange{replayable: tt.replayable, sent: 1}
		if got := x.mayRepeat(tt.err); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
}

func TestOneStaleStreamIsEnough(t *testing.T) {
	var dropped atomic.Int32
	s := newSite(t)
	both := make(chan struct{})
	s.client("http://" + rawUpstream(t, func(n int, c *wire) {
		c.head()
		if n == 0 {
			<-both
		} else if n == 1 {
			close(both)
		}
		c.send(hello)
		if n < 2 && c.head() != "" {
			dropped.Add(1)
		}
	}))
	a, b := s.dial(), s.dial()
	a.send(get)
	b.send(get)
	a.want("GET", 200, "hello")
	b.want("GET", 200, "hello")
	eventually(t, func() bool { return s.idleConns() == 2 })
	a.send(get)
	a.want("GET", 200, "hello")
	if n := dropped.Load(); n != 1 {
		t.Errorf("%d idle streams were tried, want 1", n)
	}
}

// TestPoisonDoesNotGoRound sends a request that makes every upstream fall over.
func TestPoisonDoesNotGoRound(t *testing.T) {
	var dropped atomic.Int32
	s := newSite(t)
	for range 5 {
		s.client("http://" + dropping(t, 0, &dropped))
	}
	c := s.dial()
	c.send(get)
	c.want("GET", 502, "502 Bad Gateway: the upstream broke off before it answered\n")
	if n := dropped.Load(); n != maxSent {
		t.Errorf("%d upstreams were asked, want %d", n, maxSent)
	}
	s.wantRetries(maxSent - 1)
}
