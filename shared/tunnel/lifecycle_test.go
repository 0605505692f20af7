package tunnel

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestGoAway(t *testing.T) {
	for _, by := range []string{"server", "client"} {
		t.Run("by the "+by, func(t *testing.T) {
			overEach(t, func(t *testing.T, pair carrierPair) {
				heard := make(chan GoAway, 10)
				listen := func(g GoAway) { heard <- g }
				handle, accepted := accepted(t)
				srv, cli := sessions(t, pair, Config{GoAway: listen}, Config{GoAway: listen, Handle: handle})
				here := open(t, srv)
				there := <-accepted

				from := srv
				if by == "client" {
					from = cli
				}
				want := GoAway{Code: CodeOverload, After: 2 * time.Second, Jitter: time.Minute, Reason: "moving"}
				if from.Leaving() {
					t.Error("leaving before")
				}
				from.GoAway(want)
				from.GoAway(GoAway{Reason: "again"})
				if got := <-heard; got != want {
					t.Errorf("goaway is %+v, want %+v", got, want)
				}
				for name, s := range map[string]*Session{"server": srv, "client": cli} {
					if s != from {
						if !s.Leaving() {
							t.Errorf("%s: not leaving", name)
						}
						if _, err := s.Open(context.Background(), Target{}); !errors.Is(err, ErrGoingAway) {
							t.Errorf("%s: error is %v, want ErrGoingAway", name, err)
						}
					}
					select {
					case <-s.Drained():
						t.Errorf("%s: drained with a stream under way", name)
					default:
					}
				}
				// Visitors who came before they could know are still served.
				if by == "server" {
					late := open(t, srv)
					lateThere := <-accepted
					_ = late.Close()
					_ = lateThere.Close()
				}
				// What is under way goes on.
				question, answer := pattern(300_000, 1), pattern(300_000, 2)
				var wg sync.WaitGroup
				wg.Go(func() {
					write(t, here, question)
					_ = here.CloseWrite()
				})
				wantAll(t, there, question)
				wg.Go(func() {
					write(t, there, answer)
					_ = there.CloseWrite()
				})
				wantAll(t, here, answer)
				wg.Wait()
				<-srv.Drained()
				<-cli.Drained()
				if n := len(heard); n != 0 {
					t.Errorf("told %d times more", n)
				}
			})
		})
	}
}

func TestDrainedWithoutStreams(t *testing.T) {
	srv, cli := sessions(t, pipePair, Config{}, Config{})
	srv.GoAway(GoAway{})
	<-srv.Drained()
	<-cli.Drained()
}

// A stream that is over on the wire still has a handler that hands on its bytes: the
// session is not to be closed under it.
func TestDrainedWaitsForHandlers(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run("goaway "+when+" the end", func(t *testing.T) {
			over, release := make(chan struct{}), make(chan struct{})
			srv, cli := sessions(t, pipePair, Config{}, Config{Handle: func(st *Stream) {
				echo(st)
				close(over)
				<-release
			}})
			st := open(t, srv)
			if when == "before" {
				cli.GoAway(GoAway{})
			}
			_ = st.CloseWrite()
			wantAll(t, st, nil)
			<-over
			if when == "after" {
				cli.GoAway(GoAway{})
			}
			if n := cli.Streams(); n != 1 {
				t.Errorf("%d streams while the handler runs, want 1", n)
			}
			select {
			case <-cli.Drained():
				t.Error("drained while the handler runs")
			default:
			}
			close(release)
			<-cli.Drained()
		})
	}
}

func TestSessionClose(t *testing.T) {
	for _, by := range []string{"server", "client"} {
		t.Run("by the "+by, func(t *testing.T) {
			overEach(t, func(t *testing.T, pair carrierPair) {
				handled := make(chan error, 1)
				srv, cli := sessions(t, pair, Config{}, Config{Handle: func(st *Stream) {
					_ = st.Accept()
					_, err := io.Copy(io.Discard, st)
					handled <- err
				}})
				st := open(t, srv)
				from, to := srv, cli
				if by == "client" {
					from, to = cli, srv
				}
				var wg sync.WaitGroup
				for range 2 { // also twice at once
					wg.Go(func() { _ = from.Close() })
				}
				wg.Wait()
				<-to.Done()
				if err := from.Err(); !errors.Is(err, ErrClosed) {
					t.Errorf("closed session ended with %v", err)
				}
				var ended *SessionError
				if !errors.As(to.Err(), &ended) || ended.Code != CodeBroken {
					t.Errorf("the other one ended with %v", to.Err())
				}
				_ = to.Close()
				if _, err := st.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("read from an opened stream: %v", err)
				}
				if err := <-handled; err == nil {
					t.Error("the handler saw a clean end")
				}
				for _, s := range []*Session{from, to} {
					if _, err := s.Open(context.Background(), Target{}); err == nil || !errors.Is(err, s.Err()) {
						t.Errorf("opened on a closed session: %v", err)
					}
					s.GoAway(GoAway{}) // harmless
					if n := s.Streams(); n != 0 {
						t.Errorf("%d streams left", n)
					}
				}
			})
		})
	}
}

