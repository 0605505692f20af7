package edge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/rawio"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/service"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test that should not have to wait.
const patience = 20 * time.Second

func soon() time.Time { return time.Now().Add(patience) }

var noDeadline time.Time

// site is a data plane on a socket of this machine, with clients behind it that connect
// real upstreams.
type site struct {
	tb    testing.TB
	edge  *Edge
	table *routing.Table
	addr  string // of the data plane
	log   *lines
	gate  *gate  // of the listener's fast path
	drain func() // begins to shut the server down

	access *access.Policy // of the upstreams of clients that come

	counters tunnel.Counters // of our ends of the sessions

	mu    sync.Mutex
	conns []*guardConn // of the visitors so far
	lanes []net.Conn   // the clients' ends of the lanes so far
}

// keeping is the listener of a site.
type keeping struct {
	guardListener
	site *site
}

func (l keeping) Accept() (net.Conn, error) {
	c, err := l.guardListener.Accept()
	if err != nil {
		return nil, err
	}
	guarded := c.(*guardConn)
	prime(guarded)
	l.site.mu.Lock()
	defer l.site.mu.Unlock()
	l.site.conns = append(l.site.conns, guarded)
	return c, nil
}

// newSite starts a data plane. The configuration may be changed before that.
func newSite(tb testing.TB, change ...func(*Config)) *site {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return newSiteOn(tb, rawio.Listener(l), false, change...)
}

func newSiteOn(tb testing.TB, l net.Listener, secure bool, change ...func(*Config)) *site {
	tb.Helper()
	s := &site{tb: tb, table: new(routing.Table), addr: l.Addr().String(), log: new(lines)}
	cfg := Config{
		Table: s.table, OpenTimeout: patience, ResponseTimeout: patience,
		Metrics: NewMetrics(prometheus.NewRegistry()), Log: zerolog.New(s.log),
	}
	for _, f := range change {
		f(&cfg)
	}
	s.edge = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	guarded := Listener(l).(guardListener)
	execute, interrupt := service.HTTP("data plane", s.edge.Server(ctx, secure), keeping{guarded, s}, patience, cfg.Log)
	s.gate, s.drain = guarded.gate, func() { interrupt(nil) }
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := execute(); err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	wg.Go(func() { _ = s.edge.Run(ctx) })
	tb.Cleanup(func() {
		s.edge.Close() // upgraded connections, for which nobody waits here
		interrupt(nil)
		cancel()
		wg.Wait()
		s.edge.Close()
		for _, line := range s.log.all() {
			if strings.Contains(line, "panic") || strings.Contains(line, "superfluous") {
				tb.Errorf("the server logged: %s", line)
			}
		}
	})
	return s
}

// lines keeps what was logged.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(p))
	return len(p), nil
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.text...)
}

// client is a connected client with its session, as the server sees it and as it sees
// it itself.
type client struct {
	here, there *tunnel.Session
	backends    []*routing.Backend
	leave       func() // takes the routes out and ends the session
}

// client connects a client that exposes these upstreams, in the grammar of UPSTREAMS.
func (s *site) client(upstreams ...string) *client {
	s.tb.Helper()
	var list []route.Upstream
	for _, text := range upstreams {
		u, err := route.Parse(text)
		if err != nil {
			s.tb.Fatal(err)
		}
		list = append(list, u)
	}
	return s.clientOf(list, func(st *tunnel.Stream) { dialUpstream(list, st) })
}

// laneAfter is how many bytes of a body bring its stream on a lane.
const laneAfter = 256 << 10

// clientOf connects a client that handles streams in its own way.
func (s *site) clientOf(upstreams []route.Upstream, handle func(*tunnel.Stream)) *client {
	s.tb.Helper()
	a, b := tcpPair(s.tb)
	c := new(client)
	lanes := tunnel.Lanes{Grant: tunnel.NewLaneGrant(), After: laneAfter}
	theirs := lanes
	theirs.Dial = func(_ context.Context, value string) (net.Conn, error) {
		name, err := tunnel.ParseLaneName(value)
		if err != nil {
			return nil, err
		}
		pending, err := c.here.NewLane(name)
		if err != nil {
			return nil, err
		}
		here, there := tcpPair(s.tb)
		s.mu.Lock()
		s.lanes = append(s.lanes, there)
		s.mu.Unlock()
		go pending.Attach(here)
		return there, nil
	}
	c.here = tunnel.New(tunnel.NewConn(a), tunnel.Config{Lanes: &lanes, Counters: &s.counters})
	c.there = tunnel.New(tunnel.NewConn(b), tunnel.Config{Client: true, Handle: handle, Lanes: &theirs})
	for i, u := range upstreams {
		c.backends = append(c.backends, &routing.Backend{Opener: c.here, ClientID: "test", Index: i, Upstream: u, Access: s.access})
	}
	if err := s.table.Add(c.backends); err != nil {
		s.tb.Fatal(err)
	}
	c.leave = sync.OnceFunc(func() {
		s.table.Remove(c.backends)
		_ = c.here.Close()
		_ = c.there.Close()
	})
	s.tb.Cleanup(c.leave)
	return c
}

