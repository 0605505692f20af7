package tunnel

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// A lane that breaks breaks its stream, in neither end cleanly, and nothing else.
func TestLaneCut(t *testing.T) {
	overDirections(t, 50*time.Millisecond, func(t *testing.T, rig *laneRig, from, to *Stream) {
		var wg sync.WaitGroup
		wg.Go(func() { write(t, from, pattern(1000, 1)) })
		wantBytes(t, to, pattern(1000, 1))
		wg.Wait()
		rig.cut()
		_, err := io.Copy(io.Discard, to)
		var reset *ResetError
		if !errors.As(err, &reset) || reset.Code != CodeBroken || reset.Reason != laneBroken {
			t.Errorf("the reader got %v", err)
		}
		for err = nil; err == nil; {
			_, err = from.Write(make([]byte, 1<<16))
		}
		if !errors.As(err, &reset) || reset.Code != CodeBroken || reset.Reason != laneBroken {
			t.Errorf("the writer got %v", err)
		}
		if rig.srv.Err() != nil || rig.cli.Err() != nil {
			t.Errorf("the session ended: %v, %v", rig.srv.Err(), rig.cli.Err())
		}
		_, _, _, here := rig.toServer.laneErrors()
		_, _, _, there := rig.toPeer.laneErrors()
		if here+there == 0 {
			t.Error("a broken lane was not counted")
		}
	})
}

// What was on a lane when the session died is never taken for all.
func TestLaneSessionDies(t *testing.T) {
	overDirections(t, long, func(t *testing.T, rig *laneRig, from, to *Stream) {
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { _, _ = from.Write(pattern(1000, 1)) })
		_ = rig.srv.carrier.Close("")
		_ = rig.cli.carrier.Close("")
		n, err := io.Copy(io.Discard, to)
		if err == nil {
			t.Errorf("a clean end after %d bytes", n)
		}
	})
}

// Where no lane can be had everything goes over the session.
func TestLaneRefused(t *testing.T) {
	silent := func(tb testing.TB) (net.Conn, net.Conn) { // takes everything and passes nothing on
		server, _ := tcpPair(tb)
		_, client := tcpPair(tb)
		return server, client
	}
	cut := func(tb testing.TB) (net.Conn, net.Conn) {
		server, client := tcpPair(tb)
		abort(server)
		return server, client
	}
	garbage := func(tb testing.TB) (net.Conn, net.Conn) {
		server, a := tcpPair(tb)
		b, client := tcpPair(tb)
		for _, c := range []net.Conn{a, b} {
			write(tb, c, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		}
		return server, client
	}
	for _, c := range []struct {
		name   string
		lane   connPair
		refuse error
		count  func(c *Counters) uint64
	}{
		{"refused", rawioPair, errors.New("404: another replica"), func(c *Counters) uint64 { return c.LaneErrors.Refused.Load() }},
		{"silent", silent, nil, func(c *Counters) uint64 { return c.LaneErrors.Timeout.Load() }},
		{"cut", cut, nil, func(c *Counters) uint64 { return c.LaneErrors.Refused.Load() }},
		{"garbage", garbage, nil, func(c *Counters) uint64 { return c.LaneErrors.Refused.Load() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			handle, streams := accepted(t)
			rig := lanesWith(t, carriers[1].pair, c.lane, 100_000, time.Minute, handle, 50*time.Millisecond)
			rig.dials = make(chan struct{}, 64)
			rig.refuse = func(LaneName) error { return c.refuse }
			for _, s := range []*Session{rig.srv, rig.cli} {
				s.cfg.Lanes.dial = 50 * time.Millisecond
			}
			here, there := rig.join(t, streams)
			var wg sync.WaitGroup
			exchange := func(from, to *Stream, seed uint64) {
				started := make(chan struct{})
				wg.Go(func() {
					write(t, from, pattern(2<<20, seed))
					<-started
					write(t, from, pattern(2<<20, seed+1))
					_ = from.CloseWrite()
				})
				wg.Go(func() {
					wantBytes(t, to, pattern(2<<20, seed))
					if seed == 10 {
						<-rig.dials
						for c.count(&rig.toServer) == 0 { // within 100 ms
							runtime.Gosched()
						}
					}
					close(started)
					wantAll(t, to, pattern(2<<20, seed+1))
				})
			}
			exchange(here, there, 10)
			exchange(there, here, 20)
			wg.Wait()
			if n := rig.toServer.Moves.Load() + rig.toPeer.Moves.Load(); n != 0 {
				t.Errorf("%d moves", n)
			}
			if n := len(rig.dials); n > 3 {
				t.Errorf("after a refusal %d more lanes were dialled", n)
			}
		})
	}
}

// A session has so many lanes at most, and so have all together.
func TestLaneLimits(t *testing.T) {
	for _, c := range []struct {
		name        string
		most, total int
	}{{"of a session", 2, 0}, {"of all", 8, 2}} {
		t.Run(c.name, func(t *testing.T) {
			handle, streams := accepted(t)
			rig := lanesWith(t, carriers[1].pair, rawioPair, 1, time.Minute, handle)
			rig.srv.cfg.Lanes.Most, rig.srv.cfg.Lanes.Total = c.most, c.total
			rig.cli.cfg.Lanes.Most = 100
			var pending []*PendingLane
			for i := range 3 {
				here, _ := rig.join(t, streams)
				p, err := rig.srv.NewLane(LaneName{Grant: *rig.grant, Stream: here.id, Up: true})
				if i < 2 && err == nil {
					pending = append(pending, p)
				}
				if (i < 2) != (err == nil) || i == 2 && err != ErrTooManyLanes {
					t.Errorf("lane %d: %v", i, err)
				}
			}
			for _, p := range pending {
				p.Abandon()
			}
			here, _ := rig.join(t, streams)
			p, err := rig.srv.NewLane(LaneName{Grant: *rig.grant, Stream: here.id})
			if err != nil {
				t.Fatal(err)
			}
			p.Abandon()
			if _, _, full, _ := rig.toPeer.laneErrors(); full != 1 {
				t.Errorf("%d lanes too many were counted", full)
			}
		})
	}
}
