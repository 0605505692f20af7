//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// flood keeps n connections to addr open that never finish what they begin, and a second after one was dropped opens
// another, until stop is called. It returns how many it has opened.
func flood(t testing.TB, addr string, n int, begin func(net.Conn) error) (opened *atomic.Int64, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	opened = new(atomic.Int64)
	var work sync.WaitGroup
	for range n {
		work.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for ctx.Err() == nil {
				if conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr); err == nil {
					opened.Add(1)
					end := context.AfterFunc(ctx, func() { conn.Close() })
					if begin(conn) == nil {
						_, _ = io.Copy(io.Discard, conn) // until it is dropped
					}
					end()
					conn.Close()
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	stop = func() {
		cancel()
		work.Wait()
	}
	t.Cleanup(stop)
	return opened, stop
}

// TestChaosHalfOpen floods the control plane, on a port of its own and on the visitors', with connections that say nothing,
// or only begin to. A good client comes in, and the one that is there serves on.
func TestChaosHalfOpen(t *testing.T) {
	t.Parallel()
	web := newApp(t)
	for _, c := range []struct {
		name, scheme, auto string
		begin              func(net.Conn) error
	}{
		{"silence", "wss://", "AUTO_TLS=true", func(net.Conn) error { return nil }},
		{"half a TLS handshake", "wss://", "AUTO_TLS=true", func(conn net.Conn) error {
			_, err := io.WriteString(conn, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
			return err
		}},
		{"half a request", "ws://", "AUTO_TLS=false", func(conn net.Conn) error {
			_, err := io.WriteString(conn, "GET /connect HTTP/1.1\r\nHost: a")
			return err
		}},
	} {
		halfOpen := func(t *testing.T, s *server) {
			env := chaosEnv(c.auto, "URL="+c.scheme+s.control)
			startClient(t, s, "http://"+web, env...).await("connected")
			keep := newVisitor(t, true)
			visits := startTraffic(t, "GET", 2, 10*time.Millisecond, func(int, int) error { return fetch(keep, "GET", s.url("/hello"), "", "hello") })
			const dropped = "adit_dropped_handshakes_total"
			opened, stop := flood(t, s.control, pick(1200, 4000), c.begin)
			within(t, patience, func() error {
				if n := metric(t, s.metrics, dropped); n < 100 {
					return fmt.Errorf("%v of %d connections were dropped", n, opened.Load())
				}
				return nil
			})

			good := startClient(t, s, "good.test=http://"+web, env...)
			begun := time.Now()
			good.await("connected")
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("a good client had to wait for %v", took)
			}
			good.never("cannot connect")
			visits.await(20)
			visits.mustBeFlawless(visitTimeout)
			stop()
			t.Logf("%d connections, %v dropped", opened.Load(), metric(t, s.metrics, dropped))
		}
		t.Run(c.name, func(t *testing.T) { halfOpen(t, startServer(t, chaosEnv(c.auto)...)) })
		t.Run(c.name+" on one port", func(t *testing.T) { halfOpen(t, startOnePort(t, chaosEnv(c.auto)...)) })
	}
}
