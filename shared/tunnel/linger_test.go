package tunnel

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rig is a relay between a stream of a scripted peer and a connection in memory, in a
// bubble: time costs nothing and is exact.
type rig struct {
	t     *testing.T
	peer  *peer
	st    *Stream
	near  halfConn // the connection's free end
	ended chan error
	start time.Time
}

func inBubble(t *testing.T, linger time.Duration, f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, p := script(t, Config{PingInterval: 24 * time.Hour})
		a, b := duplexPair()
		r := &rig{t: t, peer: p, st: p.openTo(s, 1<<20), near: b.(halfConn), ended: make(chan error, 1), start: time.Now()}
		var wg sync.WaitGroup
		wg.Go(func() { r.ended <- Relay(r.st, a, linger) })
		f(r)
		b.Close()
		wg.Wait()
	})
}

// wantEnd waits for the relay and wants its error and the time since the start.
func (r *rig) wantEnd(want error, after time.Duration) {
	r.t.Helper()
	err := <-r.ended
	var reset *ResetError
	switch {
	case errors.As(want, &reset):
		wantResetError(r.t, err, reset.Code, reset.Reason)
	case !errors.Is(err, want):
		r.t.Errorf("relay: %v, want %v", err, want)
	}
	if took := time.Since(r.start); took != after {
		r.t.Errorf("the relay ended after %v, want %v", took, after)
	}
}

func (r *rig) send(frames ...[]byte) { r.peer.send(frames...) }

func TestLinger(t *testing.T) {
	const linger = 10 * time.Second
	t.Run("stream ends", func(t *testing.T) {
		inBubble(t, linger, func(r *rig) {
			r.send(finFrame(r.st.id))
			wantAll(t, r.near, nil)
			r.wantEnd(errHalfClosed, linger)
			f := r.peer.want(frameReset)
			if string(f.payload[4:]) != "the connection behind the stream broke off" {
				t.Errorf("the peer was told %q", f.payload[4:])
			}
		})
	})
	t.Run("connection ends", func(t *testing.T) {
		inBubble(t, linger, func(r *rig) {
			_ = r.near.CloseWrite()
			r.peer.want(frameFin)
			r.wantEnd(errHalfClosed, linger)
			r.peer.want(frameReset)
		})
	})
	t.Run("both end", func(t *testing.T) {
		inBubble(t, linger, func(r *rig) {
			_ = r.near.CloseWrite()
			<-time.After(linger - 1)
			r.send(finFrame(r.st.id))
			r.wantEnd(nil, linger-1)
		})
	})
	t.Run("neither ends", func(t *testing.T) {
		inBubble(t, linger, func(r *rig) {
			<-time.After(time.Hour)
			r.send(finFrame(r.st.id))
			_ = r.near.CloseWrite()
			r.wantEnd(nil, time.Hour)
		})
	})
	t.Run("without a linger", func(t *testing.T) {
		inBubble(t, 0, func(r *rig) {
			_ = r.near.CloseWrite()
			<-time.After(time.Hour)
			r.send(finFrame(r.st.id))
			r.wantEnd(nil, time.Hour)
		})
	})
}

// Bytes that move keep a half-closed relay alive, however slowly.
func TestLingerSeesBytes(t *testing.T) {
	const linger = 10 * time.Second
	t.Run("to the stream", func(t *testing.T) {
		inBubble(t, linger, func(r *rig) {
			r.send(finFrame(r.st.id))
			for range 10 {
				<-time.After(linger - 1)
				write(t, r.near, []byte("x"))
			}
			_ = r.near.CloseWrite()
			r.wantEnd(nil, 10*(linger-1))
		})
	})
	t.Run("to the connection", func(t *testing.T) {
		inBubble(t, linger, func(r *rig) {
			_ = r.near.CloseWrite()
			for range 10 {
				<-time.After(linger - 1)
				r.send(dataFrame(r.st.id, []byte("x")))
				wantBytes(t, r.near, []byte("x"))
			}
			r.send(finFrame(r.st.id))
			r.wantEnd(nil, 10*(linger-1))
		})
	})
	t.Run("to a slow connection", func(t *testing.T) {
		inBubble(t, 2*linger, func(r *rig) {
			want := pattern(200_000, 1)
			for p := want; len(p) > 0; p = p[40_000:] {
				r.send(dataFrame(r.st.id, p[:40_000]))
			}
			r.send(finFrame(r.st.id))
			_ = r.near.CloseWrite()
			took := readSlowly(t, r.near, want, 1000, time.Second)
			r.wantEnd(nil, took)
		})
	})
}

// readSlowly reads want and then the end, in pieces with a pause behind each.
func readSlowly(t *testing.T, r io.Reader, want []byte, piece int, pause time.Duration) (took time.Duration) {
	t.Helper()
	start := time.Now()
	for len(want) > 0 {
		n := min(piece, len(want))
		wantBytes(t, r, want[:n])
		if t.Failed() {
			return time.Since(start)
		}
		want = want[n:]
		<-time.After(pause)
	}
	wantAll(t, r, nil)
	return time.Since(start)
}

