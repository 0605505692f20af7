package tcp

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// TestInTurn has two clients serve a port: without connections they take turns.
func TestInTurn(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	s.connect(t, says("a"), port)
	s.connect(t, says("b"), port)
	seen := map[string]int{}
	for range 10 {
		conn := visit(t, port)
		seen[hears(t, conn)]++
		conn.Close()
		eventually(t, func() bool { return s.busy() == 0 })
	}
	if fmt.Sprint(seen) != "map[a:5 b:5]" {
		t.Errorf("got %v", seen)
	}
}

func (p *Plane) busy() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// TestLeastConnections prefers the client with the fewest, whoever came first.
func TestLeastConnections(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	s.connect(t, says("a"), port)
	conns := map[string][]net.Conn{}
	open := func() string {
		conn := visit(t, port)
		name := hears(t, conn)
		conns[name] = append(conns[name], conn)
		return name
	}
	for range 3 {
		if got := open(); got != "a" {
			t.Fatalf("got %s", got)
		}
	}
	s.connect(t, says("b"), port)
	for range 3 {
		if got := open(); got != "b" {
			t.Fatalf("with fewer connections: got %s", got)
		}
	}
	for range 4 {
		open()
	}
	if len(conns["a"]) != 5 || len(conns["b"]) != 5 {
		t.Errorf("a has %d, b %d", len(conns["a"]), len(conns["b"]))
	}
	for _, c := range conns["a"][:3] {
		c.Close()
	}
	eventually(t, func() bool { return s.busy() == 7 })
	for range 3 {
		if got := open(); got != "a" {
			t.Fatalf("with fewer connections again: got %s", got)
		}
	}
	if got := s.metric(t, "tcp_dataplane_connections_gauge", fmt.Sprint(port)); got != 10 {
		t.Errorf("open: %v", got)
	}
	if got := s.metric(t, "tcp_dataplane_connections_total", fmt.Sprint(port)); got != 13 {
		t.Errorf("in all: %v", got)
	}
}

// TestLeavingIsSkipped gives no more visitors to a client that leaves; what it has goes
// on.
func TestLeavingIsSkipped(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	a := s.connect(t, says("a"), port)
	under := visit(t, port)
	hears(t, under)
	b := s.connect(t, says("b"), port)
	a.there.GoAway(tunnel.GoAway{})
	eventually(t, a.Leaving)
	for range 4 {
		if got := hears(t, visit(t, port)); got != "b" {
			t.Fatalf("got %s", got)
		}
	}
	must(t, second(under.Write([]byte("more"))))
	if got := hears(t, under); got != "more" {
		t.Errorf("got %s", got)
	}
	b.there.GoAway(tunnel.GoAway{})
	eventually(t, b.Leaving)
	wantRefused(t, port)
	if got := s.metric(t, "adit_tcp_refused_connections_total", "no_client"); got != 1 {
		t.Errorf("refused: %v", got)
	}
}

// TestSilent freezes one of two clients. The first visitor of it waits for OpenTimeout
// and is served by the other; the next do not ask it. When it is heard of again it serves
// again.
func TestSilent(t *testing.T) {
	s := start(t, func(c *Config) { c.OpenTimeout = 250 * time.Millisecond })
	port := freeport.New(t)
	a := s.connect(t, says("a"), port)
	s.connect(t, says("b"), port)
	a.gate.freeze()
	for range 6 {
		conn := visit(t, port)
		if got := hears(t, conn); got != "b" {
			t.Fatalf("got %s", got)
		}
		conn.Close()
		eventually(t, func() bool { return s.busy() == 0 })
	}
	if asked := a.counters.Streams.Load(); asked != 1 || !a.Silent() {
		t.Errorf("it was asked for %d streams, silent: %v", asked, a.Silent())
	}
	if got := s.metric(t, "adit_tcp_refused_connections_total", "open_timeout"); got != 0 {
		t.Errorf("refused: %v", got)
	}
	a.gate.thaw()
	eventually(t, func() bool { return !a.Silent() })
	seen := map[string]bool{}
	for range 4 {
		conn := visit(t, port)
		seen[hears(t, conn)] = true
		conn.Close()
		eventually(t, func() bool { return s.busy() == 0 })
	}
	if !seen["a"] || !seen["b"] {
		t.Errorf("after that: %v", seen)
	}
}

// TestAllSilent has nobody who answers: the visitor is refused, and served when one does.
func TestAllSilent(t *testing.T) {
	s := start(t, func(c *Config) { c.OpenTimeout = 100 * time.Millisecond })
	port := freeport.New(t)
	a := s.connect(t, says("a"), port)
	a.gate.freeze()
	wantRefused(t, port)
	if got := s.metric(t, "adit_tcp_refused_connections_total", "open_timeout"); got != 1 {
		t.Errorf("refused: %v", got)
	}
	a.gate.thaw()
	eventually(t, func() bool { return !a.Silent() })
	if got := hears(t, visit(t, port)); got != "a" {
		t.Errorf("got %s", got)
	}
}

// TestOneRefuses has the upstream of one client be down: visitors get the other.
func TestOneRefuses(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	var refuse atomic.Bool
	here, there := tcpPair(t)
	b := backendOf(t, port, 0)
	session := tunnel.New(tunnel.NewConn(here), tunnel.Config{})
	peer := tunnel.New(tunnel.NewConn(there), tunnel.Config{Client: true, Handle: func(st *tunnel.Stream) {
		refuse.Store(true)
		st.Reset(tunnel.CodeRefused, "")
	}})
	t.Cleanup(func() { session.Close(); peer.Close() })
	b.Opener = session
	lease, err := s.Reserve([]*routing.Backend{b})
	must(t, err)
	defer lease.Release()
	lease.Serve()
	wantRefused(t, port)
	if got := s.metric(t, "adit_tcp_refused_connections_total", "refused"); got != 1 {
		t.Errorf("refused: %v", got)
	}
	s.connect(t, says("b"), port)
	refuse.Store(false)
	for range 4 {
		conn := visit(t, port)
		if got := hears(t, conn); got != "b" {
			t.Fatalf("got %s", got)
		}
		conn.Close()
		eventually(t, func() bool { return s.busy() == 0 })
	}
	if !refuse.Load() {
		t.Error("the one that refuses was never asked")
	}
}

// TestWaiting gives no visitors to a client whose upstream waits for its service, and
// refuses them at once when there is no other; the port stays open.
func TestWaiting(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	a := s.connect(t, says("a"), port)
	b := s.connect(t, says("b"), port)
	a.lease.backends[0].SetWaiting(true)
	for range 4 {
		if got := hears(t, visit(t, port)); got != "b" {
			t.Fatalf("got %s", got)
		}
	}
	b.lease.backends[0].SetWaiting(true)
	wantRefused(t, port)
	if got := s.metric(t, "adit_tcp_refused_connections_total", "waiting"); got != 1 {
		t.Errorf("refused: %v", got)
	}
	a.lease.backends[0].SetWaiting(false)
	if got := hears(t, visit(t, port)); got != "a" {
		t.Errorf("got %s", got)
	}
}
