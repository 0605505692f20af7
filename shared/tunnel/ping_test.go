package tunnel

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rtt = 80 * time.Millisecond
		srv, cli := sessions(t, linkPair(rtt), Config{}, Config{})
		if srv.RTT() != 0 {
			t.Errorf("round trip before the first answer: %v", srv.RTT())
		}
		<-time.After(rtt)
		synctest.Wait()
		for _, s := range []*Session{srv, cli} {
			if got := s.RTT(); got != rtt {
				t.Errorf("round trip is %v, want %v", got, rtt)
			}
		}
	})
}

func TestRTTMeter(t *testing.T) {
	var m rttMeter
	for i, c := range []struct{ add, want time.Duration }{
		{50, 50}, {40, 40}, {60, 40}, {70, 40}, {70, 40}, {70, 40}, {70, 40}, {70, 40},
		{70, 40}, {70, 60}, {90, 70}, // the oldest are forgotten
	} {
		if m.add(c.add); m.least() != c.want {
			t.Errorf("after %d round trips: %v, want %v", i+1, m.least(), c.want)
		}
	}
}

// An answer to a ping that was never sent, or will be, says nothing.
func TestUnaskedPong(t *testing.T) {
	s, p := script(t, Config{PingInterval: time.Hour})
	pong := func(payload ...byte) { p.send(appendHeader(nil, framePong, 8, 0), payload) }
	pong(0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	pong(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	p.send(appendHeader(nil, framePing, 8, 0), make([]byte, 8))
	p.want(framePong)
	if rtt := s.RTT(); rtt != 0 {
		t.Errorf("round trip is %v", rtt)
	}
}

func TestPingsKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, cli := sessions(t, linkPair(time.Second), Config{}, Config{PingInterval: 20 * time.Second})
		<-time.After(time.Hour)
		if srv.Err() != nil || cli.Err() != nil {
			t.Errorf("idle sessions ended: %v, %v", srv.Err(), cli.Err())
		}
	})
}

func TestSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = 10 * time.Second
		s, p := script(t, Config{PingInterval: interval})
		st := p.openTo(s, 0)
		start := time.Now()
		wantEnd(t, s, CodeDead)
		if took := time.Since(start); took != 2*interval {
			t.Errorf("it took %v to notice, want %v", took, 2*interval)
		}
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, s.Err()) {
			t.Errorf("read: %v", err)
		}
	})
}

// On a slow link a single frame may take longer than the peer may be silent.
func TestSlowPeerLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := script(t, Config{PingInterval: 10 * time.Second})
		st := p.openTo(s, 0)
		want := pattern(30, 1)
		go func() {
			for _, b := range dataFrame(st.id, want) {
				p.send([]byte{b})
				<-time.After(15 * time.Second)
			}
			p.send(finFrame(st.id))
		}()
		wantAll(t, st, want)
	})
}