// When the stream breaks after its last byte had come, those bytes were complete: the
// connection gets them and a clean end.
func TestRelayHandsOnWhatIsComplete(t *testing.T) {
	want := pattern(100_000, 1)
	complete := func(r *rig) {
		r.send(dataFrame(r.st.id, want[:60_000]), dataFrame(r.st.id, want[60_000:]), finFrame(r.st.id))
	}
	broken := &ResetError{Code: CodeCancelled, Reason: "closed"}
	for _, c := range []struct {
		name  string
		cut   func(r *rig)
		error error
	}{
		{"reset", func(r *rig) { r.send(resetFrame(r.st.id, CodeCancelled, "closed")) }, broken},
		{"session lost", func(r *rig) { r.peer.conn.Close() }, io.EOF},
	} {
		t.Run(c.name+" while it is queued", func(t *testing.T) {
			inBubble(t, 0, func(r *rig) {
				complete(r)
				c.cut(r)
				took := readSlowly(t, r.near, want, 1000, time.Second)
				r.wantEnd(c.error, took)
			})
		})
		t.Run(c.name+" when it is written", func(t *testing.T) {
			inBubble(t, 0, func(r *rig) {
				complete(r)
				wantAll(t, r.near, want)
				synctest.Wait()
				c.cut(r)
				r.wantEnd(c.error, 0)
			})
		})
		t.Run(c.name+" before the relay began", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := script(t, Config{PingInterval: 24 * time.Hour})
				a, b := duplexPair()
				defer b.Close()
				r := &rig{t: t, peer: p, st: p.openTo(s, 10), near: b.(halfConn), ended: make(chan error, 1), start: time.Now()}
				complete(r)
				c.cut(r)
				synctest.Wait()
				go func() { r.ended <- Relay(r.st, a, 0) }()
				wantAll(t, r.near, want)
				r.wantEnd(c.error, 0)
			})
		})
		t.Run(c.name+", and nobody reads", func(t *testing.T) {
			inBubble(t, 0, func(r *rig) {
				complete(r)
				c.cut(r)
				r.wantEnd(c.error, cutLinger)
			})
		})
		t.Run(c.name+", and the connection breaks", func(t *testing.T) {
			inBubble(t, 0, func(r *rig) {
				complete(r)
				c.cut(r)
				<-time.After(time.Second)
				r.near.Close()
				r.wantEnd(c.error, time.Second)
			})
		})
	}
	// Close ends even that at once.
	t.Run("session closed", func(t *testing.T) {
		inBubble(t, 0, func(r *rig) {
			complete(r)
			synctest.Wait()
			_ = r.st.sess.Close()
			r.wantEnd(ErrClosed, 0)
		})
	})
}

// lastWords is a connection whose last bytes come together with its end.
type lastWords struct{ net.Conn }

func (lastWords) Read(p []byte) (int, error) { return copy(p, "hello"), io.EOF }

// If these bytes cannot be sent, the end is not a clean one.
func TestRelayLosesLastWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := script(t, Config{})
		st := p.openTo(s, 2)
		_ = st.SetWriteDeadline(time.Now().Add(time.Second))
		a, b := net.Pipe()
		defer b.Close()
		if err := Relay(st, lastWords{a}, 0); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("relay: %v", err)
		}
		if got := []string{p.nextOf(st.id), p.nextOf(st.id)}; got[0] != "DATA he" || got[1] != "RESET broken the connection behind the stream broke off" {
			t.Errorf("the peer got %q", got)
		}
	})
}

// A relay that has ended lets nothing run on, though its linger was just looking.
func TestLingerEndsWithRelay(t *testing.T) {
	r := &relay{linger: time.Hour}
	r.halfEnded()
	r.moved.Store(true)
	_ = r.finish()
	r.look()
	if r.timer.Stop() {
		t.Error("the timer was started again")
	}
	r = &relay{linger: time.Hour}
	_ = r.finish()
	r.halfEnded()
	if r.timer != nil {
		t.Error("a timer was started")
	}
}

// Closing a session ends the relays of its handlers, though their streams are over and
// only a connection that does not read keeps them.
func TestCloseEndsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := duplexPair()
		defer b.Close()
		ended := make(chan error, 1)
		s, p := script(t, Config{PingInterval: time.Hour, Handle: func(st *Stream) {
			_ = st.Accept()
			ended <- Relay(st, a, 0)
		}})
		p.send(openFrame(1, 10), dataFrame(1, make([]byte, 1000)), finFrame(1))
		_ = b.(halfConn).CloseWrite()
		p.want(frameFin)
		synctest.Wait()
		if n := s.Streams(); n != 1 {
			t.Errorf("%d streams, want 1", n)
		}
		start := time.Now()
		_ = s.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("relay: %v", err)
		}
	})
}
