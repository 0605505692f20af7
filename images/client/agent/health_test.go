package agent

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/client/upstream"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// waitFor has the agent wait for all of its upstreams.
func waitFor(t testing.TB, upstreams string) func(*Config) {
	t.Helper()
	list, err := route.ParseList(upstreams)
	must(t, err)
	return func(c *Config) {
		c.Health = upstream.NewHealth(upstream.HealthConfig{
			Upstreams: list, Wait: route.Wait{Kind: route.WaitTCP}, Interval: 300 * time.Millisecond, Dialer: c.Dialer, Log: zerolog.Nop(),
		}, prometheus.NewRegistry())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.Health.Run(t.Context())
		}()
		t.Cleanup(func() { <-done })
	}
}

// await waits until the client has said of its first upstream that it waits, or that it does not.
func (v *visit) await(t testing.TB, waiting bool) {
	t.Helper()
	for {
		if w := within(t, v.health); w.Has(0) == waiting {
			return
		}
	}
}

// TestReport tells the server which upstreams wait: as it connects, and when that changes.
func TestReport(t *testing.T) {
	addr := freeport.Addr(t)
	upstreams := "http://" + addr + "?wait=tcp,2222=" + echo(t)
	s := newServer(t)
	s.able = []string{tunnel.CapabilityHealth}
	a := newAgent(t, s.url, upstreams, waitFor(t, upstreams)).run(t)
	v := s.next(t)
	if !v.hello.Waiting.Has(0) || v.hello.Upstreams[0] != "*=http://"+addr {
		t.Errorf("hello %+v", v.hello)
	}
	v.await(t, true)
	l, err := net.Listen("tcp", addr)
	must(t, err)
	v.await(t, false)
	must(t, l.Close())
	v.await(t, true)
	l, err = net.Listen("tcp", addr)
	must(t, err)
	defer l.Close()
	v.await(t, false)
	v.kill(t)
	again := s.next(t)
	again.await(t, false)
	alive(t, again.open(t, 1))
	a.stop()
	within(t, again.goAway)
	again.Close()
	within(t, a.done)
	if strings.Contains(a.log.String(), "too old") {
		t.Error("the server is taken for an old one")
	}
}

// TestReportToOldServer says what an older server makes of it.
func TestReportToOldServer(t *testing.T) {
	upstreams := "http://" + echo(t)
	s := newServer(t)
	a := newAgent(t, s.url, upstreams, waitFor(t, upstreams)).run(t)
	alive(t, s.next(t).open(t, 0))
	a.log.await(t, "the server is too old to have visitors wait for upstreams: they get 502 until those answer", "server_version", "test")
}
