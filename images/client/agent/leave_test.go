package agent

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// over reports whether the session has ended.
func over(v *visit) bool {
	select {
	case <-v.Done():
		return true
	default:
		return false
	}
}

// TestMakeBeforeBreak has the server leave: the successor is there before the old session
// ends, which carries on what is under way, and ends with that.
func TestMakeBeforeBreak(t *testing.T) {
	s := newServer(t)
	a := newAgent(t, s.url, "http://"+echo(t))
	a.delays.grace = 10 * time.Millisecond
	a.run(t)
	old := s.next(t)
	under := old.open(t, 0)
	alive(t, under)
	old.GoAway(tunnel.GoAway{Reason: "the server is shutting down"})
	a.log.await(t, "server is leaving", "level", "info", "reason", "the server is shutting down")
	next := s.next(t)
	if next.hello.Epoch <= old.hello.Epoch {
		t.Errorf("epoch %d after %d", next.hello.Epoch, old.hello.Epoch)
	}
	eventually(t, a.Connected)
	alive(t, next.open(t, 0))
	alive(t, under)
	if over(old) {
		t.Fatal("the old session has ended")
	}
	finish(t, under)
	within(t, old.Done())
	alive(t, next.open(t, 0))
	if a.metric(t, "adit_reconnects_total", "goaway") != 1 {
		t.Error("not counted")
	}
}

// TestMakeBeforeBreakIdle keeps an idle session for its successor, too: the server may
// have opened a stream just before.
func TestMakeBeforeBreakIdle(t *testing.T) {
	s := newServer(t)
	a := newAgent(t, s.url, "http://"+echo(t))
	a.delays.grace = 0
	a.run(t)
	old := s.next(t)
	s.refuseWith(503, "not yet")
	old.GoAway(tunnel.GoAway{})
	for range 8 { // some tenths of a second
		a.log.await(t, "cannot connect", "error", "not yet")
	}
	if over(old) {
		t.Error("the old session has ended without a successor")
	}
	if a.Connected() {
		t.Error("connected, but nobody can open a stream")
	}
	s.refuseWith(0, "")
	next := s.next(t)
	within(t, old.Done())
	alive(t, next.open(t, 0))
}

// TestHintIsKept waits as long as the server asks, also when that ends the connection at
// once.
func TestHintIsKept(t *testing.T) {
	for _, c := range []struct {
		name  string
		after func(*visit)
	}{
		{"stays", func(*visit) {}},
		{"closes", func(v *visit) { v.Close() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t)
			a := newAgent(t, s.url, "http://"+echo(t)).run(t)
			v := s.next(t)
			began := time.Now()
			v.GoAway(tunnel.GoAway{After: 300 * time.Millisecond})
			c.after(v)
			a.log.await(t, "server is leaving", "reconnect_in", "300ms")
			eventually(t, func() bool { return !a.Connected() })
			alive(t, s.next(t).open(t, 0))
			if waited := time.Since(began); waited < 300*time.Millisecond {
				t.Errorf("back after %s", waited)
			}
		})
	}
}

// TestSentAwayAtOnce has the server say so and close before the client looks: as one does
// that begins to drain during the handshake.
func TestSentAwayAtOnce(t *testing.T) {
	s := newServer(t)
	s.greet = func(v *visit) {
		v.GoAway(tunnel.GoAway{After: time.Minute, Reason: "too late"})
		_ = v.Close()
	}
	for range 20 {
		a := newAgent(t, s.url, "http://app").run(t)
		a.log.await(t, "server is leaving", "reason", "too late")
		a.stop()
		within(t, a.done)
	}
}

// TestTakenOver has the server prefer another client of the same id, which is worth a
// warning.
func TestTakenOver(t *testing.T) {
	s := newServer(t)
	a := newAgent(t, s.url, "http://"+echo(t)).run(t)
	s.next(t).GoAway(tunnel.GoAway{Code: tunnel.CodeCancelled, After: time.Minute, Reason: "another connection took over"})
	a.log.await(t, "connection lost", "level", "warn", "reason", "another connection took over", "reconnect_in", "1m0s")
}

