package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/images/server/pending"
	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/images/server/tcp"
	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/telemetry"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token = "0123456789abcdef0123456789abcdef"
	// patience is how long a test waits for what should happen at once.
	patience = 20 * time.Second
)

// server is a control plane on loopback, with both kinds of data plane behind it.
type server struct {
	*Control
	addr  string
	table *routing.Table
	ports *tcp.Plane
	log   *record
}

// start starts a server, whose settings may be changed before.
func start(t testing.TB, change ...func(*Config)) *server {
	t.Helper()
	s := &server{table: new(routing.Table), log: newRecord()}
	log := zerolog.New(s.log)
	reg := telemetry.NewRegistry("server")
	counters := new(tunnel.Counters)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.addr = l.Addr().String()
	s.ports = tcp.New(tcp.Config{
		Addr: "127.0.0.1", Allow: tcp.Ports{{First: 1024, Last: 65535}}, Reserved: []int{l.Addr().(*net.TCPAddr).Port},
		OpenTimeout: time.Second, Metrics: tcp.NewMetrics(reg), Log: log,
	})
	cfg := Config{
		Tokens: auth.NewTokens([]string{token}), Throttle: auth.NewThrottle(), Table: s.table, Ports: s.ports,
		Mode: "http,tcp", PingInterval: patience, Counters: counters, Log: log, Pending: pending.New(1024, 0),
		Observe: telemetry.Handler(reg, func() error { return s.Ready() }),
	}
	for _, f := range change {
		f(&cfg)
	}
	var modes []string
	if cfg.Table != nil {
		modes = append(modes, "http")
	}
	if cfg.Ports != nil {
		modes = append(modes, "tcp")
	}
	cfg.Metrics = NewMetrics(reg, modes, counters)
	s.Control = New(cfg)
	s.listen(t, l)
	return s
}

// listen serves the control plane on l until the test ends.
func (s *server) listen(t testing.TB, l net.Listener) {
	srv := s.Server()
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		s.ports.Close()
		_ = srv.Close()
		<-served
	})
}

// metric returns the value of a series, "" if there is none.
func (s *server) metric(t testing.TB, line string) string {
	t.Helper()
	code, body := s.get(t, "/metrics", token)
	if code != http.StatusOK {
		t.Fatalf("metrics: %d %s", code, body)
	}
	for l := range strings.Lines(body) {
		if name, value, ok := strings.Cut(strings.TrimSpace(l), "} "); ok && name+"}" == line {
			return value
		} else if name, value, ok := strings.Cut(strings.TrimSpace(l), " "); ok && name == line {
			return value
		}
	}
	return ""
}

func (s *server) get(t testing.TB, path, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+s.addr+path, nil)
	must(t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(body)
}

// hello announces a client with the epoch 1.
func hello(id string, upstreams ...string) tunnel.Hello {
	return tunnel.Hello{Version: "9.9.9", ClientID: id, Hostname: "host-of-" + id, Epoch: 1, Upstreams: upstreams}
}

func epoch(h tunnel.Hello, epoch uint64) tunnel.Hello {
	h.Epoch = epoch
	return h
}

// header returns the header of a client's handshake.
func header(t testing.TB, h tunnel.Hello) http.Header {
	t.Helper()
	lines, err := h.Header()
	must(t, err)
	return http.Header{"Authorization": {"Bearer " + token}, tunnel.HelloHeader: lines}
}

// dial makes the handshake of a client.
func (s *server) dial(t testing.TB, h tunnel.Hello) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	dialer := websocket.Dialer{
		Subprotocols: []string{tunnel.Subprotocol}, HandshakeTimeout: patience,
		WriteBufferSize: tunnel.WriteBufferSize, WriteBufferPool: tunnel.WriteBufferPool,
	}
	return dialer.Dial("ws://"+s.addr+"/connect", header(t, h))
}

// refused wants a client to be refused, and returns why.
func (s *server) refused(t testing.TB, h tunnel.Hello, code int) string {
	t.Helper()
	conn, resp, err := s.dial(t, h)
	if err == nil {
		conn.Close()
		t.Fatalf("%s was not refused", h.ClientID)
	}
	if resp == nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != code {
		t.Fatalf("refused with %d %s, want %d", resp.StatusCode, body, code)
	}
	return string(body)
}

// peer is the client's end of a session.
type peer struct {
	*tunnel.Session
	goAway chan tunnel.GoAway
	hello  tunnel.Hello // of the server
}

// connect connects a client, which serves its streams with handle.
func (s *server) connect(t testing.TB, h tunnel.Hello, handle func(*tunnel.Stream)) *peer {
	t.Helper()
	conn, resp, err := s.dial(t, h)
	if err != nil {
		t.Fatalf("%v: %v", err, resp)
	}
	p := &peer{goAway: make(chan tunnel.GoAway, 1)}
	p.hello, err = tunnel.ParseHello(resp.Header.Values(tunnel.HelloHeader))
	must(t, err)
	p.Session = tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{
		Client: true, PingInterval: patience, Handle: handle, GoAway: func(g tunnel.GoAway) { p.goAway <- g },
	})
	t.Cleanup(func() { p.Close() })
	s.log.await(t, "client connected", "client_id", h.ClientID)
	return p
}

// echo sends back what comes, and ends when that ends.
func echo(st *tunnel.Stream) {
	defer st.Close()
	if st.Accept() == nil {
		_, _ = io.Copy(st, st)
		_ = st.CloseWrite()
	}
}

// open opens a stream to the backend that serves the host, and wants it to work.
func (s *server) open(t testing.TB, host string) *tunnel.Stream {
	t.Helper()
	r := s.table.Match(host, "/")
	if r == nil {
		t.Fatalf("no route for %s", host)
	}
	for _, b := range r.Backends() {
		st, err := b.Opener.Open(t.Context(), tunnel.Target{Upstream: b.Index})
		must(t, err)
		t.Cleanup(func() { st.Close() })
		return st
	}
	t.Fatalf("nobody serves %s", host)
	return nil
}

// alive wants what is written to come back.
func alive(t testing.TB, st *tunnel.Stream) {
	t.Helper()
	if _, err := st.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4)
	if _, err := io.ReadFull(st, p); err != nil || string(p) != "ping" {
		t.Fatalf("read %q %v", p, err)
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

// eventually looks again and again until something holds for which there is no event.
func eventually(t testing.TB, holds func() bool, otherwise ...func() string) {
	t.Helper()
	limit := time.After(patience)
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-limit:
			for _, text := range otherwise {
				t.Error(text())
			}
			t.Fatal("it takes too long")
		}
	}
}

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
	off   bool
}

func newRecord() *record { return &record{more: make(chan struct{})} }

func (r *record) Write(line []byte) (int, error) {
	fields := map[string]any{}
	if err := json.Unmarshal(line, &fields); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.off {
		return len(line), nil
	}
	r.text.Write(line)
	r.lines = append(r.lines, fields)
	close(r.more)
	r.more = make(chan struct{})
	return len(line), nil
}

// discard keeps nothing any more.
func (r *record) discard() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.off = true
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
