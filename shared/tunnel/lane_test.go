package tunnel

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// moved fails the test unless both ends have seen streams move to lanes.
func (r *laneRig) moved(tb testing.TB) {
	tb.Helper()
	if r.toPeer.Moves.Load() == 0 || r.toServer.Moves.Load() == 0 {
		tb.Error("nothing has moved to a lane")
	}
}

// Bytes in both directions, with moves to lanes and back wherever they happen to be.
func TestLaneRoundTrip(t *testing.T) {
	overLanes(t, func(t *testing.T, carrier carrierPair, lane connPair) {
		var moves atomic.Uint64
		defer func() {
			if moves.Load() == 0 {
				t.Error("nothing has moved to a lane")
			}
		}()
		for seed := range uint64(4) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 7))
				handle, streams := accepted(t)
				rig := lanesWith(t, carrier, lane, 1+rnd.IntN(100_000), time.Duration(1+rnd.IntN(20))*time.Millisecond, handle)
				var wg sync.WaitGroup
				for i := range uint64(3) {
					here, there := rig.join(t, streams)
					for j, st := range []*Stream{here, there} {
						out, in := 100*seed+10*i+uint64(j), 100*seed+10*i+1-uint64(j)
						size := func(seed uint64) int { return rand.New(rand.NewPCG(seed, 3)).IntN(2 << 20) }
						wg.Go(func() {
							writeInPieces(t, st, pattern(size(out), out), out)
							if err := st.CloseWrite(); err != nil {
								t.Errorf("end: %v", err)
							}
						})
						wg.Go(func() {
							var got []byte
							var err error
							if in%3 == 0 {
								var all collect
								_, err = st.WriteTo(&all)
								got = all
							} else {
								got, err = readInPieces(st, in)
							}
							want := pattern(size(in), in)
							if err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
								t.Errorf("got %d bytes, error %v, with digest %s, want %d with %s", len(got), err, digest(got), len(want), digest(want))
							}
							if err := st.Err(); err != nil {
								t.Errorf("a clean end is %v", err)
							}
						})
					}
				}
				wg.Wait()
				moves.Add(rig.toPeer.Moves.Load())
				for _, s := range []*Session{rig.srv, rig.cli} {
					s.GoAway(GoAway{})
				}
				<-rig.srv.Drained()
				<-rig.cli.Drained()
				for _, c := range []*Counters{&rig.toPeer, &rig.toServer} {
					if refused, timeout, _, broken := c.laneErrors(); refused+timeout+broken != 0 {
						t.Errorf("lanes: %d refused, %d timed out, %d broken", refused, timeout, broken)
					}
				}
			})
		}
	})
}

type collect []byte

func (c *collect) Write(p []byte) (int, error) {
	*c = append(*c, p...)
	return len(p), nil
}

// The whole way of a TCP connection: socket, relay, stream, relay, socket.
func TestLaneRelay(t *testing.T) {
	for _, kind := range socketKinds {
		t.Run(kind.name, func(t *testing.T) {
			overLanes(t, func(t *testing.T, carrier carrierPair, lane connPair) {
				var relays sync.WaitGroup
				defer relays.Wait()
				upstreams := make(chan net.Conn, 1)
				rig := lanesWith(t, carrier, lane, 100_000, 5*time.Millisecond, func(st *Stream) {
					_ = st.Accept()
					if err := Relay(st, <-upstreams, 0); err != nil {
						t.Errorf("relay to the upstream: %v", err)
					}
				})
				for round := range uint64(3) {
					upstream, app := kind.pair(t)
					upstreams <- upstream
					inner, visitor := kind.pair(t)
					st := open(t, rig.srv)
					relays.Go(func() {
						if err := Relay(st, inner, 0); err != nil {
							t.Errorf("relay to the visitor: %v", err)
						}
					})
					var wg sync.WaitGroup
					up, down := pattern(int(3<<20+round), 10+round), pattern(int(4<<20+7*round), 20+round)
					exchange := func(c net.Conn, out, in []byte) {
						wg.Go(func() {
							writeInPieces(t, c, out, round)
							if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
								t.Errorf("end: %v", err)
							}
						})
						wg.Go(func() { wantAll(t, c, in) })
					}
					exchange(visitor, up, down)
					exchange(app, down, up)
					wg.Wait()
				}
				rig.moved(t)
			})
		})
	}
}

