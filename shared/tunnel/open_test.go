package tunnel

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
)

func TestOpen(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		targets := make(chan Target, 1)
		srv, cli := sessions(t, pair, Config{}, Config{Handle: func(st *Stream) {
			targets <- st.Target()
			echo(st)
		}})
		want := Target{Upstream: 3, Visitor: "192.0.2.1:4711", Local: "198.51.100.7:443"}
		st, err := srv.Open(context.Background(), want)
		if err != nil {
			t.Fatal(err)
		}
		if got := <-targets; got != want {
			t.Errorf("target is %+v, want %+v", got, want)
		}
		if srv.Streams() != 1 || cli.Streams() != 1 {
			t.Errorf("%d and %d streams, want 1", srv.Streams(), cli.Streams())
		}
		if st.Session() != srv || st.RemoteAddr() == nil || st.LocalAddr() == nil {
			t.Error("the stream does not know its session")
		}
		write(t, st, []byte("hello"))
		_ = st.CloseWrite()
		wantAll(t, st, []byte("hello"))
		st.Close()
		srv.GoAway(GoAway{}) // to have something to wait for
		<-srv.Drained()
		<-cli.Drained()
		if srv.Streams() != 0 || cli.Streams() != 0 {
			t.Errorf("%d and %d streams in the end", srv.Streams(), cli.Streams())
		}
	})
}

func TestOpenBothWays(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		srv, cli := sessions(t, pair, Config{Handle: echo}, Config{Handle: echo})
		var wg sync.WaitGroup
		for i := range 20 {
			s := srv
			if i%2 == 1 {
				s = cli
			}
			wg.Go(func() {
				st, err := s.Open(context.Background(), Target{})
				if err != nil {
					t.Error(err)
					return
				}
				defer st.Close()
				want := pattern(1000+i, uint64(i))
				write(t, st, want)
				_ = st.CloseWrite()
				wantAll(t, st, want)
			})
		}
		wg.Wait()
	})
}

func TestRefuse(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		srv, _ := sessions(t, pair, Config{}, Config{Handle: func(st *Stream) {
			code := Code(st.Target().Upstream)
			st.Reset(code, "because of "+code.String())
		}})
		for code := CodeNone; code <= CodeDead; code++ {
			st, err := srv.Open(context.Background(), Target{Upstream: int(code)})
			if st != nil {
				t.Errorf("%s: there is a stream", code)
			}
			wantResetError(t, err, code, "because of "+code.String())
		}
		if n := srv.Streams(); n != 0 {
			t.Errorf("%d streams left", n)
		}
	})
}

func TestRefusedByDefault(t *testing.T) {
	t.Run("no handler", func(t *testing.T) {
		srv, _ := sessions(t, pipePair, Config{}, Config{})
		_, err := srv.Open(context.Background(), Target{})
		wantResetError(t, err, CodeNoUpstream, "this side accepts no streams")
	})
	t.Run("handler decides nothing", func(t *testing.T) {
		srv, _ := sessions(t, pipePair, Config{}, Config{Handle: func(*Stream) {}})
		_, err := srv.Open(context.Background(), Target{})
		wantResetError(t, err, CodeInternal, "the handler neither accepted nor refused")
	})
}

func TestAcceptTwice(t *testing.T) {
	srv, _, here, there := join(t, pipePair, Config{}, Config{})
	if there.Accept() == nil || here.Accept() == nil {
		t.Error("no error")
	}
	write(t, there, []byte("still there"))
	wantBytes(t, here, []byte("still there"))
	if err := srv.Err(); err != nil {
		t.Errorf("the session ended: %v", err)
	}
}

func TestOpenWithContext(t *testing.T) {
	t.Run("ended before", func(t *testing.T) {
		s, p := script(t, Config{})
		cause := errors.New("nobody wants it")
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		if _, err := s.Open(ctx, Target{}); !errors.Is(err, cause) {
			t.Errorf("error is %v, want %v", err, cause)
		}
		p.send(appendHeader(nil, framePing, 8, 0), make([]byte, 8))
		for f := range p.frames {
			if f.typ == framePong {
				break
			}
			if f.typ != framePing {
				t.Errorf("the peer got %s", f.typ)
			}
		}
	})
	overEach(t, func(t *testing.T, pair carrierPair) {
		cause := errors.New("no longer wanted")
		ctx, cancel := context.WithCancelCause(context.Background())
		reset := make(chan error, 1)
		srv, _ := sessions(t, pair, Config{}, Config{Handle: func(st *Stream) {
			cancel(cause)
			<-st.writable // poked by the reset
			reset <- st.Accept()
		}})
		if _, err := srv.Open(ctx, Target{}); !errors.Is(err, cause) {
			t.Errorf("error is %v, want %v", err, cause)
		}
		wantResetError(t, <-reset, CodeCancelled, "no longer wanted")
		if n := srv.Streams(); n != 0 {
			t.Errorf("%d streams left", n)
		}
	})
}

