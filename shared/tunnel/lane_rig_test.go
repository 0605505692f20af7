package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/rawio"
)

type connPair = func(testing.TB) (server, client net.Conn)

// laneKinds are the carriers with what lanes run over beside them.
var laneKinds = []struct {
	name    string
	carrier carrierPair
	lane    connPair
}{
	{"pipe", pipePair, func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() }},
	{"tcp", carriers[1].pair, func(tb testing.TB) (net.Conn, net.Conn) {
		a, b := tcpPair(tb)
		return a, b
	}},
	{"tls", func(tb testing.TB) (Carrier, Carrier) { return wsPair(tb, true, false) }, tlsPair},
	{"rawio", func(tb testing.TB) (Carrier, Carrier) { return wsPair(tb, false, true) }, rawioPair},
	{"rawio tls", func(tb testing.TB) (Carrier, Carrier) { return wsPair(tb, true, true) }, rawioTLSPair},
	{"another framing", carriers[1].pair, func(tb testing.TB) (net.Conn, net.Conn) { return reframed(tb, rawioPair) }},
}

func rawioPair(tb testing.TB) (net.Conn, net.Conn) {
	a, b := tcpPair(tb)
	return rawio.Wrap(a), rawio.Wrap(b)
}

func rawioTLSPair(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	a, b := rawioPair(tb)
	server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{testCertificate()}})
	client := tls.Client(b, &tls.Config{InsecureSkipVerify: true}) // the test's own other end
	shaken := make(chan error, 1)
	go func() { shaken <- server.HandshakeContext(context.Background()) }()
	if err := errors.Join(client.HandshakeContext(context.Background()), <-shaken); err != nil {
		tb.Fatal(err)
	}
	return server, client
}

func overLanes(t *testing.T, f func(t *testing.T, carrier carrierPair, lane connPair)) {
	t.Helper()
	for _, k := range laneKinds {
		t.Run(k.name, func(t *testing.T) { f(t, k.carrier, k.lane) })
	}
}

// laneRig is a pair of sessions with lanes between them.
type laneRig struct {
	srv, cli         *Session
	grant            *LaneGrant
	streams          <-chan *Stream       // for the tests
	refuse           func(LaneName) error // before anything else, if set
	dials            chan struct{}        // gets one for each, if set
	mu               sync.Mutex
	server, client   []net.Conn // the ends of the lanes so far
	cleanups         []func()
	toServer, toPeer Counters
}

// lanesWith joins sessions whose streams move to a lane after so many bytes, and go back
// when they are idle for so long.
func lanesWith(tb testing.TB, carrier carrierPair, lane connPair, after int, idle time.Duration, handle func(*Stream), grace ...time.Duration) *laneRig {
	tb.Helper()
	r := &laneRig{grant: NewLaneGrant()}
	lanes := Lanes{Grant: r.grant, After: after, Idle: idle, grace: long, dial: 5 * time.Second}
	if len(grace) > 0 {
		lanes.grace = grace[0]
	}
	theirs := lanes
	theirs.Dial = func(_ context.Context, value string) (net.Conn, error) {
		name, err := ParseLaneName(value)
		if err != nil {
			tb.Error(err)
			return nil, err
		}
		if r.dials != nil {
			r.dials <- struct{}{}
		}
		if r.refuse != nil {
			if err := r.refuse(name); err != nil {
				return nil, err
			}
		}
		pending, err := r.srv.NewLane(name)
		if err != nil {
			return nil, err
		}
		server, client := lane(lateTB{tb, r})
		r.mu.Lock()
		r.server, r.client = append(r.server, server), append(r.client, client)
		r.mu.Unlock()
		go pending.Attach(server)
		return client, nil
	}
	a, b := carrier(tb)
	r.srv = New(a, Config{Lanes: &lanes, Handle: handle, Counters: &r.toPeer})
	r.cli = New(b, Config{Lanes: &theirs, Handle: handle, Counters: &r.toServer, Client: true})
	tb.Cleanup(func() {
		r.srv.Close()
		r.cli.Close()
		for _, f := range slices.Backward(r.cleanups) {
			f()
		}
		for _, c := range []*Counters{&r.toServer, &r.toPeer} {
			if n := c.Lanes.Load(); n != 0 {
				tb.Errorf("%d lanes are left behind", n)
			}
		}
	})
	return r
}

// lateTB has what lanes need cleaned up after the sessions that dial them.
type lateTB struct {
	testing.TB
	rig *laneRig
}

func (tb lateTB) Cleanup(f func()) {
	tb.rig.mu.Lock()
	defer tb.rig.mu.Unlock()
	tb.rig.cleanups = append(tb.rig.cleanups, f)
}

// join opens a stream and returns both of its ends.
func (r *laneRig) join(tb testing.TB, streams <-chan *Stream) (here, there *Stream) {
	tb.Helper()
	here = open(tb, r.srv)
	there = <-streams
	tb.Cleanup(func() { there.Close() })
	return here, there
}

// cut closes what lies below all lanes, as a box in between might.
func (r *laneRig) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range slices.Concat(r.server, r.client) {
		abort(c)
	}
}

// errors returns how often lanes failed as either end counts it.
func (c *Counters) laneErrors() (refused, timeout, full, broken uint64) {
	e := &c.LaneErrors
	return e.Refused.Load(), e.Timeout.Load(), e.Full.Load(), e.Broken.Load()
}

// reframed puts a box between the ends that takes all frames apart and makes others,
// masked by keys of its own.
func reframed(tb testing.TB, pair connPair) (server, client net.Conn) {
	tb.Helper()
	server, inner := pair(tb)
	outer, client := pair(tb)
	var boxes sync.WaitGroup
	box := func(from, to net.Conn, up bool) {
		whole := false
		defer func() {
			if !whole {
				from.Close()
				to.Close()
			}
		}()
		r := laneReader{conn: from, masked: up}
		r.ping = func(data []byte) { _, _ = to.Write(appendWSControl(nil, opPing, data, up)) }
		buf := make([]byte, 7000)
		for size := 1; ; size = size*3%7001 + 1 {
			for r.left == 0 {
				opcode, err := r.step(false)
				if err == errLaneEnd {
					whole = true // the other direction goes on
					_, _ = to.Write(appendWSControl(nil, opClose, []byte{1000 >> 8, 1000 & 0xff}, up))
				}
				if opcode == opPong {
					_, _ = to.Write(appendWSControl(nil, opPong, nil, up))
				}
				if err != nil {
					return
				}
			}
			n, err := r.read(buf[:min(size, len(buf))])
			if err != nil {
				return
			}
			var key *maskKey
			if up {
				key = new(maskKey)
				*key = newMaskKey()
				key.mask(buf[:n], 0)
			}
			if _, err := to.Write(append(appendWSHeader(nil, opContinuation, n, key), buf[:n]...)); err != nil {
				return
			}
		}
	}
	boxes.Go(func() { box(outer, inner, true) })
	boxes.Go(func() { box(inner, outer, false) })
	tb.Cleanup(func() {
		inner.Close()
		outer.Close()
		boxes.Wait()
	})
	return server, client
}