// goAway announces that the client leaves, and waits until the server knows.
func (c *client) goAway(tb testing.TB) {
	c.there.GoAway(tunnel.GoAway{})
	eventually(tb, c.here.Leaving)
}

// add exposes a session under every host.
func (s *site) add(session *tunnel.Session) {
	s.tb.Helper()
	b := []*routing.Backend{{Opener: session, ClientID: "test", Upstream: route.Upstream{Host: "*", Scheme: route.HTTP}}}
	if err := s.table.Add(b); err != nil {
		s.tb.Fatal(err)
	}
}

// dialUpstream does what a client does with a stream.
func dialUpstream(upstreams []route.Upstream, st *tunnel.Stream) {
	conn, err := net.Dial("tcp", upstreams[st.Target().Upstream].Address)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		st.Reset(tunnel.CodeRefused, "connection refused by 10.1.2.3")
		return
	case err != nil:
		st.Reset(tunnel.CodeUnreachable, "no route to 10.1.2.3")
		return
	}
	if st.Accept() != nil {
		_ = conn.Close()
		return
	}
	_ = tunnel.Relay(st, conn, time.Minute)
}

// tcpPair returns both ends of a connection.
func tcpPair(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return a, b
}

// httpUpstream starts a web server and returns its address.
func httpUpstream(tb testing.TB, handler http.HandlerFunc) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	srv := &http.Server{Handler: handler}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	tb.Cleanup(func() {
		_ = srv.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// webSite is a site with one client that exposes a web server under every host.
func webSite(tb testing.TB, handler http.HandlerFunc) *site {
	tb.Helper()
	s := newSite(tb)
	s.client("http://" + httpUpstream(tb, handler))
	return s
}

// rawUpstream starts a server that scripts bytes: serve has the n-th connection, from 0,
// for as long as it does not return.
func rawUpstream(tb testing.TB, serve func(n int, c *wire)) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				c := newWire(tb, conn)
				defer c.Close()
				serve(n, c)
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// rawSite is a site with one client that exposes a scripted server under every host.
func rawSite(tb testing.TB, serve func(n int, c *wire)) *site {
	tb.Helper()
	s := newSite(tb)
	s.client("http://" + rawUpstream(tb, serve))
	return s
}

// dial connects a visitor.
func (s *site) dial() *wire {
	s.tb.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.tb.Fatal(err)
	}
	c := newWire(s.tb, conn)
	s.tb.Cleanup(func() { _ = c.Close() })
	return c
}

// visitor returns an http.Client that keeps connections and asks the site for any host.
func (s *site) visitor() *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.addr)
		},
		DisableCompression: true,
	}
	s.tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// get asks for a URL and returns the response with its body read.
func (s *site) get(url string) (*http.Response, string) {
	s.tb.Helper()
	v := s.visitor()
	defer v.CloseIdleConnections()
	resp, err := v.Get(url)
	if err != nil {
		s.tb.Fatal(err)
	}
	return resp, readAll(s.tb, resp)
}

func readAll(tb testing.TB, resp *http.Response) string {
	tb.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Errorf("body: %v", err)
	}
	return string(body)
}

// wantCount waits until so many requests are counted under the labels.
func (s *site) wantCount(want float64, code, host, method string) {
	s.tb.Helper()
	counter := s.edge.metrics.requests.WithLabelValues(code, host, method)
	eventually(s.tb, func() bool { return testutil.ToFloat64(counter) == want })
}

// eventually waits for what another goroutine is about to do and tells nobody.
func eventually(tb testing.TB, done func() bool) {
	tb.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-limit.C:
			tb.Fatal("did not come true")
		}
	}
}