// TestManyDepartures bounds the sessions that a server sends away and never ends.
func TestManyDepartures(t *testing.T) {
	s := newServer(t)
	a := newAgent(t, s.url, "http://"+echo(t))
	a.delays.most = time.Millisecond
	a.run(t)
	var first *visit
	for i := range maxDepartures + 1 {
		v := s.next(t)
		alive(t, v.open(t, 0))
		v.GoAway(tunnel.GoAway{})
		if i == 0 {
			first = v
		}
		if i == maxDepartures {
			within(t, v.Done())
		} else if over(v) {
			t.Fatal("a session has ended")
		}
	}
	if over(first) {
		t.Error("the first has ended")
	}
	alive(t, s.next(t).open(t, 0))
}

// TestDrain is a stop of the client: the server is told, what is under way ends in good
// order, and Run returns then.
func TestDrain(t *testing.T) {
	s := newServer(t)
	a := newAgent(t, s.url, "http://"+echo(t)).run(t)
	v := s.next(t)
	under := v.open(t, 0)
	alive(t, under)
	a.stop()
	if g := within(t, v.goAway); g.Reason != "the client is shutting down" || g.Code != tunnel.CodeNone {
		t.Errorf("told %+v", g)
	}
	a.log.await(t, "draining", "streams", "1", "at_most", "20s")
	if a.Connected() {
		t.Error("it is ready for visitors")
	}
	alive(t, under)
	select {
	case <-a.done:
		t.Fatal("it did not wait")
	default:
	}
	finish(t, under)
	within(t, a.done)
	within(t, v.Done())
}

// TestDrainCut ends what lasts too long as a reset, on both sides.
func TestDrainCut(t *testing.T) {
	s := newServer(t)
	seen := make(chan error, 1)
	up := listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "x")
		_, err := io.Copy(io.Discard, c)
		seen <- err
	})
	a := newAgent(t, s.url, "http://"+up, func(c *Config) { c.Drain = 50 * time.Millisecond }).run(t)
	st := s.next(t).open(t, 0)
	must(t, second(io.ReadFull(st, make([]byte, 1))))
	a.stop()
	within(t, a.done)
	a.log.await(t, "drain cut off", "streams", "1")
	if _, err := io.Copy(io.Discard, st); err == nil {
		t.Error("the visitor's end looks clean")
	}
	if err := within(t, seen); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the upstream saw %v", err)
	}
}

// TestDrainOldSession stops the client while it waits to come back to a server: what the
// old session carries has its time.
func TestDrainOldSession(t *testing.T) {
	s := newServer(t)
	a := newAgent(t, s.url, "http://"+echo(t)).run(t)
	v := s.next(t)
	under := v.open(t, 0)
	alive(t, under)
	v.GoAway(tunnel.GoAway{After: time.Minute})
	a.log.await(t, "server is leaving")
	a.stop()
	within(t, v.goAway)
	alive(t, under)
	finish(t, under)
	within(t, a.done)
}

// TestLateStream has a stream be opened by a server that has not yet heard that the client
// leaves: it is not lost.
func TestLateStream(t *testing.T) {
	s := newServer(t)
	begun, release := make(chan struct{}), make(chan struct{})
	up := listen(t, func(c net.Conn) {
		close(begun)
		<-release
	})
	a := newAgent(t, s.url, "http://"+up)
	a.delays.grace = time.Second
	a.run(t)
	v := s.next(t)
	a.log.await(t, "connected")
	a.stop()
	within(t, v.goAway)                                                                // nothing is under way
	v.raw(t, "\x82\x0e"+"\x01\x00\x00\x06\x00\x00\x02\x00"+"\x00\x00\x00\x01\x00\x00") // OPEN, stream 512
	within(t, begun)
	if over(v) {
		t.Error("the session has ended")
	}
	close(release)
	v.raw(t, "\x82\x08"+"\x04\x00\x00\x00\x00\x00\x02\x00") // FIN
	within(t, a.done)
}
