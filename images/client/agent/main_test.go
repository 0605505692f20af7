package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/images/client/upstream"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token = "0123456789abcdef0123456789abcdef"
	// patience is how long a test waits for what should happen at once.
	patience = 20 * time.Second
)

// server is a control plane that does what a test wants.
type server struct {
	*httptest.Server
	url *url.URL

	mu     sync.Mutex
	refuse func(w http.ResponseWriter, r *http.Request) bool // reports whether it has answered
	come   chan *visit
	able   []string             // its capabilities
	handle func(*tunnel.Stream) // serves the client's streams, if set
	greet  func(*visit)         // called before the visit is handed on, if set
}

// visit is one session of a client, as the server sees it.
type visit struct {
	*tunnel.Session
	conn   *websocket.Conn
	hello  tunnel.Hello
	goAway chan tunnel.GoAway
	health chan tunnel.Waiting
}

func newServer(t testing.TB, unstarted ...func(*httptest.Server)) *server {
	t.Helper()
	s := &server{come: make(chan *visit, 64)}
	up := websocket.Upgrader{Subprotocols: []string{tunnel.Subprotocol}, WriteBufferSize: tunnel.WriteBufferSize, WriteBufferPool: tunnel.WriteBufferPool}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		refuse := s.refuse
		s.mu.Unlock()
		if refuse != nil && refuse(w, r) {
			return
		}
		if got := r.Header.Get("Authorization"); got != "Bearer "+token || r.URL.Path != "/connect" {
			t.Errorf("%s with %q", r.URL, got)
		}
		hello, err := tunnel.ParseHello(r.Header.Values(tunnel.HelloHeader))
		if err != nil {
			t.Error(err)
		}
		lines, _ := tunnel.Hello{Version: "test", Capabilities: s.able, MaxStreams: 100}.Header()
		conn, err := up.Upgrade(w, r, http.Header{tunnel.HelloHeader: lines})
		if err != nil {
			return
		}
		v := &visit{conn: conn, hello: hello, goAway: make(chan tunnel.GoAway, 1), health: make(chan tunnel.Waiting, 64)}
		v.Session = tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{
			PingInterval: patience, GoAway: func(g tunnel.GoAway) { v.goAway <- g }, Health: func(w tunnel.Waiting) { v.health <- w }, Handle: s.handle,
		})
		t.Cleanup(func() { v.Close() })
		if s.greet != nil {
			s.greet(v)
		}
		s.come <- v
	}))
	for _, f := range unstarted {
		f(s.Server)
	}
	if s.URL == "" {
		s.Start()
	}
	t.Cleanup(s.Server.Close)
	u, err := ParseURL(s.URL)
	must(t, err)
	s.url = u
	return s
}

// refuseWith answers every client with a status from now on; 0 lets them in.
func (s *server) refuseWith(code int, text string, header ...string) {
	s.refuseBy(func(w http.ResponseWriter, _ *http.Request) bool {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		if code != 0 {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, text)
		}
		return code != 0
	})
}