// bulky writes until the stream is on a lane, and returns what it wrote.
func bulky(tb testing.TB, st *Stream) []byte {
	tb.Helper()
	var all []byte
	for seed := uint64(0); st.sess.cfg.Counters.Moves.Load() == 0; seed++ {
		p := pattern(40_000, seed)
		write(tb, st, p)
		all = append(all, p...)
		if len(all) > 1<<28 {
			tb.Fatal("the stream does not move to a lane")
		}
	}
	return all
}

// onLane returns the ends of a stream of which the bytes from one to the other are on a
// lane, and what has been read from it.
func onLane(t *testing.T, rig *laneRig, streams <-chan *Stream, up bool) (from, to *Stream) {
	t.Helper()
	to, from = rig.join(t, streams)
	if !up {
		to, from = from, to
	}
	wrote := make(chan int, 1)
	go func() {
		defer close(wrote) // if it fails
		wrote <- len(bulky(t, from))
	}()
	total := 0
	buf := make([]byte, 1<<16)
	for want := -1; total != want; {
		select {
		case n, ok := <-wrote:
			if !ok {
				t.FailNow()
			}
			want, wrote = n, nil
			continue
		default:
		}
		_ = to.SetReadDeadline(time.Now().Add(time.Millisecond))
		n, err := to.Read(buf)
		if total += n; err != nil && !isTimeout(err) {
			t.Fatal(err)
		}
	}
	_ = to.SetReadDeadline(time.Time{})
	return from, to
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// long is longer than any test takes.
const long = time.Minute

// overDirections runs a test over every kind of lane in both directions, with a stream of
// which the bytes from one end to the other are on a lane; grace is laneGrace.
func overDirections(t *testing.T, grace time.Duration, f func(t *testing.T, rig *laneRig, from, to *Stream)) {
	t.Helper()
	overLanes(t, func(t *testing.T, carrier carrierPair, lane connPair) {
		for _, up := range []bool{true, false} {
			t.Run(map[bool]string{true: "up", false: "down"}[up], func(t *testing.T) {
				handle, streams := accepted(t)
				rig := lanesWith(t, carrier, lane, 100_000, time.Minute, handle, grace)
				rig.streams = streams
				from, to := onLane(t, rig, streams, up)
				f(t, rig, from, to)
			})
		}
	})
}

// Half-close behind a move, and the other direction goes on.
func TestLaneHalfClose(t *testing.T) {
	overDirections(t, long, func(t *testing.T, rig *laneRig, from, to *Stream) {
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { // some lanes have no buffer
			write(t, from, []byte("the rest"))
			if err := from.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		wantAll(t, to, []byte("the rest"))
		wg.Wait()
		write(t, to, []byte("an answer"))
		if err := to.CloseWrite(); err != nil {
			t.Error(err)
		}
		wantAll(t, from, []byte("an answer"))
		if n, err := from.Write([]byte("more")); n != 0 || err != io.ErrClosedPipe {
			t.Errorf("wrote %d bytes behind the end, error %v", n, err)
		}
	})
}

// A reset reaches the reader with its reason, whichever side it comes from.
func TestLaneReset(t *testing.T) {
	overDirections(t, long, func(t *testing.T, rig *laneRig, from, to *Stream) {
		from.Reset(CodeRefused, "enough")
		wantReset(t, to, CodeRefused, "enough")
		_, err := to.Write([]byte("x"))
		wantResetError(t, err, CodeRefused, "enough")
	})
	overDirections(t, long, func(t *testing.T, rig *laneRig, from, to *Stream) {
		to.Reset(CodeRefused, "enough")
		buf := make([]byte, 1<<20)
		var err error
		for err == nil {
			_, err = from.Write(buf)
		}
		wantResetError(t, err, CodeRefused, "enough")
	})
}

// A reader who leaves when the sender has said all is no break of the lane, whether or not
// there is still a RESET that could say so.
func TestLaneLeftUnread(t *testing.T) {
	for _, first := range []bool{true, false} { // the reader's own end came before
		overDirections(t, 50*time.Millisecond, func(t *testing.T, rig *laneRig, from, to *Stream) {
			if first {
				if err := to.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				wantAll(t, from, nil)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				write(t, from, pattern(1000, 1))
				_ = from.CloseWrite()
			})
			wantBytes(t, to, pattern(1000, 1))
			wg.Wait()
			if first {
				for over := false; !over; runtime.Gosched() {
					to.mu.Lock()
					over = to.finRecv
					to.mu.Unlock()
				}
			}
			_ = to.Close()
			for rig.toServer.Lanes.Load()+rig.toPeer.Lanes.Load() > 0 {
				runtime.Gosched()
			}
			for _, c := range []*Counters{&rig.toServer, &rig.toPeer} {
				if _, _, _, broken := c.laneErrors(); broken > 0 {
					t.Error("the lane counts as broken")
				}
			}
			if rig.cli.lanesPaused() {
				t.Error("no more lanes are tried")
			}
		})
	}
}

// Deadlines work on a lane, and a read goes on after one.
func TestLaneDeadlines(t *testing.T) {
	overDirections(t, long, func(t *testing.T, rig *laneRig, from, to *Stream) {
		for range 3 {
			_ = to.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
			if n, err := to.Read(make([]byte, 1)); n != 0 || !isTimeout(err) {
				t.Fatalf("read %d bytes, error %v", n, err)
			}
			_ = to.SetReadDeadline(time.Time{})
			p := pattern(100_000, 3)
			go write(t, from, p)
			wantBytes(t, to, p)
		}
		buf := make([]byte, 1<<20)
		for wait := 10 * time.Millisecond; from.Err() == nil; wait *= 2 { // one that has passed before the write costs nothing
			_ = from.SetWriteDeadline(time.Now().Add(wait))
			var err error
			for err == nil {
				_, err = from.Write(buf)
			}
			if !isTimeout(err) {
				t.Fatalf("the write ended with %v", err)
			}
		}
		// Nobody knows how much of that arrives: the stream is over.
		wantReset(t, to, CodeTimeout, "a write on a lane took too long")
	})
}

// A stream that is idle goes back to the session, and can move again.
func TestLaneIdle(t *testing.T) {
	overLanes(t, func(t *testing.T, carrier carrierPair, lane connPair) {
		for _, up := range []bool{true, false} {
			handle, streams := accepted(t)
			rig := lanesWith(t, carrier, lane, 100_000, 10*time.Millisecond, handle)
			to, from := rig.join(t, streams)
			if !up {
				to, from = from, to
			}
			var got collect
			read := make(chan error, 1)
			go func() {
				_, err := to.WriteTo(&got)
				read <- err
			}()
			var sent []byte
			for range 3 {
				for seed := uint64(0); from.lane() == nil; seed++ {
					p := pattern(40_000, seed)
					write(t, from, p)
					sent = append(sent, p...)
				}
				l := from.lane()
				if l == nil {
					continue // back already
				}
				<-l.over
			}
			write(t, from, []byte("end"))
			_ = from.CloseWrite()
			if err := <-read; err != nil {
				t.Error(err)
			}
			if sent = append(sent, "end"...); sha256.Sum256(got) != sha256.Sum256(sent) {
				t.Errorf("got %d bytes with digest %s, want %d with %s", len(got), digest(got), len(sent), digest(sent))
			}
			rig.moved(t)
		}
	})
}

// lane returns the lane on which the stream sends.
func (st *Stream) lane() *lane {
	st.mu.Lock()
	defer st.mu.Unlock()
	if l := st.lanes.out; l != nil && l.state >= laneMoved {
		return l
	}
	return nil
}

// A reader that does not read stalls its lane, and nothing else.
func TestLaneSlowReader(t *testing.T) {
	overDirections(t, long, func(t *testing.T, rig *laneRig, from, to *Stream) {
		stalled := make(chan error, 1)
		go func() { // more than sockets hold
			_, err := from.Write(make([]byte, 64<<20))
			stalled <- err
		}()
		other, there := rig.join(t, rig.streams)
		for i := range 200 {
			p := pattern(3000, uint64(i))
			write(t, other, p)
			wantBytes(t, there, p)
			write(t, there, p)
			wantBytes(t, other, p)
		}
		select {
		case err := <-stalled:
			t.Fatalf("64 MiB were written with nobody reading: %v", err)
		default:
		}
		to.Reset(CodeCancelled, "enough")
		wantResetError(t, <-stalled, CodeCancelled, "enough")
	})
}

// A session has something under way until the last byte on its lanes was read.
func TestLaneDrain(t *testing.T) {
	overDirections(t, long, func(t *testing.T, rig *laneRig, from, to *Stream) {
		want := pattern(3<<20, 9)
		wrote := make(chan error, 1)
		go func() {
			_, err := from.Write(want)
			wrote <- errors.Join(err, from.CloseWrite())
		}()
		_ = to.CloseWrite() // from here on the stream is over but for the lane
		for _, s := range []*Session{rig.srv, rig.cli} {
			s.GoAway(GoAway{Reason: "leaving"})
		}
		select {
		case <-from.sess.Drained():
			t.Error("drained with bytes on the lane")
		case <-to.sess.Drained():
			t.Error("drained with bytes on the lane")
		default:
		}
		wantAll(t, to, want)
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		<-rig.srv.Drained()
		<-rig.cli.Drained()
	})
}

// A client that has a proxy on its way sends no bytes of others as they are.
func TestLaneMasked(t *testing.T) {
	if !canSplice {
		t.Skip("what is not spliced is masked anyway")
	}
	for _, masked := range []bool{true, false} {
		var wire collect
		var taps sync.WaitGroup
		tapped := func(tb testing.TB) (net.Conn, net.Conn) {
			server, a := rawioPair(tb)
			b, client := rawioPair(tb)
			taps.Go(func() { _, _ = io.Copy(b, a) })
			taps.Go(func() { _, _ = io.Copy(io.MultiWriter(a, &wire), b) })
			return server, client
		}
		upstream, app := rawioPair(t)
		rig := lanesWith(t, carriers[1].pair, tapped, 100_000, time.Minute, func(st *Stream) {
			_ = st.Accept()
			_ = Relay(st, upstream, 0)
		})
		rig.cli.cfg.Lanes.Masked = masked
		st := open(t, rig.srv)
		words := bytes.Repeat([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 100_000)
		taps.Go(func() {
			for rig.toServer.Moves.Load() == 0 {
				write(t, app, words)
			}
			write(t, app, words)
			app.Close()
		})
		if n, err := io.Copy(io.Discard, st); err != nil || int(n)%len(words) != 0 {
			t.Errorf("read %d bytes, error %v", n, err)
		}
		_ = st.CloseWrite()
		for _, s := range []*Session{rig.srv, rig.cli} {
			s.GoAway(GoAway{})
			<-s.Drained()
		}
		taps.Wait()
		rig.moved(t)
		if seen := bytes.Contains(wire, words[:100]); seen == masked {
			t.Errorf("masked: %v, and the bytes are seen: %v", masked, seen)
		}
	}
}

// Where streams end soon after they have become bulky, it takes more to make one bulky.
func TestLaneReluctance(t *testing.T) {
	const after = 1000
	s := &Session{cfg: Config{Lanes: &Lanes{After: after}}}
	for _, c := range []struct {
		sent int64
		want int32
	}{
		{0, 1}, {after, 2}, {4*after - 1, 3}, {8 * after, 3}, {0, 4}, {0, 4}, {16 * after, 4}, {64 * after, 0}, {after, 0}, {4 * after, 0}, {after - 1, 1},
	} {
		if s.judge(c.sent); s.reluctance.Load() != c.want {
			t.Errorf("after %d bytes on a lane: %d, want %d", c.sent, s.reluctance.Load(), c.want)
		}
	}
}

// The lane of a stream that ends at once is such a lane, and one that carries on is none.
func TestLaneJudged(t *testing.T) {
	overDirections(t, long, func(t *testing.T, rig *laneRig, from, to *Stream) {
		l := from.lane()
		go func() {
			write(t, from, make([]byte, 5<<20))
			_ = from.CloseWrite()
		}()
		if n, err := io.Copy(io.Discard, to); n != 5<<20 || err != nil {
			t.Errorf("%d bytes, error %v", n, err)
		}
		<-l.over
		if r := from.sess.reluctance.Load(); r != 0 {
			t.Errorf("reluctance %d behind a lane that was used", r)
		}
	})
	overDirections(t, long, func(t *testing.T, rig *laneRig, from, to *Stream) {
		l := from.lane()
		from.Reset(CodeCancelled, "enough")
		<-l.over
		if r := from.sess.reluctance.Load(); r != 1 {
			t.Errorf("reluctance %d behind a lane that was hardly used", r)
		}
	})
}

// TestLaneAfterLongPing is about sessions whose only pings so far came when the machine was busy: a stream that is bulky,
// were the way as short as it is, has it measured again.
func TestLaneAfterLongPing(t *testing.T) {
	overLanes(t, func(t *testing.T, carrier carrierPair, lane connPair) {
		for _, up := range []bool{true, false} {
			handle, streams := accepted(t)
			rig := lanesWith(t, carrier, lane, 100_000, time.Minute, handle)
			for _, s := range []*Session{rig.srv, rig.cli} {
				for s.RTT() == 0 {
					runtime.Gosched()
				}
				s.rtt.mu.Lock()
				s.rtt.last, s.rtt.n = [8]time.Duration{time.Minute}, 1
				s.rtt.low.Store(int64(time.Minute))
				s.rtt.mu.Unlock()
			}
			onLane(t, rig, streams, up)
		}
	})
}
