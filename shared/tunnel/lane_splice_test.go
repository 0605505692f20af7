package tunnel

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// overSplice runs a test with a stream of which the bytes from one end to the other are on a
// lane, in both directions, and a connection that can be spliced: what is written to visitor
// is to be read from conn. can says whether the lane can be filled so.
func overSplice(t *testing.T, f func(t *testing.T, rig *laneRig, from, to *Stream, conn, visitor net.Conn, can bool)) {
	t.Helper()
	overDirections(t, 50*time.Millisecond, func(t *testing.T, rig *laneRig, from, to *Stream) {
		conn, visitor := rawioPair(t)
		f(t, rig, from, to, conn, visitor, canSplice && from.lane().plain != nil)
	})
}

// No more is taken from a connection than was asked for, and what was taken arrives.
func TestSpliceFromLimit(t *testing.T) {
	overSplice(t, func(t *testing.T, rig *laneRig, from, to *Stream, conn, visitor net.Conn, can bool) {
		if from.Splices() != can {
			t.Fatalf("it splices: %v", from.Splices())
		}
		const behind = 10_000
		for seed, limit := range []int64{0, 1, 2, 4095, 4096, 65_535, 65_536, spliceMost - 1, spliceMost, spliceMost + 1, 3 << 20} {
			p := pattern(int(limit)+behind, uint64(seed))
			var wg sync.WaitGroup
			wg.Go(func() { write(t, visitor, p) })
			if !can {
				wg.Go(func() { wantBytes(t, conn, p) })
			} else {
				wg.Go(func() { wantBytes(t, to, p[:limit]) })
			}
			n, err := from.SpliceFrom(conn, limit)
			if want := map[bool]int64{true: limit}[can]; n != want || err != nil {
				t.Fatalf("%d bytes, error %v, want %d", n, err, want)
			}
			if can {
				wantBytes(t, conn, p[limit:])
			}
			wg.Wait()
		}
		// The same as many steps, with what was written in between.
		if !can {
			return
		}
		p := pattern(5*len("spliced")+5*len("written"), 3)
		go write(t, visitor, p)
		go func() {
			for range 5 {
				if n, err := from.SpliceFrom(conn, int64(len("spliced"))); n != int64(len("spliced")) || err != nil {
					t.Errorf("%d bytes, error %v", n, err)
				}
				buf := make([]byte, len("written"))
				if _, err := io.ReadFull(conn, buf); err != nil {
					t.Error(err)
				}
				write(t, from, buf)
			}
		}()
		wantBytes(t, to, p)
	})
}

// What is wrong with the connection is for its next read to tell.
func TestSpliceFromConnection(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(conn, visitor net.Conn)
		is   func(n int, err error) bool
	}{
		{"closed", func(_, visitor net.Conn) { visitor.Close() }, func(n int, err error) bool { return n == 0 && err == io.EOF }},
		{"reset", func(_, visitor net.Conn) { abort(visitor) }, func(n int, err error) bool { return n == 0 && err != nil }},
		{"deadline", func(conn, _ net.Conn) { _ = conn.SetReadDeadline(time.Unix(1, 0)) }, func(n int, err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }},
		{"closed here", func(conn, _ net.Conn) { conn.Close() }, func(n int, err error) bool { return errors.Is(err, net.ErrClosed) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			overSplice(t, func(t *testing.T, rig *laneRig, from, to *Stream, conn, visitor net.Conn, can bool) {
				if !can {
					return
				}
				go func() {
					write(t, visitor, pattern(1000, 1))
					wantBytes(t, to, pattern(1000, 1))
					c.end(conn, visitor)
				}()
				if n, err := from.SpliceFrom(conn, 5000); n != 1000 || err != nil {
					t.Errorf("%d bytes, error %v", n, err)
				}
				if n, err := conn.Read(make([]byte, 10)); !c.is(n, err) {
					t.Errorf("the next read: %d bytes, %v", n, err)
				}
				if err := from.Err(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A stream that breaks ends it, also while nobody reads the lane.
func TestSpliceFromStreamBreaks(t *testing.T) {
	for _, cut := range []bool{true, false} {
		overSplice(t, func(t *testing.T, rig *laneRig, from, to *Stream, conn, visitor net.Conn, can bool) {
			if !can {
				return
			}
			const size = 64 << 20 // more than sockets hold
			go func() { _, _ = visitor.Write(make([]byte, size)) }()
			before := from.carried.sent.Load()
			go func() {
				for from.carried.sent.Load() == before {
					runtime.Gosched()
				}
				if cut {
					rig.cut()
				} else {
					to.Reset(CodeRefused, "enough")
				}
			}()
			n, err := from.SpliceFrom(conn, size)
			visitor.Close()
			var reset *ResetError
			if n == 0 || n >= size || !errors.As(err, &reset) {
				t.Errorf("%d bytes, error %v", n, err)
			}
			if sent := from.carried.sent.Load() - before; sent > n {
				t.Errorf("%d bytes were sent of %d that were taken", sent, n)
			}
		})
	}
}

// A stream that was idle is back on the session: nothing is taken for it.
func TestSpliceFromIdle(t *testing.T) {
	handle, streams := accepted(t)
	rig := lanesWith(t, carriers[1].pair, rawioPair, 100_000, 10*time.Millisecond, handle)
	from, to := rig.join(t, streams)
	go func() { _, _ = io.Copy(io.Discard, to) }()
	conn, visitor := rawioPair(t)
	for seed := uint64(0); from.lane() == nil; seed++ {
		write(t, from, pattern(40_000, seed))
	}
	go func() {
		for from.lane() != nil {
			runtime.Gosched()
		}
		write(t, visitor, pattern(100, 1))
	}()
	if n, err := from.SpliceFrom(conn, 100); n != 0 || err != nil {
		t.Errorf("%d bytes, error %v", n, err)
	}
	wantBytes(t, conn, pattern(100, 1))
}
