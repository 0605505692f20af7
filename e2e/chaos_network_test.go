//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/e2e/link"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// TestChaosCut drops all packets between server and client, so that neither is told anything. Both notice, and are
// together again after the cut.
func TestChaosCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cut  [2]bool
	}{
		{"both ways", [2]bool{true, true}},
		{"only towards the server", [2]bool{true, false}},
		{"only towards the client", [2]bool{false, true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLink(t, link.Quality{})
			public := freeport.New(t)
			tun := l.tunnelAcross(t, fmt.Sprintf("http://%s,%d=%s", l.far.upstream(t, app), public, l.far.upstream(t, app)), silenceEnv())
			visit := l.near.visitor(t)
			must(t, fetch(visit, "GET", tun.url("/hello"), "", "hello"))
			held, err := l.near.dial(t, fmt.Sprintf("%s:%d", link.NearIP, public)) // a visitor who says nothing
			must(t, err)
			defer held.Close()
			ended := make(chan error, 1)
			_ = held.SetDeadline(time.Now().Add(2 * deadline))
			go func() {
				_, err := held.Read(make([]byte, 1))
				ended <- err
			}()

			atServer, atClient := tun.mark(), tun.client.mark()
			cut := time.Now()
			l.Set(link.Quality{Cut: c.cut})
			within(t, deadline, func() error { return tun.logged(atServer, "client disconnected") })
			byServer := time.Since(cut)
			within(t, deadline-time.Since(cut), func() error { return tun.client.logged(atClient, "connection lost") })
			t.Logf("noticed by the server after %v and by both after %v", byServer.Round(time.Millisecond), time.Since(cut).Round(time.Millisecond))
			within(t, time.Second, func() error {
				if err := fetch(visit, "GET", tun.url("/hello"), "", "hello"); err == nil || !strings.HasPrefix(err.Error(), "503 ") {
					return fmt.Errorf("a visitor is told %v", err)
				}
				return nil
			})
			if err := <-ended; err == nil || errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "timeout") {
				t.Errorf("a connection through the tunnel ended with %v", err)
			}
			if long { // until an attempt has failed
				within(t, patience, func() error { return tun.client.logged(atClient, "cannot connect") })
			}
			healed := time.Now()
			l.Set(link.Quality{})
			took := within(t, 2*patience, func() error { return fetch(visit, "GET", tun.url("/hello"), "", "hello") })
			t.Logf("healed after %v, cut for %v", took.Round(time.Millisecond), healed.Sub(cut).Round(time.Millisecond))
		})
	}
}

// TestChaosLoss sends much through a link that delays, loses, doubles and reorders packets: nothing arrives changed,
// and nobody takes the other for dead.
func TestChaosLoss(t *testing.T) {
	t.Parallel()
	bad := link.Quality{Delay: 5 * time.Millisecond, Jitter: 3 * time.Millisecond, Loss: 0.01, Double: 0.01}
	if long {
		bad = link.Quality{Delay: 25 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.02, Double: 0.01}
	}
	l := newLink(t, link.Quality{})
	public := freeport.New(t)
	var echo string
	l.far.do(t, func() { echo = newEcho(t) })
	// What is opened waits behind what is being sent, for longer than on a link that works.
	tun := l.tunnelAcross(t, fmt.Sprintf("http://%s,%d=%s", l.far.upstream(t, app), public, echo), chaosEnv("OPEN_TIMEOUT=15s"))
	l.Set(bad)
	visit := l.near.visitor(t)
	size := pick(100_000, 4_000_000)
	body := strings.Repeat("0123456789", size/10)
	hash := hashOf(strings.NewReader(body))
	all := []*traffic{
		startTraffic(t, "POST", 2, time.Millisecond, func(int, int) error { return fetch(visit, "POST", tun.url("/hash"), body, hash) }),
		startTraffic(t, "GET", 2, time.Millisecond, func(int, int) error { return fetch(visit, "GET", tun.url("/hello"), "", "hello") }),
		startTraffic(t, "slow GET", 2, time.Millisecond, func(int, int) error {
			return fetch(visit, "GET", tun.url("/slow"), "", strings.Repeat(slowPart, 10))
		}),
		startTraffic(t, "TCP", 4, time.Millisecond, func(worker, _ int) error {
			return stream(func() (net.Conn, error) { return l.near.dial(t, fmt.Sprintf("%s:%d", link.NearIP, public)) }, time.Duration(1+100*worker)*time.Millisecond)
		}),
	}
	for _, l := range all {
		l.await(pick(3, 20))
	}
	for _, l := range all {
		l.mustBeFlawless(visitTimeout)
	}
	tun.never("client disconnected")
	tun.client.never("connection lost")
}