// Whoever leaves when the last stream has ended loses nothing of it.
func TestLeaveWithoutLoss(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		for i := range 20 {
			want := pattern(200_000, uint64(i))
			srv, cli := sessions(t, pair, Config{}, Config{Handle: func(st *Stream) {
				defer st.Close()
				_ = st.Accept()
				wantAll(t, st, nil)
				write(t, st, want)
				_ = st.CloseWrite()
			}})
			st := open(t, srv)
			_ = st.CloseWrite()
			cli.GoAway(GoAway{})
			var wg sync.WaitGroup
			wg.Go(func() {
				<-cli.Drained()
				_ = cli.Close()
			})
			wantAll(t, st, want)
			wg.Wait()
			srv.Close()
		}
	})
}

// Close sends what is pending, even to a peer that only begins to read then.
func TestCloseSendsPending(t *testing.T) {
	s, p := deaf(t, Config{})
	s.GoAway(GoAway{Reason: "bye"})
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = s.Close()
	}()
	<-s.Done()
	p.listen()
	if g := parseGoAway(p.want(frameGoAway).payload); g.Reason != "bye" {
		t.Errorf("goaway is %+v", g)
	}
	<-closed
}

// A peer that does not read holds Close up for three seconds, not for ever.
func TestCloseOnDeafPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := deaf(t, Config{})
		s.GoAway(GoAway{})
		synctest.Wait() // the writer is stuck
		start := time.Now()
		_ = s.Close()
		if took := time.Since(start); took != closeTimeout {
			t.Errorf("it took %v", took)
		}
	})
}

// A peer that reads but never closes does so too.
func TestCloseOnLazyPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, in := newLinkQueue(), newLinkQueue()
		s := New(&link{0, out, in}, Config{})
		start := time.Now()
		_ = s.Close()
		if took := time.Since(start); took != closeTimeout {
			t.Errorf("it took %v", took)
		}
	})
}

// mute is a carrier that cannot write any more once it is switched off.
type mute struct {
	Carrier
	off atomic.Bool
}

func (m *mute) WriteBatch(first, second []byte, timeout time.Duration) error {
	if m.off.Load() {
		return syscall.EPIPE
	}
	return m.Carrier.WriteBatch(first, second, timeout)
}

// A peer that is gone takes no more bytes, but those that it had sent are still read.
func TestReadAfterWriteFailed(t *testing.T) {
	start := func(t *testing.T) (*mute, *Session, *Session, *Stream, *Stream) {
		var m *mute
		srv, cli, here, there := join(t, func(tb testing.TB) (Carrier, Carrier) {
			a, b := linkPair(time.Second)(tb)
			m = &mute{Carrier: a}
			return m, b
		}, Config{}, Config{})
		<-time.After(time.Second)
		return m, srv, cli, here, there
	}
	t.Run("to the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, srv, cli, here, there := start(t)
			want := pattern(10_000, 1)
			write(t, there, want)
			_ = there.CloseWrite()
			synctest.Wait()
			go cli.Close()
			m.off.Store(true)
			srv.Nudge()
			wantAll(t, here, want)
			wantEnd(t, srv, CodeBroken)
			if n, err := here.Write([]byte("x")); n != 0 || err == nil {
				t.Errorf("wrote %d bytes, error %v", n, err)
			}
		})
	})
	t.Run("without an end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, srv, _, _, _ := start(t)
			m.off.Store(true)
			began := time.Now()
			srv.Nudge()
			if ended := wantEnd(t, srv, CodeBroken); !errors.Is(ended, syscall.EPIPE) {
				t.Errorf("session ended with %v", ended)
			}
			if took := time.Since(began); took != closeTimeout {
				t.Errorf("it took %v", took)
			}
		})
	})
}
