package control

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// TestTakeover has a client come back with a higher epoch while its older connection is
// still there: its routes lead to the newer one at once.
func TestTakeover(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	h := hello("a", "http://a", fmt.Sprintf("%d=a:1", port))
	older := s.connect(t, h, echo)
	under := s.open(t, "any")
	alive(t, under)
	newer := s.connect(t, epoch(h, 2), echo)
	s.log.await(t, "client took over from its older connection", "client_id", "a", "old_remote_addr", "127.0.0.1:")
	if doc := s.Document(); len(doc.Clients) != 1 {
		t.Errorf("connected: %+v", doc.Clients)
	}
	for range 3 {
		st := s.open(t, "any")
		alive(t, st)
		if n := newer.Streams(); n != 1 {
			t.Errorf("the newer connection has %d streams", n)
		}
		must(t, st.Close())
		eventually(t, func() bool { return newer.Streams() == 0 })
	}
	// The older one lives: it is sent away, not back at once, and what is under way goes on.
	g := within(t, older.goAway)
	if g.After < 30*time.Second || g.Jitter < 30*time.Second || g.Code == tunnel.CodeNone || !strings.Contains(g.Reason, "give each client a CLIENT_ID of its own") {
		t.Errorf("sent away with %+v", g)
	}
	alive(t, under)
	if strings.Contains(s.log.String(), "port closed") {
		t.Error("the port was closed in between")
	}
	must(t, under.CloseWrite())
	within(t, older.Done())
	s.log.await(t, "client disconnected", "reason", "a newer connection of the client took over")
	alive(t, s.open(t, "any"))

	// Both held a lease on the port; the second is the last.
	must(t, newer.Close())
	s.log.await(t, "port closed")
	l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
	must(t, err)
	l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.clients)+len(s.replaced)+s.joining != 0 {
		t.Errorf("left: %v %v %d", s.clients, s.replaced, s.joining)
	}
}

// TestTakeoverFromTheDead has the older connection answer nothing.
func TestTakeoverFromTheDead(t *testing.T) {
	s := start(t)
	s.aliveAfter = 50 * time.Millisecond
	conn, _, err := s.dial(t, hello("a", "http://a")) // nobody reads there
	must(t, err)
	defer conn.Close()
	s.log.await(t, "client connected")
	before := s.table.Match("any", "/").Backends()[0].Opener.(*tunnel.Session)
	waiting := make(chan error, 1)
	go func() {
		_, err := before.Open(context.Background(), tunnel.Target{})
		waiting <- err
	}()
	eventually(t, func() bool { return before.Streams() == 1 })
	s.connect(t, epoch(hello("a", "http://a"), 2), echo)
	alive(t, s.open(t, "any"))
	within(t, before.Done())
	if err := within(t, waiting); err == nil {
		t.Error("a visitor was served by the dead")
	}
}

// TestTakeoverAgain bounds what one client id may hold: the newest connection, and the
// one before.
func TestTakeoverAgain(t *testing.T) {
	s := start(t)
	var peers []*peer
	var streams []*tunnel.Stream
	for i := range 4 {
		peers = append(peers, s.connect(t, epoch(hello("a", "http://a"), uint64(i)), echo))
		streams = append(streams, s.open(t, "any"))
		alive(t, streams[i])
	}
	for i := range 2 {
		within(t, peers[i].Done())
	}
	for i := 2; i < 4; i++ {
		alive(t, streams[i])
	}
}

// TestTakeoverRace has connections of one client race: one is there in the end, the
// newest, or one that it could not overtake.
func TestTakeoverRace(t *testing.T) {
	s := start(t)
	const n = 16
	results := make(chan *tunnel.Session, n)
	for i := range n {
		go func() {
			conn, _, err := s.dial(t, epoch(hello("a", "http://a"), uint64(i)))
			if err != nil {
				results <- nil // 409
				return
			}
			results <- tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{Client: true, Handle: echo})
		}()
	}
	for range n {
		if s := within(t, results); s != nil {
			defer s.Close()
		}
	}
	eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.joining == 0 && len(s.clients) == 1
	})
	alive(t, s.open(t, "any"))
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.clients[name{client: "a"}].hello.Epoch; got != n-1 {
		t.Errorf("epoch %d is there, want %d", got, n-1)
	}
}
