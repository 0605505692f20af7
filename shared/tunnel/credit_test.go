package tunnel

import (
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWindow(t *testing.T) {
	const rtt = 100 * time.Millisecond
	at := time.Unix(1000, 0)
	clock := func() time.Time { return at }
	b := newBudget(1 << 20)
	w := openWindow(&b, at)
	if w.size != firstWindow || w.left != firstWindow {
		t.Fatalf("first window is %+v", w)
	}
	for _, c := range []struct {
		name  string
		after time.Duration
		n     int
		grant int
		size  int
	}{
		{"less than half", 0, firstWindow/2 - 1, 0, firstWindow},
		{"half, quickly", rtt, 1, firstWindow/2 + firstWindow, 2 * firstWindow},
		{"half, slowly", 2 * rtt, firstWindow, firstWindow, 2 * firstWindow},
		{"no budget for more", rtt, firstWindow, firstWindow, 2 * firstWindow},
	} {
		at = at.Add(c.after)
		w.left -= c.n
		if grant := w.consume(c.n, &b, rtt, clock); grant != c.grant || w.size != c.size {
			t.Errorf("%s: grant %d, size %d, want %d and %d", c.name, grant, w.size, c.grant, c.size)
		}
	}
	if w.left != w.size {
		t.Errorf("%d left of %d with all consumed", w.left, w.size)
	}
	w.release(&b)
	w.release(&b)
	if b.left != 1<<20 {
		t.Errorf("%d of the budget left", b.left)
	}
}

func TestBudgetKeepsRoom(t *testing.T) {
	b := newBudget(1000)
	if b.grow(751) || !b.grow(750) || b.grow(1) {
		t.Error("growth does not leave a quarter")
	}
	if b.take(251) || !b.take(250) || b.take(1) {
		t.Error("first windows do not get the rest")
	}
}

func (st *Stream) unread() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.buffered
}

func (s *Session) budgetLeft() int {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return s.budget.left
}

// A reader that does not read stalls its own stream; the memory that this takes is
// its window.
func TestSlowReader(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		handle, accepted := accepted(t)
		srv, _ := sessions(t, pair, Config{}, Config{Handle: func(st *Stream) {
			if st.Target().Upstream == 1 {
				echo(st)
				return
			}
			handle(st)
		}})
		slow := open(t, srv)
		there := <-accepted
		defer there.Close()
		want := pattern(1<<20, 1)
		var writer sync.WaitGroup
		writer.Go(func() {
			write(t, slow, want)
			_ = slow.CloseWrite()
		})

		quick, err := srv.Open(context.Background(), Target{Upstream: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer quick.Close()
		other := pattern(2<<20, 2)
		var wg sync.WaitGroup
		wg.Go(func() {
			write(t, quick, other)
			_ = quick.CloseWrite()
		})
		wantAll(t, quick, other)
		wg.Wait()
		if n := there.unread(); n > firstWindow {
			t.Errorf("%d bytes are buffered, the window is %d", n, firstWindow)
		}
		wantAll(t, there, want)
		writer.Wait()
	})
}

func TestBudget(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		const size = 2*(firstWindow-minWindow) + 1000
		handle, accepted := accepted(t)
		srv, cli := sessions(t, pair, Config{}, Config{Handle: handle, Budget: size})
		for i, want := range []int64{firstWindow, firstWindow, minWindow, minWindow} {
			here := open(t, srv)
			there := <-accepted
			here.mu.Lock()
			got := here.credit
			here.mu.Unlock()
			if got != want {
				t.Errorf("stream %d: window of %d bytes, want %d", i, got, want)
			}
			// Every way to end, with bytes that nobody has read.
			write(t, here, []byte("unread"))
			switch i {
			case 0:
				there.Reset(CodeCancelled, "")
			case 1:
				defer there.Close()
			case 2:
				here.Reset(CodeCancelled, "")
				defer there.Close()
			case 3:
				_ = there.CloseWrite()
				_ = here.CloseWrite()
				wantAll(t, there, []byte("unread"))
				there.Close()
			}
			if i == 0 { // keep it in use
				cli.budget.take(firstWindow - minWindow)
			}
		}
		cli.budget.give(firstWindow - minWindow)
		t.Cleanup(func() {
			cli.Close()
			if left := cli.budgetLeft(); left != size {
				t.Errorf("%d of the budget left in the end, want %d", left, size)
			}
		})
	})
}

// drawn transfers n bytes over a link of 100 ms, read at the given pace, and returns
// the window in the end and the time it took.
func drawn(t *testing.T, n, budget int, pace time.Duration) (window int, took time.Duration) {
	const rtt = 100 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		_, _, here, there := join(t, linkPair(rtt), Config{}, Config{Budget: budget})
		<-time.After(rtt) // the first ping is answered
		var wg sync.WaitGroup
		wg.Go(func() {
			write(t, here, make([]byte, n))
			_ = here.CloseWrite()
		})
		start := time.Now()
		buf := make([]byte, 32<<10)
		for total := 0; ; {
			k, err := there.Read(buf)
			if total += k; err != nil {
				if err != io.EOF || total != n {
					t.Errorf("read %d bytes: %v", total, err)
				}
				break
			}
			there.mu.Lock()
			window = max(window, there.win.size)
			there.mu.Unlock()
			if pace > 0 {
				<-time.After(pace)
			}
		}
		took = time.Since(start)
		wg.Wait()
	})
	return window, took
}

func TestWindowGrows(t *testing.T) {
	window, took := drawn(t, 64<<20, 0, 0)
	if window != maxWindow {
		t.Errorf("the window grew to %d, want %d", window, maxWindow)
	}
	// With the first window it were 256 KiB for each round trip: 25 s.
	if took > 3*time.Second {
		t.Errorf("64 MiB took %v of a link with a round trip of 100 ms", took)
	}
}

func TestWindowStays(t *testing.T) {
	if window, _ := drawn(t, 4<<20, firstWindow, 0); window != firstWindow {
		t.Errorf("without a budget the window grew to %d", window)
	}
	if window, _ := drawn(t, 4<<20, 0, 100*time.Millisecond); window != firstWindow {
		t.Errorf("for a slow reader the window grew to %d", window)
	}
}
