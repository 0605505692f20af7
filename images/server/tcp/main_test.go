package tcp

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should happen at once.
const patience = 20 * time.Second

// server is a plane on loopback with its metrics.
type server struct {
	*Plane
	reg    *prometheus.Registry
	access *access.Policy // of clients that connect
}

func start(t testing.TB, change ...func(*Config)) *server {
	t.Helper()
	s := &server{reg: prometheus.NewRegistry()}
	cfg := Config{
		Addr: "127.0.0.1", Allow: Ports{{1024, 65535}}, OpenTimeout: patience, Drain: patience,
		Metrics: NewMetrics(s.reg), Log: zerolog.Nop(),
	}
	for _, f := range change {
		f(&cfg)
	}
	s.Plane = New(cfg)
	t.Cleanup(s.Close)
	return s
}

// metric returns the value of a series with at most one label.
func (s *server) metric(t testing.TB, name, label string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	must(t, err)
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && (len(m.Label) == 0 || m.Label[0].GetValue() == label) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// client is a client with a session, whose upstreams are handlers.
type client struct {
	*tunnel.Session // the server's end
	there           *tunnel.Session
	counters        *tunnel.Counters
	gate            *gate
	lease           *Lease
}

// connect connects a client that serves the ports with handle.
func (s *server) connect(t testing.TB, handle func(net.Conn), ports ...int) *client {
	t.Helper()
	c := s.join(t, handle)
	var list []*routing.Backend
	for i, port := range ports {
		list = append(list, backendOf(t, port, i))
	}
	lease, err := s.Reserve(list)
	must(t, err)
	for _, b := range list {
		b.Opener, b.Access = c.Session, s.access
	}
	lease.Serve()
	c.lease = lease
	t.Cleanup(lease.Release)
	return c
}

func backendOf(t testing.TB, port, index int) *routing.Backend {
	t.Helper()
	u, err := route.Parse(strconv.Itoa(port) + "=upstream:1")
	must(t, err)
	return &routing.Backend{ClientID: "c", Index: index, Upstream: u}
}

// join establishes a session. Its client's streams lead to a listener whose connections
// are handled by handle.
func (s *server) join(t testing.TB, handle func(net.Conn)) *client {
	t.Helper()
	address := upstream(t, handle)
	here, there := tcpPair(t)
	g, counters := &gate{Conn: there}, new(tunnel.Counters)
	c := &client{
		gate: g, counters: counters,
		Session: tunnel.New(tunnel.NewConn(here), tunnel.Config{Counters: counters, PingInterval: patience}),
		there: tunnel.New(tunnel.NewConn(g), tunnel.Config{Client: true, PingInterval: patience, Handle: func(st *tunnel.Stream) {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				st.Reset(tunnel.CodeRefused, "")
				return
			}
			if st.Accept() != nil {
				conn.Close()
				return
			}
			_ = tunnel.Relay(st, conn, time.Minute)
		}}),
	}
	t.Cleanup(func() {
		c.Session.Close()
		c.there.Close()
	})
	return c
}

// gate is a connection that can be frozen: nothing is read or written then.
type gate struct {
	net.Conn
	mu sync.RWMutex
}

func (g *gate) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.mu.RLock()
	defer g.mu.RUnlock()
	return n, err
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.Conn.Write(p)
}

func (g *gate) freeze() { g.mu.Lock() }
func (g *gate) thaw()   { g.mu.Unlock() }

// upstream listens, and handles connections until the test ends.
func upstream(t testing.TB, handle func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		work.Wait()
	})
	return l.Addr().String()
}

// says is an upstream that says who it is, and then echoes.
func says(name string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, name)
		_, _ = io.Copy(c, c)
	}
}

// visit connects to a port.
func visit(t testing.TB, port int) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn.(*net.TCPConn)
}

// hears reads what an upstream says at first.
func hears(t testing.TB, conn net.Conn) string {
	t.Helper()
	p := make([]byte, 100)
	n, err := conn.Read(p)
	must(t, err)
	return string(p[:n])
}

// wantReset wants the connection to be reset, and not to end.
func wantReset(t testing.TB, conn net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, want a reset", err)
	}
}

// wantRefused wants a visitor to be reset at once.
func wantRefused(t testing.TB, port int) {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if errors.Is(err, syscall.ECONNRESET) {
		return // even before Dial has returned
	}
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	wantReset(t, conn)
}

func tcpPair(t testing.TB) (accepted, dialled net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	dialled, err = net.Dial("tcp", l.Addr().String())
	must(t, err)
	accepted, err = l.Accept()
	must(t, err)
	return accepted, dialled
}

// run has the plane drain when stop is called; done is closed after that.
func (s *server) run(t testing.TB) (stop func(), done <-chan struct{}) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return cancel, ended
}

// eventually looks again and again until something holds for which there is no event.
func eventually(t testing.TB, holds func() bool) {
	t.Helper()
	limit := time.After(patience)
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-limit:
			t.Fatal("it takes too long")
		}
	}
}

func within[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("it takes too long")
	}
	return v
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
