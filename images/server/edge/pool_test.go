package edge

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// age makes idle conns seem to have been idle for a while.
func (s *site) age(d time.Duration) {
	p := &s.edge.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.idle {
		for _, c := range list {
			c.idle = c.idle.Add(-d)
		}
	}
}

// idleConns returns how many conns the pool holds.
func (s *site) idleConns() int {
	p := &s.edge.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, list := range p.idle {
		n += len(list)
	}
	return n
}

func TestStreamsAreReused(t *testing.T) {
	var conns atomic.Int32
	s := rawSite(t, func(_ int, c *wire) {
		conns.Add(1)
		for c.head() != "" {
			c.send(hello)
		}
	})
	for range 5 { // visitors of their own
		c := s.dial()
		c.send(get)
		c.want("GET", 200, "hello")
		eventually(t, func() bool { return s.idleConns() == 1 })
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("the upstream got %d connections, want 1", n)
	}
}

func TestStreamsAreNotReused(t *testing.T) {
	for _, tt := range []struct{ name, response string }{
		{"Connection: close", "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 5\r\n\r\nhello"},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
		{"bytes behind the response", hello + "x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var conns atomic.Int32
			s := rawSite(t, func(_ int, c *wire) {
				conns.Add(1)
				c.head()
				c.send(tt.response)
				c.discard() // until the edge closes
			})
			c := s.dial()
			for range 3 {
				c.send(get)
				c.want("GET", 200, "hello")
			}
			if n := conns.Load(); n != 3 {
				t.Errorf("the upstream got %d connections, want 3", n)
			}
			if n := s.idleConns(); n != 0 {
				t.Errorf("%d idle conns", n)
			}
		})
	}
}

func TestStreamThatEndedWhileIdleIsNotUsed(t *testing.T) {
	gone := make(chan struct{})
	s := rawSite(t, func(n int, c *wire) {
		c.head()
		c.send(hello)
		if n == 0 {
			<-gone
		}
	})
	c := s.dial()
	c.send(get)
	c.want("GET", 200, "hello")
	var idle *conn
	eventually(t, func() bool {
		p := &s.edge.pool
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, list := range p.idle {
			idle = list[0]
		}
		return idle != nil
	})
	close(gone)
	eventually(t, idle.st.Ready)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	c.want("POST", 200, "hello")
	s.wantRetries(0)
}

func TestIdleStreamsAreLetGo(t *testing.T) {
	closed := make(chan struct{}, 8)
	s := newSite(t)
	cl := s.client("http://" + rawUpstream(t, func(_ int, c *wire) {
		for c.head() != "" {
			c.send(hello)
		}
		closed <- struct{}{}
	}))
	use := func() {
		c := s.dial()
		c.send(get)
		c.want("GET", 200, "hello")
		eventually(t, func() bool { return s.idleConns() == 1 })
	}
	use()
	s.age(idleStream + time.Second)
	s.edge.CloseIdle()
	<-closed
	use()
	cl.goAway(t)
	s.edge.CloseIdle()
	<-closed
	if n := s.idleConns(); n != 0 {
		t.Errorf("%d idle conns are left", n)
	}
}

func TestNoMoreThanSoManyStreamsAreKept(t *testing.T) {
	const n = maxIdle + 8
	all := make(chan struct{})
	var asked atomic.Int32
	s := webSite(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == n {
			close(all)
		}
		<-all
		_, _ = io.WriteString(w, "hello")
	})
	var visitors []*wire
	for range n {
		c := s.dial()
		c.send(get)
		visitors = append(visitors, c)
	}
	for _, c := range visitors {
		c.want("GET", 200, "hello")
	}
	s.wantCount(n, "200", "*", "GET")
	if got := s.idleConns(); got != maxIdle {
		t.Errorf("%d idle conns, want %d", got, maxIdle)
	}
}
