package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// record keeps what was logged.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// rig is a Forwarder with one local port that runs.
type rig struct {
	*Forwarder
	log  *record
	stop func() // returns when Run has
}

func start(t *testing.T, servers ...Server) *rig {
	t.Helper()
	return startWith(t, func(*Forwarder) {}, servers...)
}

func startWith(t *testing.T, change func(*Forwarder), servers ...Server) *rig {
	t.Helper()
	var list List
	must(t, list.Decode("0:db.internal:5432"))
	r := &rig{log: new(record)}
	r.Forwarder = New(Config{Forwards: list, Metrics: NewMetrics(prometheus.NewRegistry()), Log: zerolog.New(r.log)})
	change(r.Forwarder)
	must(t, r.Listen())
	for _, s := range servers {
		r.Use(s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("does not end")
		}
	}
	t.Cleanup(r.stop)
	return r
}

func (r *rig) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", r.listeners[0].Addr().String())
	must(t, err)
	_ = conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// refused wants a connection to be reset.
func (r *rig) refused(t *testing.T) {
	t.Helper()
	conn, err := net.Dial("tcp", r.listeners[0].Addr().String())
	if err == nil {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

func (r *rig) wantRefused(t *testing.T, reason string, want float64) {
	t.Helper()
	if n := testutil.ToFloat64(r.cfg.Metrics.refused.WithLabelValues(reason)); n != want {
		t.Errorf("%v were refused as %s, want %v", n, reason, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serverFunc is a Server.
type serverFunc func(ctx context.Context, destination string) (*tunnel.Stream, error)

func (f serverFunc) Forward(ctx context.Context, destination string) (*tunnel.Stream, error) {
	return f(ctx, destination)
}

func failing(err error) Server {
	return serverFunc(func(context.Context, string) (*tunnel.Stream, error) { return nil, err })
}

// echoing is a server whose services send back what comes, and end when that ends.
func echoing(t *testing.T) Server {
	t.Helper()
	a, b := net.Pipe()
	server := tunnel.New(tunnel.NewConn(a), tunnel.Config{Handle: func(st *tunnel.Stream) {
		if want := "db.internal:5432"; st.Target().Forward != want {
			t.Errorf("asked for %q, want %q", st.Target().Forward, want)
		}
		_ = st.Accept()
		_, _ = io.Copy(st, struct{ io.Reader }{st})
		_ = st.CloseWrite()
	}})
	client := tunnel.New(tunnel.NewConn(b), tunnel.Config{Client: true})
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return serverFunc(func(ctx context.Context, destination string) (*tunnel.Stream, error) {
		return client.Open(ctx, tunnel.Target{Forward: destination})
	})
}

// works wants a connection to be carried to an echoing server.
func (r *rig) works(t *testing.T) {
	t.Helper()
	conn := r.dial(t)
	_, err := io.WriteString(conn, "hello")
	must(t, err)
	must(t, conn.CloseWrite())
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

var (
	denied      = &DeniedError{"FORWARD_ALLOW has no pattern for it"}
	unreachable = &tunnel.ResetError{Code: tunnel.CodeUnreachable, Reason: "the server cannot reach the service", Remote: true}
	errBroken   = fmt.Errorf("%w: %w", ErrNotConnected, tunnel.ErrGoingAway)
)

func TestForward(t *testing.T) {
	r := start(t, echoing(t))
	r.works(t)
	r.works(t)
	r.stop()
	name := "127.0.0.1:0:db.internal:5432"
	if total, open := testutil.ToFloat64(r.cfg.Metrics.total.WithLabelValues(name)), testutil.ToFloat64(r.cfg.Metrics.open.WithLabelValues(name)); total != 2 || open != 0 {
		t.Errorf("%v connections, of which %v are open", total, open)
	}
	if _, err := net.Dial("tcp", r.listeners[0].Addr().String()); err == nil {
		t.Error("the local port is open still")
	}
}

// Any server that takes the connection carries it.
func TestSeveralServers(t *testing.T) {
	for name, first := range map[string]error{"not connected": ErrNotConnected, "going away": errBroken, "denied": denied, "cannot reach it": unreachable} {
		t.Run(name, func(t *testing.T) { start(t, failing(first), echoing(t)).works(t) })
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name    string
		servers []Server
		reason  string // of the metric
		log     string
	}{
		{"denied", []Server{failing(denied)}, "denied", denied.Reason},
		{"denied by all", []Server{failing(denied), failing(denied)}, "denied", denied.Reason},
		{"cannot be reached", []Server{failing(unreachable)}, "unreachable", "the server cannot reach the service"},
		{"cannot be reached, and not connected", []Server{failing(ErrNotConnected), failing(unreachable)}, "unreachable", "the server cannot reach the service"},
		{"denied, and cannot be reached", []Server{failing(denied), failing(unreachable)}, "unreachable", "the server cannot reach the service"},
		{"too many streams", []Server{failing(tunnel.ErrTooManyStreams)}, "too_many_streams", "too many streams"},
		{"too slow", []Server{failing(tunnel.ErrOpenTimeout)}, "open_timeout", "in time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, tt.servers...)
			r.refused(t)
			r.refused(t)
			r.stop()
			r.wantRefused(t, tt.reason, 2)
			if n := strings.Count(r.log.String(), `"level":"warn"`); n != 1 || !strings.Contains(r.log.String(), tt.log) {
				t.Errorf("logged %d warnings, want one with %q:\n%s", n, tt.log, r.log)
			}
		})
	}
}

// On a new session what is refused is told again, and what works again too.
func TestWhatIsLogged(t *testing.T) {
	var mu sync.Mutex
	var s Server = failing(denied)
	r := start(t, serverFunc(func(ctx context.Context, destination string) (*tunnel.Stream, error) {
		mu.Lock()
		defer mu.Unlock()
		return s.Forward(ctx, destination)
	}))
	r.refused(t)
	r.Up()
	r.refused(t)
	mu.Lock()
	s = echoing(t)
	mu.Unlock()
	r.works(t)
	r.stop()
	if n := strings.Count(r.log.String(), `"level":"warn"`); n != 2 || !strings.Contains(r.log.String(), "can forward again") {
		t.Errorf("logged %d warnings:\n%s", n, r.log)
	}
}

// A connection waits for a server that comes back, and for others not.
func TestWait(t *testing.T) {
	asked := make(chan struct{}, 16)
	var mu sync.Mutex
	var s Server = failing(ErrNotConnected)
	r := start(t, failing(denied), serverFunc(func(ctx context.Context, destination string) (*tunnel.Stream, error) {
		mu.Lock()
		defer mu.Unlock()
		defer func() { asked <- struct{}{} }()
		return s.Forward(ctx, destination)
	}))
	go func() {
		<-asked
		r.Up() // another session, which is no use
		<-asked
		mu.Lock()
		s = echoing(t)
		mu.Unlock()
		r.Up()
	}()
	r.works(t)
	if n := testutil.CollectAndCount(r.cfg.Metrics.refused); n != 0 {
		t.Errorf("%d reasons of refusals", n)
	}
}

func TestWaitEnds(t *testing.T) {
	r := startWith(t, func(f *Forwarder) { f.wait = time.Millisecond }, failing(ErrNotConnected))
	r.refused(t)
	r.wantRefused(t, "not_connected", 1)
}

func TestWaitEndsWithTheClient(t *testing.T) {
	asked := make(chan struct{}, 1)
	r := start(t, serverFunc(func(context.Context, string) (*tunnel.Stream, error) {
		asked <- struct{}{}
		return nil, ErrNotConnected
	}))
	conn := r.dial(t)
	<-asked
	r.stop()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	r.wantRefused(t, "draining", 1)
}

func TestWaitingIsBounded(t *testing.T) {
	r := startWith(t, func(f *Forwarder) { f.waiting = maxWaiting }, failing(ErrNotConnected))
	r.refused(t)
	r.wantRefused(t, "too_many_waiting", 1)
}

func TestListenFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	var list List
	must(t, list.Decode(fmt.Sprintf("0:a:1,%d:a:2", l.Addr().(*net.TCPAddr).Port)))
	f := New(Config{Forwards: list})
	if err := f.Listen(); err == nil || !strings.Contains(err.Error(), "FORWARDS: port") {
		t.Errorf("got %v", err)
	}
	if _, err := f.listeners[0].Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the other port is open: %v", err)
	}
}
