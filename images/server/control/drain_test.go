package control

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// TestDrain leaves the clients that are connected, and what they carry, as they are.
func TestDrain(t *testing.T) {
	var leaving atomic.Int32
	s := start(t, func(cfg *Config) { cfg.Leaving = func() { leaving.Add(1) } })
	p := s.connect(t, hello("a", "http://a"), echo)
	st := s.open(t, "any")
	alive(t, st)

	s.Drain(t.Context(), 0)
	if err := s.Ready(); err == nil || err.Error() != shuttingDown {
		t.Errorf("ready: %v", err)
	}
	if code, _ := s.get(t, "/readyz", ""); code != http.StatusServiceUnavailable {
		t.Errorf("readyz: %d", code)
	}
	g := within(t, p.goAway)
	if g.Code != tunnel.CodeNone || g.After != 0 || g.Jitter != time.Second || g.Reason != shuttingDown {
		t.Errorf("sent away with %+v", g)
	}
	if leaving.Load() != 1 {
		t.Errorf("the data plane was told %d times", leaving.Load())
	}
	s.refused(t, hello("b", "http://b"), http.StatusServiceUnavailable)
	s.refused(t, epoch(hello("a", "http://a"), 2), http.StatusServiceUnavailable)
	alive(t, st)

	s.Close()
	within(t, p.Done())
	if _, err := st.Read(make([]byte, 1)); err == nil {
		t.Error("the stream goes on")
	}
	s.Close() // does no harm
}

// TestDrainDelay goes on accepting while it is not ready.
func TestDrainDelay(t *testing.T) {
	s := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Drain(ctx, time.Hour)
	}()
	s.log.await(t, "not ready any more, still accepting", "delay", "1h")
	if s.Ready() == nil {
		t.Error("it is ready")
	}
	p := s.connect(t, hello("a", "http://a"), echo)
	alive(t, s.open(t, "any"))
	cancel()
	within(t, done)
	within(t, p.goAway)
	s.refused(t, hello("b", "http://b"), http.StatusServiceUnavailable)
}

// TestSpread sends many clients away over time.
func TestSpread(t *testing.T) {
	s := start(t)
	const n = 150
	var peers []*peer
	for i := range n {
		peers = append(peers, s.connect(t, hello(fmt.Sprint("c", i), "http://a"), echo))
	}
	s.Drain(t.Context(), 0)
	for _, p := range peers {
		if g := within(t, p.goAway); g.Jitter != n*10*time.Millisecond {
			t.Fatalf("sent away with %+v", g)
		}
	}
}

// TestClientLeaves ends a session when the last stream of a client that leaves is over,
// and not before.
func TestClientLeaves(t *testing.T) {
	leaving := make(chan struct{}, 1)
	s := start(t, func(cfg *Config) { cfg.Leaving = func() { leaving <- struct{}{} } })
	p := s.connect(t, hello("a", "http://a"), echo)
	st := s.open(t, "any")
	alive(t, st)
	p.GoAway(tunnel.GoAway{Reason: "enough for today"})
	s.log.await(t, "client is leaving", "reason", "enough for today", "client_id", "a")
	within(t, leaving)
	if n := len(s.table.Match("any", "/").Backends()); n != 0 {
		t.Errorf("%d backends for the next visitor", n)
	}
	alive(t, st)
	if p.Err() != nil {
		t.Fatal("the session has ended")
	}
	must(t, st.CloseWrite())
	within(t, p.Done())
	s.log.await(t, "client disconnected", "reason", "the client has left")

	// Without a stream that is at once.
	p = s.connect(t, hello("b", "http://a"), echo)
	p.GoAway(tunnel.GoAway{})
	within(t, p.Done())
	if doc := s.Document(); len(doc.Clients) != 0 {
		t.Errorf("connected: %+v", doc.Clients)
	}
}

// TestLateClient has a client be admitted just before the drain, and its upgrade be
// complete just after.
func TestLateClient(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	handler := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cl, err := s.admit(r)
		if err != nil {
			t.Error(err)
			return
		}
		s.Drain(t.Context(), 0)
		lines, _ := tunnel.Hello{}.Header()
		conn, err := s.upgrader.Upgrade(w, r, http.Header{tunnel.HelloHeader: lines})
		if err != nil {
			t.Error(err)
			return
		}
		s.serve(cl, conn, func() {})
	}))
	defer handler.Close()
	dialer := websocket.Dialer{Subprotocols: []string{tunnel.Subprotocol}}
	conn, _, err := dialer.Dial(strings.Replace(handler.URL, "http", "ws", 1), header(t, hello("a", fmt.Sprintf("%d=a:1", port))))
	must(t, err)
	goAway := make(chan tunnel.GoAway, 1)
	p := tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{Client: true, GoAway: func(g tunnel.GoAway) { goAway <- g }})
	defer p.Close()
	if g := within(t, goAway); g.Reason != shuttingDown {
		t.Errorf("sent away with %+v", g)
	}
	within(t, p.Done())
	s.log.await(t, "client refused", "error", shuttingDown)
	s.log.await(t, "port closed")
	s.Close() // waits for it
	if s.joining != 0 {
		t.Errorf("%d clients are still joining", s.joining)
	}
}

// TestCloseSilent ends with a client that does not answer.
func TestCloseSilent(t *testing.T) {
	s := start(t)
	conn, _, err := s.dial(t, hello("a", "http://a"))
	must(t, err)
	defer conn.Close()
	s.log.await(t, "client connected")
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Close()
	}()
	within(t, done)
}