func (s *server) refuseBy(f func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

// next returns the next client that connects.
func (s *server) next(t testing.TB) *visit {
	t.Helper()
	return within(t, s.come)
}

// open opens a stream to the client's upstream.
func (v *visit) open(t testing.TB, upstream int) *tunnel.Stream {
	t.Helper()
	st, err := v.Open(t.Context(), tunnel.Target{Upstream: upstream})
	must(t, err)
	t.Cleanup(func() { st.Close() })
	return st
}

// kill breaks the connection off.
func (v *visit) kill(t testing.TB) {
	t.Helper()
	must(t, v.conn.UnderlyingConn().Close())
}

// raw sends bytes beside the session.
func (v *visit) raw(t testing.TB, text string) {
	t.Helper()
	must(t, second(io.WriteString(v.conn.UnderlyingConn(), text)))
}

// agent is an Agent that runs.
type agent struct {
	*Agent
	log  *record
	reg  *prometheus.Registry
	stop context.CancelFunc
	done chan struct{} // closed when Run has returned
}

// newAgent returns an agent for a server that is quick where others wait.
func newAgent(t testing.TB, server *url.URL, upstreams string, change ...func(*Config)) *agent {
	t.Helper()
	var list route.List
	if upstreams != "" {
		must(t, list.Decode(upstreams))
	}
	a := &agent{log: newRecord(), reg: prometheus.NewRegistry(), done: make(chan struct{})}
	counters := new(tunnel.Counters)
	cfg := Config{
		Server: server, Token: func() string { return token }, CA: func() string { return "" }, ClientID: "me", Upstreams: list,
		PingInterval: patience, Drain: patience, Dialer: upstream.Dialer{Timeout: time.Hour}, Counters: counters,
		Metrics: NewMetrics(a.reg, counters), Log: zerolog.New(a.log),
	}
	for _, f := range change {
		f(&cfg)
	}
	a.Agent = New(cfg)
	cfg.Metrics.Watch(a.Agent)
	a.delays.first, a.delays.grace = time.Millisecond, 10*time.Millisecond
	return a
}

// run runs the agent until it is stopped, or the test ends.
func (a *agent) run(t testing.TB) *agent {
	ctx, cancel := context.WithCancel(t.Context())
	a.stop = cancel
	go func() {
		defer close(a.done)
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		within(t, a.done)
	})
	return a
}

// metric returns the value of a series whose labels' values are these.
func (a *agent) metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	families, err := a.reg.Gather()
	must(t, err)
	for _, f := range families {
		for _, m := range f.Metric {
			var got []string
			for _, l := range m.Label {
				got = append(got, l.GetValue())
			}
			if f.GetName() == name && fmt.Sprint(got) == fmt.Sprint(labels) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// echo is the address of an upstream that sends back what comes.
func echo(t testing.TB) string {
	return listen(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
}

// listen accepts connections until the test ends, and handles each.
func listen(t testing.TB, handle func(net.Conn)) (address string) {
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

// alive wants what is written to come back.
func alive(t testing.TB, st *tunnel.Stream) {
	t.Helper()
	must(t, second(st.Write([]byte("ping"))))
	p := make([]byte, 4)
	if _, err := io.ReadFull(st, p); err != nil || string(p) != "ping" {
		t.Fatalf("read %q %v", p, err)
	}
}

// finish ends a stream in good order.
func finish(t testing.TB, st *tunnel.Stream) {
	t.Helper()
	must(t, st.CloseWrite())
	must(t, second(io.Copy(io.Discard, st)))
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

func second[T any](_ T, err error) error { return err }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// record keeps log lines, and lets tests wait for them.
type record struct {
	mu    sync.Mutex
	lines []map[string]any
	more  chan struct{} // closed with the next line
	text  bytes.Buffer
}

func newRecord() *record { return &record{more: make(chan struct{})} }

func (r *record) Write(line []byte) (int, error) {
	fields := map[string]any{}
	if err := json.Unmarshal(line, &fields); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text.Write(line)
	r.lines = append(r.lines, fields)
	close(r.more)
	r.more = make(chan struct{})
	return len(line), nil
}

// await waits for a line with the message, and with fields that contain what is given:
// name, part, name, part and so on. It takes each line once.
func (r *record) await(t testing.TB, message string, fields ...string) map[string]any {
	t.Helper()
	limit := time.After(patience)
	for {
		r.mu.Lock()
		for i, l := range r.lines {
			fits := l["message"] == message
			for j := 0; j < len(fields) && fits; j += 2 {
				fits = strings.Contains(fmt.Sprint(l[fields[j]]), fields[j+1])
			}
			if fits {
				r.lines = append(r.lines[:i:i], r.lines[i+1:]...)
				r.mu.Unlock()
				return l
			}
		}
		more := r.more
		r.mu.Unlock()
		select {
		case <-more:
		case <-limit:
			t.Fatalf("no %q %q in the log:\n%s", message, fields, r.String())
		}
	}
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}
