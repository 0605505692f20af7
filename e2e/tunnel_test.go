//go:build unix

package e2e

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// loopback is an environment for programs that share a machine with others: nobody else reaches them, ports are
// free ones. Later variables win over it.
var loopback = []string{
	"DATA_ADDR=127.0.0.1", "CONTROL_ADDR=127.0.0.1", "METRICS_ADDR=127.0.0.1",
	"PORT=0", "CONTROL_PORT=0", "METRICS_PORT=0", "DRAIN_TIMEOUT=10s",
}

func environment(env ...string) []string { return slices.Concat(loopback, env) }

// newToken returns a token that nothing else has.
func newToken() string { return rand.Text() }

// server is a running server and where its ports are.
type server struct {
	*program
	token                  string
	data, control, metrics string
}

// startServer starts a server with a token of its own unless env has another, and waits until it listens. Its ports
// are its own until the test ends: another server can be started there.
func startServer(t testing.TB, env ...string) *server {
	t.Helper()
	token := newToken()
	for _, name := range []string{"PORT", "CONTROL_PORT", "METRICS_PORT"} {
		if !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") }) {
			env = append(env, fmt.Sprint(name, "=", freeport.New(t)))
		}
	}
	if !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "TOKEN") }) {
		env = append(env, "TOKEN="+token)
	}
	s := &server{program: start(t, "server", environment(env...)...), token: token}
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, "TOKEN="); ok {
			s.token = value
		}
	}
	s.data, s.control, s.metrics = s.addr("data plane"), s.addr("control plane"), s.addr("metrics")
	return s
}

// here is the environment of a server with its free ports written down, as somebody in its container has it.
func (s *server) here() []string {
	return slices.Concat(s.env, []string{"CONTROL_PORT=" + port(s.control), "METRICS_PORT=" + port(s.metrics), "PORT=" + port(s.data)})
}

// startClient starts a client of the server, with auto-TLS unless env says otherwise.
func startClient(t testing.TB, s *server, upstreams string, env ...string) *program {
	t.Helper()
	return start(t, "client", environment(append([]string{"URL=wss://" + s.control, "TOKEN=" + s.token, "UPSTREAMS=" + upstreams}, env...)...)...)
}

// connect starts a client as startClient does, and waits until the server sends it visitors.
func connect(t testing.TB, s *server, upstreams string, env ...string) *program {
	t.Helper()
	c := startClient(t, s, upstreams, env...)
	s.await("client connected", "client_id", c.await("connected").field("client_id"))
	return c
}

// tunnel is a server with a client that is connected.
type tunnel struct {
	*server
	client *program
}

// newTunnel exposes upstreams by auto-TLS. env is for both programs.
func newTunnel(t testing.TB, upstreams string, env ...string) *tunnel {
	t.Helper()
	s := startServer(t, env...)
	return &tunnel{s, connect(t, s, upstreams, env...)}
}

// url returns the address of a path for visitors.
func (s *server) url(path string) string { return "http://" + s.data + path }

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

// upstream serves handler as a private service until the test ends, and returns its address.
func upstream(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// says returns the address of a private service that answers everything with text.
func says(t testing.TB, text string) string {
	t.Helper()
	return upstream(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
}

// write makes a file in a folder of its own.
func write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// eventually waits until try returns nil.
func eventually(t testing.TB, try func() error) {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("in vain: %v", err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// receive returns what comes on c.
func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing comes")
		panic(errors.ErrUnsupported)
	}
}
