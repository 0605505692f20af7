package tunnel

import (
	"io"
	"runtime"
	"sync"
	"testing"
	"time"
)

// once takes what it is offered if it may, and tells what happens.
type once struct {
	takes  bool
	got    chan string
	events chan string
}

func newOnce(takes bool) *once { return &once{takes, make(chan string, 1), make(chan string, 8)} }

func (o *once) Take(p []byte) bool { o.got <- string(p); return o.takes }
func (o *once) Taken()             { o.events <- "taken" }
func (o *once) Left()              { o.events <- "left" }

func within[T any](tb testing.TB, c <-chan T) (v T) {
	tb.Helper()
	select {
	case v = <-c:
	case <-time.After(10 * time.Second):
		tb.Fatal("nothing came")
	}
	return v
}

func TestOffer(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		handle, streams := accepted(t)
		srv, cli := sessions(t, pair, Config{}, Config{Handle: handle})
		join := func() (here, there *Stream) {
			here = open(t, srv)
			there = within(t, streams)
			t.Cleanup(func() { here.Close(); there.Close() })
			return here, there
		}

		here, there := join()
		o := newOnce(true)
		offer := NewOffer(o)
		for _, text := range []string{"one", "two"} {
			if !here.Offer(offer) {
				t.Fatal("refused")
			}
			write(t, there, []byte(text))
			if got, event := within(t, o.got), within(t, o.events); got != text || event != "taken" {
				t.Errorf("took %q, then %s", got, event)
			}
		}
		write(t, there, []byte("three")) // nobody has offered that
		buf := make([]byte, 5)
		if _, err := io.ReadFull(here, buf); err != nil || string(buf) != "three" {
			t.Errorf("read %q, %v", buf, err)
		}

		o = newOnce(false)
		if !here.Offer(NewOffer(o)) {
			t.Fatal("refused")
		}
		write(t, there, []byte("fours"))
		if got, event := within(t, o.got), within(t, o.events); got != "fours" || event != "left" {
			t.Errorf("was offered %q, then %s", got, event)
		}
		here.Withdraw()
		if here.Offer(NewOffer(o)) {
			t.Error("an offer of what has come already")
		}
		if _, err := io.ReadFull(here, buf); err != nil || string(buf) != "fours" {
			t.Errorf("read %q, %v", buf, err)
		}

		for name, end := range map[string]func(here, there *Stream){
			"end":         func(_, there *Stream) { _ = there.CloseWrite() },
			"reset":       func(_, there *Stream) { there.Reset(CodeBroken, "") },
			"reset of us": func(here, _ *Stream) { here.Reset(CodeBroken, "") },
		} {
			here, there := join()
			o := newOnce(true)
			if !here.Offer(NewOffer(o)) {
				t.Fatal("refused")
			}
			end(here, there)
			if event := within(t, o.events); event != "left" {
				t.Errorf("%s: %s", name, event)
			}
			here.Withdraw()
			if here.Offer(NewOffer(o)) {
				t.Errorf("%s: an offer behind the end", name)
			}
		}
		here, _ = join()
		o = newOnce(true)
		if !here.Offer(NewOffer(o)) {
			t.Fatal("refused")
		}
		_ = cli.Close()
		if event := within(t, o.events); event != "left" {
			t.Errorf("the session's end: %s", event)
		}
	})
}

// disputed is what an offer and a reader both want: who has the lock in time has it.
type disputed struct {
	mu   sync.Mutex
	mine bool // the reader's
	got  []byte
}

func (d *disputed) Take(p []byte) bool {
	d.mu.Lock()
	if d.mine {
		d.mu.Unlock()
		return false
	}
	d.got = append(d.got, p...)
	return true
}

func (d *disputed) Taken() {
	d.mine = true
	d.mu.Unlock()
}

func (d *disputed) Left() {}

// Whenever an offer is withdrawn, every byte is taken or read, once.
func TestWithdraw(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		handle, streams := accepted(t)
		srv, _ := sessions(t, pair, Config{}, Config{Handle: handle})
		here := open(t, srv)
		defer here.Close()
		_ = here.SetReadDeadline(time.Now().Add(10 * time.Second)) // or a byte that is lost holds it up for ever
		there := within(t, streams)
		defer there.Close()
		want := pattern(2000, 1)
		next := make(chan struct{}, 1)
		var writer sync.WaitGroup
		writer.Go(func() {
			for i := range want {
				<-next
				write(t, there, want[i:i+1])
			}
		})
		d := new(disputed)
		offer := NewOffer(d)
		taken, buf := 0, make([]byte, 1)
		for i := range want {
			d.mine = false
			if !here.Offer(offer) {
				t.Fatal("refused")
			}
			next <- struct{}{}
			for range i % 64 { // sooner and later
				runtime.Gosched()
			}
			d.mu.Lock()
			was := d.mine
			d.mine = true
			d.mu.Unlock()
			if was {
				taken++
				continue
			}
			here.Withdraw()
			if _, err := io.ReadFull(here, buf); err != nil {
				t.Fatal(err)
			}
			d.got = append(d.got, buf[0])
		}
		writer.Wait()
		if string(d.got) != string(want) {
			t.Error("bytes are lost, or came twice, or out of order")
		}
		t.Logf("%d of %d taken", taken, len(want))
	})
}
