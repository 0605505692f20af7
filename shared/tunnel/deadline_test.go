package tunnel

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func wantTimeout(tb testing.TB, n int, err error) {
	tb.Helper()
	var timeout interface{ Timeout() bool }
	if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		tb.Errorf("%d bytes and error %v, want 0 and a timeout", n, err)
	}
}

// A deadline that is over fails even what would not have to wait; a new one heals.
func TestDeadlineOver(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		_, _, here, there := join(t, pair, Config{}, Config{})
		write(t, there, []byte("abc"))
		wantBytes(t, here, []byte("a"))
		_ = here.SetDeadline(past)
		buf := make([]byte, 10)
		n, err := here.Read(buf)
		wantTimeout(t, n, err)
		n, err = here.Write(buf)
		wantTimeout(t, n, err)
		n64, err := here.WriteTo(io.Discard)
		wantTimeout(t, int(n64), err)
		_ = here.SetDeadline(time.Time{})
		wantBytes(t, here, []byte("bc"))
		write(t, here, []byte("def"))
		wantBytes(t, there, []byte("def"))
		if err := here.Err(); err != nil {
			t.Errorf("the deadline broke the stream: %v", err)
		}
	})
}

// waits are the calls that wait for the peer, on a stream without credit.
var waits = []struct {
	name string
	call func(*Stream) (int, error)
	set  func(*Stream, time.Time) error
}{
	{"Read", func(st *Stream) (int, error) { return st.Read(make([]byte, 1)) }, (*Stream).SetReadDeadline},
	{"WriteTo", func(st *Stream) (int, error) { n, err := st.WriteTo(io.Discard); return int(n), err }, (*Stream).SetReadDeadline},
	{"Write", func(st *Stream) (int, error) { return st.Write(make([]byte, 1)) }, (*Stream).SetWriteDeadline},
}

func TestDeadlinePasses(t *testing.T) {
	for _, w := range waits {
		for _, c := range []struct {
			name  string
			first time.Duration // before the call; 0 for none
			moved time.Duration // after a second of waiting; 0: not moved, negative: past
			want  time.Duration
		}{
			{"set before", 3 * time.Second, 0, 3 * time.Second},
			{"set while waiting", 0, 3 * time.Second, 4 * time.Second},
			{"moved forward", time.Hour, 2 * time.Second, 3 * time.Second},
			{"moved back", 3 * time.Second, 10 * time.Second, 11 * time.Second},
			{"moved to the past", time.Hour, -1, time.Second},
			{"set to the past", 0, -1, time.Second},
		} {
			t.Run(w.name+" "+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, p := script(t, Config{PingInterval: time.Hour})
					st := p.openTo(s, 0)
					defer st.Close()
					start := time.Now()
					if c.first != 0 {
						_ = w.set(st, start.Add(c.first))
					}
					time.AfterFunc(time.Second, func() {
						switch {
						case c.moved < 0:
							_ = w.set(st, past)
						case c.moved > 0:
							_ = w.set(st, time.Now().Add(c.moved))
						}
					})
					n, err := w.call(st)
					wantTimeout(t, n, err)
					if took := time.Since(start); took != c.want {
						t.Errorf("it took %v, want %v", took, c.want)
					}
					n, err = w.call(st)
					wantTimeout(t, n, err)
				})
			})
		}
	}
}

// A deadline that is taken away while a call waits must not end it.
func TestDeadlineTakenAway(t *testing.T) {
	for _, w := range waits {
		t.Run(w.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := script(t, Config{PingInterval: time.Hour})
				st := p.openTo(s, 0)
				defer st.Close()
				start := time.Now()
				_ = w.set(st, start.Add(2*time.Second))
				time.AfterFunc(time.Second, func() { _ = w.set(st, time.Time{}) })
				time.AfterFunc(time.Minute, func() {
					p.send(appendUint32Frame(nil, frameCredit, st.id, 1), dataFrame(st.id, []byte("x")), finFrame(st.id))
				})
				if n, err := w.call(st); n != 1 || err != nil {
					t.Errorf("%d bytes, error %v", n, err)
				}
				if took := time.Since(start); took != time.Minute {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// Close leaves no timer behind that would keep the stream.
func TestDeadlineAfterClose(t *testing.T) {
	s, p := script(t, Config{})
	st := p.openTo(s, 0)
	_ = st.SetDeadline(time.Now().Add(time.Hour))
	st.Close()
	for _, d := range []*deadline{&st.rd, &st.wd} {
		d.mu.Lock()
		if d.timer == nil || d.timer.Stop() || d.due != 0 {
			t.Error("a timer runs on")
		}
		d.mu.Unlock()
	}
}

// onGate returns a stream with credit on a session whose first batch is under way.
func onGate(t *testing.T, credit int64) (*Stream, *gate) {
	g := newGate()
	s := New(g, Config{})
	t.Cleanup(func() { g.Close(""); s.Close() })
	<-g.entered // a ping
	st := newStream(s, 2, Target{})
	st.ours, st.accepted, st.credit = true, true, credit
	s.mu.Lock()
	s.addLocked(st)
	s.mu.Unlock()
	return st, g
}

// A Write that times out while it waits for its turn must give its credit back.
func TestDeadlineInTurn(t *testing.T) {
	const credit = 10 * bulkData
	st, g := onGate(t, credit)
	write(t, st, make([]byte, 2*bulkData)) // the buffer is full
	for range 100 {
		_ = st.SetWriteDeadline(time.Now().Add(time.Microsecond))
		n, err := st.Write(make([]byte, 100_000))
		wantTimeout(t, n, err)
	}
	st.mu.Lock()
	if st.credit != credit-2*bulkData {
		t.Errorf("%d of credit left, want %d", st.credit, credit-2*bulkData)
	}
	st.mu.Unlock()
	g.batch(t)
	wantBatch(t, g, "DATA 2 32768", "DATA 2 32768")
	_ = st.SetWriteDeadline(time.Time{})
	write(t, st, []byte("x"))
	wantBatch(t, g, "DATA 2 1")
}

// What a Write that timed out reports as written is what was sent, even if the frame
// left just then.
func TestDeadlineCounts(t *testing.T) {
	st, g := onGate(t, 1<<40)
	var (
		wg   sync.WaitGroup
		sent int
	)
	end := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case b := <-g.batches:
				for r := bytes.NewReader(b); r.Len() > 0; {
					if f, _ := readFrame(r); f.typ == frameData {
						sent += f.length
					}
				}
			case <-end:
				return
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-g.entered:
			case <-end:
				return
			}
		}
	})
	written := 0
	for i := range 1000 {
		_ = st.SetWriteDeadline(time.Now().Add(time.Duration(i%50) * time.Microsecond))
		n, err := st.Write(make([]byte, 3*bulkData))
		written += n
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	st.sess.Close()
	close(end)
	wg.Wait()
	if sent != written {
		t.Errorf("%d bytes were sent, Write reported %d", sent, written)
	}
}
