package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

var raceEnabled bool

// TestCycles connects and disconnects clients many times, half of them without a close,
// each with a host and a port, most with a stream under way. Nothing may be left of them.
func TestCycles(t *testing.T) {
	n := 10_000
	if testing.Short() || raceEnabled {
		n = 1000
	}
	s := start(t, func(cfg *Config) { cfg.PingInterval = 3 * time.Second })
	s.log.discard()
	workers := make([]*worker, 8)
	for i := range workers {
		workers[i] = &worker{s: s, id: fmt.Sprint("w", i), port: freeport.New(t)}
	}
	run := func(n int) {
		t.Helper()
		done := make(chan error, len(workers))
		for _, w := range workers {
			go func() {
				var err error
				for i := n / len(workers); i > 0 && err == nil; i-- { // the last is closed
					err = w.cycle(t, i-1)
				}
				done <- err
			}()
		}
		var failed error
		for range workers {
			failed = errors.Join(failed, <-done)
		}
		must(t, failed)
		for _, w := range workers {
			w.late.Wait()
		}
		eventually(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.clients)+len(s.replaced)+s.joining == 0
		})
	}
	run(n / 10) // fills what is pooled
	before, began := usage(t), time.Now()
	run(n)
	took, after := time.Since(began), counts{}
	eventually(t, func() bool {
		after = usage(t)
		return after.goroutines <= before.goroutines && after.descriptors <= before.descriptors && after.heap <= before.heap+2<<20
	}, func() string { return fmt.Sprintf("before %+v, after %+v", before, after) })
	t.Logf("%d cycles in %s: before %+v, after %+v", n, took.Round(time.Millisecond), before, after)
	for _, w := range workers {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(w.port))
		must(t, err)
		l.Close()
	}
}

// worker connects one client after the other under one id.
type worker struct {
	s     *server
	id    string
	port  int
	epoch uint64
	late  sync.WaitGroup // for clients that it has turned away from
}

// cycle connects a client, opens a stream to it, and has it end in one of several ways.
func (w *worker) cycle(t testing.TB, i int) error {
	w.epoch++
	h := epoch(hello(w.id, w.id+".test=http://a", fmt.Sprintf("%d=a:1", w.port)), w.epoch)
	way := i % 6
	if way == 5 && i%60 != 5 { // a few must do: each lasts for seconds
		way = 3
	}
	if way == 5 { // falls silent: nobody is there to answer pings
		h.ClientID += "-silent-" + strconv.Itoa(i)
	}
	conn, _, err := w.s.dial(t, h)
	if err != nil {
		return err
	}
	if way == 5 {
		w.late.Go(func() {
			for err := error(nil); err == nil; { // until the server has had enough
				_, err = conn.UnderlyingConn().Read(make([]byte, 1024))
			}
			conn.Close()
		})
		return nil
	}
	p := tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{Client: true, PingInterval: time.Minute, Handle: echo})
	st, err := w.open(t, conn.LocalAddr())
	if err != nil {
		return err
	}
	if _, err := st.Write([]byte("under way")); err != nil {
		return err
	}
	switch way {
	case 0, 2:
		return p.Close()
	case 1:
		must(t, conn.UnderlyingConn().(*net.TCPConn).SetLinger(0)) // a reset
		must(t, conn.UnderlyingConn().Close())
	case 3:
		must(t, conn.UnderlyingConn().Close())
	case 4: // is taken over by the next
		must(t, st.Close())
	}
	w.late.Go(func() {
		if way == 4 {
			within(t, p.Done())
		}
		p.Close()
	})
	return nil
}

// open opens a stream to a client that has just connected. It is among the route's
// backends a moment later; the one before may still be there.
func (w *worker) open(t testing.TB, addr net.Addr) (st *tunnel.Stream, err error) {
	eventually(t, func() bool {
		r := w.s.table.Match(w.id+".test", "/")
		if r == nil {
			return false
		}
		for _, b := range r.Backends() {
			if b.Opener.(*tunnel.Session).RemoteAddr().String() != addr.String() {
				continue
			}
			st, err = b.Opener.Open(t.Context(), tunnel.Target{Upstream: b.Index})
			return true
		}
		return false
	})
	return st, err
}

type counts struct {
	goroutines, descriptors int
	heap                    uint64
}

func usage(t testing.TB) counts {
	t.Helper()
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	runtime.ReadMemStats(&m)
	c := counts{goroutines: runtime.NumGoroutine(), heap: m.HeapAlloc}
	if list, err := os.ReadDir("/proc/self/fd"); err == nil {
		c.descriptors = len(list)
	} else if !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return c
}
