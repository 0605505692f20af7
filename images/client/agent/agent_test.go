package agent

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/tunnel"
	"github.com/adit-tunnel/adit/shared/version"
)

func TestConnect(t *testing.T) {
	s := newServer(t)
	up := echo(t)
	a := newAgent(t, s.url, "http://"+up+",2222="+up)
	if a.Connected() || a.RTT() != 0 || a.metric(t, "adit_connected", s.url.Host) != 0 {
		t.Error("connected before it runs")
	}
	a.run(t)
	v := s.next(t)
	a.log.await(t, "connected", "client_id", "me", "upstreams", "*=http://"+up, "url", s.url.String())
	hostname, _ := os.Hostname()
	h := v.hello
	if h.Version != version.Version || h.ClientID != "me" || h.Hostname != hostname || fmt.Sprint(h.Upstreams) != fmt.Sprintf("[*=http://%s 2222=%[1]s]", up) {
		t.Errorf("hello %+v", h)
	}
	if age := time.Since(time.UnixMilli(int64(h.Epoch >> 20))); age < 0 || age > patience {
		t.Errorf("epoch %d", h.Epoch)
	}
	alive(t, v.open(t, 0))
	alive(t, v.open(t, 1))
	eventually(t, func() bool { return a.RTT() > 0 })
	if !a.Connected() || a.metric(t, "adit_connected", s.url.Host) != 1 || a.metric(t, "adit_session_rtt_seconds", s.url.Host) == 0 {
		t.Error("not connected")
	}
	if a.metric(t, "adit_streams") != 2 || a.metric(t, "adit_streams_total") != 2 || a.metric(t, "adit_sent_bytes_total") != 8 {
		t.Error("streams are not counted")
	}
	if strings.Contains(a.log.String(), token) {
		t.Error("the token is in the log")
	}
}

// TestReconnect has the connection end in several ways.
func TestReconnect(t *testing.T) {
	s := newServer(t)
	a := newAgent(t, s.url, "http://"+echo(t)).run(t)
	epoch := uint64(0)
	for _, end := range []struct {
		name   string
		do     func(*visit)
		reason string
	}{
		{"killed", func(v *visit) { v.kill(t) }, "broken"},
		{"closed", func(v *visit) { v.Close() }, "broken"},
		{"killed with a stream", func(v *visit) { alive(t, v.open(t, 0)); v.kill(t) }, "broken"},
		{"garbage", func(v *visit) { v.raw(t, "\x82\x08garbage!") }, "protocol"},
	} {
		v := s.next(t)
		a.log.await(t, "connected")
		if v.hello.Epoch <= epoch {
			t.Errorf("epoch %d after %d", v.hello.Epoch, epoch)
		}
		epoch = v.hello.Epoch
		before := a.metric(t, "adit_reconnects_total", end.reason)
		end.do(v)
		a.log.await(t, "connection lost", "level", "warn")
		if got := a.metric(t, "adit_reconnects_total", end.reason); got != before+1 {
			t.Errorf("%s: %v more ends by %s", end.name, got-before, end.reason)
		}
	}
	alive(t, s.next(t).open(t, 0))
	eventually(t, a.Connected)
}

// TestClockPutBack wants epochs to grow whatever the time is.
func TestClockPutBack(t *testing.T) {
	s := newServer(t)
	a := newAgent(t, s.url, "http://"+echo(t))
	future := uint64(time.Now().Add(time.Hour).UnixNano())
	a.epoch = future
	a.run(t)
	v := s.next(t)
	v.kill(t)
	if w := s.next(t); v.hello.Epoch != future+1 || w.hello.Epoch != future+2 {
		t.Errorf("epochs %d and %d after %d", v.hello.Epoch, w.hello.Epoch, future)
	}
}

// TestSeveralServers connects with two servers, of which one goes away.
func TestSeveralServers(t *testing.T) {
	one, two := newServer(t), newServer(t)
	up := "http://" + echo(t)
	a, b := newAgent(t, one.url, up).run(t), newAgent(t, two.url, up).run(t)
	v, w := one.next(t), two.next(t)
	alive(t, v.open(t, 0))
	alive(t, w.open(t, 0))
	one.refuseWith(503, "gone")
	v.kill(t)
	a.log.await(t, "cannot connect", "error", "gone")
	if a.Connected() || !b.Connected() {
		t.Error("they do not stand for themselves")
	}
	alive(t, w.open(t, 0))
	one.refuseWith(0, "")
	alive(t, one.next(t).open(t, 0))
	eventually(t, a.Connected)
}

// TestMaxStreams takes as many streams as the server says that it opens.
func TestMaxStreams(t *testing.T) {
	s := newServer(t)
	newAgent(t, s.url, "http://"+echo(t)).run(t)
	v := s.next(t)
	for range 100 {
		v.open(t, 0)
	}
	_, err := v.Open(t.Context(), tunnel.Target{})
	if got := tunnel.OpenReason(err); got != "overload" {
		t.Errorf("one more than it says: %v", err)
	}
}

// TestManyReconnects ends with the goroutines and descriptors that it began with.
func TestManyReconnects(t *testing.T) {
	n := 1000
	if testing.Short() || raceEnabled {
		n = 200
	}
	s := newServer(t)
	a := newAgent(t, s.url, "http://"+echo(t))
	a.delays.first, a.delays.most = time.Microsecond, time.Microsecond
	a.run(t)
	cycle := func(i int) {
		v := s.next(t)
		alive(t, v.open(t, 0))
		if i%2 == 0 {
			v.kill(t)
		} else {
			v.Close()
		}
	}
	for i := range 20 {
		cycle(i)
	}
	before := usage(t)
	for i := range n {
		cycle(i)
	}
	var after counts
	eventually(t, func() bool {
		after = usage(t)
		// One connection more or less, with both of its ends in this process: about 10 goroutines.
		return after.goroutines <= before.goroutines+20 && after.descriptors <= before.descriptors+10
	})
	t.Logf("before %+v, after %+v", before, after)
}
