//go:build linux

package e2e

import (
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// TestChaosSlowReader has visitors who hardly read what they asked for. Others must not notice: the 99th percentile
// of their round trips stays within three times of what it is when nobody else is there.
func TestChaosSlowReader(t *testing.T) {
	// Not in parallel with other tests: it measures time.
	fountain := newRelay(t, func(_ *relay, conn net.Conn) { _, _ = io.Copy(conn, testData(math.MaxInt64)) }).addr()
	echoPort, fountainPort := freeport.New(t), freeport.New(t)
	s := startServer(t, chaosEnv()...)
	c := startClient(t, s, fmt.Sprintf("%d=%s,%d=%s", echoPort, newEcho(t), fountainPort, fountain), chaosEnv()...)
	c.await("connected")
	conn, err := dialer(fmt.Sprint("127.0.0.1:", echoPort))()
	must(t, err)
	defer conn.Close()
	trips := pick(1000, 10_000)
	measure := func() time.Duration {
		took := make([]time.Duration, trips)
		message := make([]byte, 100)
		_ = conn.SetDeadline(time.Now().Add(2 * patience))
		for i := range took {
			begun := time.Now()
			_, err := conn.Write(message)
			must(t, err)
			_, err = io.ReadFull(conn, message)
			must(t, err)
			took[i] = time.Since(begun)
		}
		slices.Sort(took)
		return took[trips*99/100]
	}
	measure() // warm up

	// What else goes on on this machine comes and goes: quiet and slow readers take turns, and the best of each counts.
	const turns, readers = 5, 4
	var quietest, slowest []time.Duration
	for range turns {
		quietest = append(quietest, measure())
		stop := slowReaders(t, fmt.Sprint("127.0.0.1:", fountainPort), readers)
		slowest = append(slowest, measure())
		stop()
	}
	quiet, slow := slices.Min(quietest), slices.Min(slowest)
	t.Logf("p99 of %d round trips: %v when it is quiet, %v with %d slow readers (all: %v, %v)", trips, quiet, slow, readers, quietest, slowest)
	if slow > 3*quiet+time.Millisecond {
		t.Errorf("slow readers make p99 %v, without them it is %v", slow, quiet)
	}
}

// slowReaders connects visitors who read 4 KiB twenty times a second, and returns once nobody sends them anything
// more at once.
func slowReaders(t testing.TB, addr string, n int) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var ended []chan struct{}
	stalled := make(chan struct{}, n)
	for range n {
		conn, err := dialer(addr)()
		must(t, err)
		must(t, conn.(*net.TCPConn).SetReadBuffer(16<<10))
		over := make(chan struct{})
		ended = append(ended, over)
		go func() {
			defer close(over)
			defer conn.Close()
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				if _, err := io.CopyN(io.Discard, conn, 4<<10); err != nil {
					return
				}
				if i == 10 {
					stalled <- struct{}{}
				}
				select {
				case <-tick.C:
				case <-done:
					return
				}
			}
		}()
	}
	for range n {
		receive(t, stalled)
	}
	return func() {
		close(done)
		for _, over := range ended {
			<-over
		}
	}
}
