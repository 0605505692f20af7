//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	series "github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/client/agent"
	dial "github.com/adit-tunnel/adit/images/client/upstream"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/route"
	wire "github.com/adit-tunnel/adit/shared/tunnel"
)

// startAgents connects many clients, which are in this process because so many programs would be too much for some
// machines. They are those of the client otherwise.
func startAgents(t testing.TB, s *server, n int) {
	t.Helper()
	counters := new(wire.Counters)
	metrics := agent.NewMetrics(series.NewRegistry(), counters)
	upstreams, err := route.ParseList("http://127.0.0.1:1")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for i := range n {
		a := agent.New(agent.Config{
			Server: &url.URL{Scheme: "ws", Host: s.control}, Token: func() string { return s.token }, CA: func() string { return "" },
			ClientID: fmt.Sprint("agent-", i), Upstreams: upstreams, PingInterval: 15 * time.Second, Drain: time.Second,
			Dialer: dial.Dialer{Timeout: time.Second}, Counters: counters, Metrics: metrics, Log: zerolog.Nop(),
		})
		work.Go(func() { _ = a.Run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		work.Wait()
	})
}

// arrivals waits for so many clients, and returns when they came, by the server's clock.
func (s *server) arrivals(n int) []time.Time {
	s.t.Helper()
	var at []time.Time
	within(s.t, 3*patience, func() error {
		at = at[:0]
		for _, e := range s.log.from(0) {
			if e.is("client connected") {
				when, err := time.Parse(time.RFC3339, e.field("time"))
				must(s.t, err)
				at = append(at, when)
			}
		}
		if len(at) < n {
			return fmt.Errorf("%d of %d clients are there", len(at), n)
		}
		return nil
	})
	slices.SortFunc(at, time.Time.Compare)
	return at
}

// mostIn returns the largest number of events in a time of this length.
func mostIn(at []time.Time, length time.Duration) (most int) {
	first := 0
	for i := range at {
		for at[i].Sub(at[first]) > length {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// TestChaosReturn restarts a server that many clients are connected to, and crashes it: they come back spread over
// time, as it has asked them to, and not in a single second.
func TestChaosReturn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(*server)
	}{
		{"restart", func(s *server) { s.stop() }},
		{"crash", func(s *server) { s.kill() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := pick(300, 1000)
			s := startServer(t, "AUTO_TLS=false")
			startAgents(t, s, n)
			s.arrivals(n)
			c.end(s)
			again := startServer(t, s.here()...)
			at := again.arrivals(n)
			took, most := at[n-1].Sub(at[0]), mostIn(at, time.Second)
			t.Logf("%d clients came back within %v, at most %d in one second", n, took.Round(time.Millisecond), most)
			// The server asks for a hundred in a second, but who came first was asked by a server of few, and for who
			// finds nobody there yet it is another second.
			if limit := pick(n*95/100, n/2); most > limit || took < pick(time.Second, 5*time.Second) {
				t.Errorf("%d of %d clients came back in one second, all within %v", most, n, took)
			}
		})
	}
}

// TestChaosReconnects connects and disconnects many times, half of it without a word. The server ends with what it
// began with.
func TestChaosReconnects(t *testing.T) {
	t.Parallel()
	s := startServer(t, chaosEnv("AUTO_TLS=false", "ALLOW_PORTS=20000-29999")...)
	upstreams := []string{"cycle.test=http://127.0.0.1:1", fmt.Sprintf("%d=127.0.0.1:1", freeport.New(t))}
	cycle := func(n int) {
		for i := range n {
			conn, err := s.tryJoin(fmt.Sprint("cycle-", i%10), upstreams...)
			must(t, err)
			if i%2 == 0 {
				session := wire.New(wire.NewWebsocket(conn), wire.Config{Client: true})
				session.GoAway(wire.GoAway{Reason: "done"})
				_ = session.Close()
			} else {
				conn.NetConn().Close()
			}
		}
		within(t, patience, func() error {
			if left := metric(t, s.metrics, "http_controlplane_connected_gauge"); left != 0 {
				return fmt.Errorf("%v clients are still connected", left)
			}
			return nil
		})
	}
	names := []string{"go_goroutines", "process_open_fds", "process_resident_memory_bytes"}
	look := func() (values []float64) {
		for _, name := range names {
			values = append(values, metric(t, s.metrics, name))
		}
		return values
	}
	n := pick(300, 5000)
	cycle(n) // what is made once is made now
	before := look()
	cycle(n)
	within(t, patience, func() error {
		now := look()
		t.Logf("%v were %.0f, are %.0f after %d reconnects", names, before, now, n)
		if now[0] > before[0]+5 || now[1] > before[1]+5 || now[2] > before[2]*1.25+8e6 {
			return fmt.Errorf("%v were %.0f, are %.0f after %d reconnects", names, before, now, n)
		}
		return nil
	})
}