func TestMaxStreams(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		srv, cli, here, _ := join(t, pair, Config{MaxStreams: 2}, Config{MaxStreams: 2})
		second := open(t, srv)
		if _, err := srv.Open(context.Background(), Target{}); !errors.Is(err, ErrTooManyStreams) {
			t.Errorf("error is %v, want ErrTooManyStreams", err)
		}
		if _, err := cli.Open(context.Background(), Target{}); !errors.Is(err, ErrTooManyStreams) {
			t.Errorf("error of the other side is %v, want ErrTooManyStreams", err)
		}
		here.Close()
		second.Close()
	})
}

func TestMaxStreamsOfPeer(t *testing.T) {
	srv, _, _, _ := join(t, pipePair, Config{}, Config{MaxStreams: 1})
	_, err := srv.Open(context.Background(), Target{})
	wantResetError(t, err, CodeOverload, "too many streams on the session")
}

// A peer that opens and resets in a loop must not start handlers without bound, though
// its streams are over at once.
func TestMaxHandlers(t *testing.T) {
	const limit = 3
	running := make(chan struct{}, 100)
	release := make(chan struct{})
	s, p := script(t, Config{Client: true, MaxStreams: limit, Handle: func(st *Stream) {
		running <- struct{}{}
		<-release
		st.Reset(CodeRefused, "late")
	}})
	for id := uint32(2); id <= 20; id += 2 {
		p.send(openFrame(id, 1000), resetFrame(id, CodeCancelled, ""))
	}
	for id := uint32(2 + 2*limit); id <= 20; id += 2 {
		if f := p.want(frameReset); f.stream != id {
			t.Errorf("stream %d refused, want %d", f.stream, id)
		}
	}
	if n := s.Streams(); n != limit {
		t.Errorf("%d streams, want %d", n, limit)
	}
	close(release)
	s.GoAway(GoAway{})
	<-s.Drained()
	if n := len(running); n != limit {
		t.Errorf("%d handlers ran, want %d", n, limit)
	}
}

// The numbers of streams come again after 2³¹; those in use are passed over.
func TestNumbersComeAgain(t *testing.T) {
	for _, c := range []struct {
		name   string
		client bool
		last   uint32
		want   uint32
	}{
		{"server", false, math.MaxUint32 - 1, 4},
		{"client", true, math.MaxUint32, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, p := script(t, Config{Client: c.client})
			first := p.openTo(s, 10)
			defer first.Close()
			s.mu.Lock()
			s.nextID = c.last
			s.mu.Unlock()
			for _, want := range []uint32{c.last, c.want} {
				st := p.openTo(s, 10)
				defer st.Close()
				if st.id != want {
					t.Errorf("stream has number %d, want %d", st.id, want)
				}
			}
		})
	}
}

func TestOpenRefusesBadTarget(t *testing.T) {
	srv, _ := sessions(t, pipePair, Config{}, Config{Handle: echo})
	for _, target := range []Target{{Upstream: 1 << 16}, {Upstream: -1}, {Visitor: strings.Repeat("x", 2000)}} {
		if _, err := srv.Open(context.Background(), target); err == nil {
			t.Errorf("%+v was sent", target)
		}
	}
	if err := srv.Err(); err != nil {
		t.Errorf("the session ended: %v", err)
	}
}

func TestCounters(t *testing.T) {
	var server, client Counters
	srv, cli, here, there := join(t, pipePair, Config{Counters: &server}, Config{Counters: &client})
	write(t, here, make([]byte, 1000))
	wantBytes(t, there, make([]byte, 1000))
	if server.Sent.Load() != 1000 || client.Received.Load() != 1000 || client.Sent.Load() != 0 {
		t.Errorf("sent %d, received %d", server.Sent.Load(), client.Received.Load())
	}
	if server.Active.Load() != 1 || client.Active.Load() != 1 || server.Streams.Load() != 1 {
		t.Errorf("%d and %d active", server.Active.Load(), client.Active.Load())
	}
	here.Close()
	srv.GoAway(GoAway{})
	<-cli.Drained()
	if server.Active.Load() != 0 || client.Active.Load() != 0 || server.Streams.Load() != 1 {
		t.Errorf("%d and %d active in the end", server.Active.Load(), client.Active.Load())
	}
}
