package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// gate is a carrier whose writes wait until the test takes them.
type gate struct {
	entered chan struct{} // a write has begun
	batches chan []byte
	closed  chan struct{}
	once    sync.Once
}

func newGate() *gate {
	return &gate{entered: make(chan struct{}, 64), batches: make(chan []byte), closed: make(chan struct{})}
}

func (g *gate) Read([]byte) (int, error) {
	<-g.closed
	return 0, net.ErrClosed
}

func (g *gate) WriteBatch(first, second []byte, _ time.Duration) error {
	g.entered <- struct{}{}
	select {
	case g.batches <- slices.Concat(first, second):
		return nil
	case <-g.closed:
		return net.ErrClosed
	}
}

func (g *gate) CloseWrite() error { return g.Close("") }

func (g *gate) Close(string) error {
	g.once.Do(func() { close(g.closed) })
	return nil
}

func (g *gate) RemoteAddr() net.Addr { return addr{"gate"} }

// batch takes the next batch and names its frames: type, stream, size.
func (g *gate) batch(tb testing.TB) (names []string) {
	tb.Helper()
	r := bytes.NewReader(<-g.batches)
	for r.Len() > 0 {
		f, err := readFrame(r)
		if err != nil {
			tb.Fatalf("a batch does not end with a frame: %v", err)
		}
		names = append(names, fmt.Sprintf("%s %d %d", f.typ, f.stream, f.length))
	}
	return names
}

func wantBatch(tb testing.TB, g *gate, want ...string) {
	tb.Helper()
	if got := g.batch(tb); !slices.Equal(got, want) {
		tb.Errorf("batch is %q, want %q", got, want)
	}
}

// gated returns a running writer whose first batch is under way, so that what
// follows gathers.
func gated(tb testing.TB) (*writer, *gate) {
	g := newGate()
	w := newWriter(g, time.Minute)
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.run() })
	tb.Cleanup(func() {
		w.fail(ErrClosed)
		g.Close("")
		wg.Wait()
	})
	w.control(func(b []byte) []byte { return append(appendHeader(b, framePing, 8, 0), make([]byte, 8)...) })
	<-g.entered
	return w, g
}

// queue hands a frame to the writer and reports whether it was taken at once.
func queue(tb testing.TB, w *writer, st *Stream, size int) bool {
	tb.Helper()
	taken, err := w.data(st, make([]byte, size))
	if err != nil {
		tb.Fatal(err)
	}
	return taken
}

func TestBatches(t *testing.T) {
	w, g := gated(t)
	a, b, c, d := &Stream{id: 2}, &Stream{id: 4}, &Stream{id: 6}, &Stream{id: 8}
	var taken []bool
	for _, q := range []struct {
		st   *Stream
		size int
	}{{a, bulkData}, {a, 100}, {d, 100}, {b, bulkData - 200}, {b, bulkData}, {c, bulkData}, {a, 100}} {
		taken = append(taken, queue(t, w, q.st, q.size))
	}
	if want := []bool{true, true, true, true, false, false, false}; !slices.Equal(taken, want) {
		t.Errorf("taken at once: %t, want %t", taken, want)
	}
	w.ordered(d, func(b []byte) []byte { return appendHeader(b, frameFin, 0, d.id) })
	w.control(func(b []byte) []byte { return appendUint32Frame(b, frameCredit, 6, 1) })

	g.batch(t)
	<-b.turn.done
	<-c.turn.done
	if queue(t, w, d, bulkData) {
		t.Error("a newcomer jumps the queue")
	}
	wantBatch(t, g, "DATA 8 100", "FIN 8 0", "CREDIT 6 4", "DATA 2 32768", "DATA 2 100", "DATA 4 32568")
	<-a.turn.done
	<-d.turn.done
	w.ordered(d, func(b []byte) []byte { return appendReset(b, d.id, CodeCancelled, "") })
	wantBatch(t, g, "DATA 4 32768", "DATA 6 32768")
	wantBatch(t, g, "DATA 2 100", "DATA 8 32768", "RESET 8 4")
}

func TestCancelTurn(t *testing.T) {
	w, g := gated(t)
	a, b, c := &Stream{id: 2}, &Stream{id: 4}, &Stream{id: 6}
	queue(t, w, a, bulkData)
	queue(t, w, a, bulkData)
	for _, st := range []*Stream{a, b, c} {
		if queue(t, w, st, bulkData) {
			t.Fatalf("stream %d does not wait", st.id)
		}
	}
	if !w.cancel(b) || w.cancel(b) {
		t.Error("a waiting frame is taken back once")
	}
	g.batch(t)
	wantBatch(t, g, "DATA 2 32768", "DATA 2 32768")
	<-a.turn.done
	<-c.turn.done
	if w.cancel(c) {
		t.Error("a frame that is on its way was taken back")
	}
	wantBatch(t, g, "DATA 2 32768", "DATA 6 32768")
}

func TestWriterEnds(t *testing.T) {
	t.Run("fail drops what is pending", func(t *testing.T) {
		w, g := gated(t)
		st := &Stream{id: 2}
		queue(t, w, st, 10)
		why := errors.New("why")
		w.fail(why)
		if _, err := w.data(st, []byte("x")); err != why {
			t.Errorf("error is %v", err)
		}
		g.batch(t)
		select {
		case <-w.quit:
		default:
			t.Error("nobody is told")
		}
	})
	t.Run("finish sends what is pending", func(t *testing.T) {
		w, g := gated(t)
		st := &Stream{id: 2}
		queue(t, w, st, 10)
		w.finish(ErrClosed)
		if _, err := w.data(st, []byte("x")); err != ErrClosed {
			t.Errorf("error is %v", err)
		}
		g.batch(t)
		wantBatch(t, g, "DATA 2 10")
	})
}
