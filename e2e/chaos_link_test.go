//go:build linux

package e2e

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/adit-tunnel/adit/e2e/link"
)

// namespace is a network of its own, as a machine has it. It exists as long as the test, or a program in it, runs.
type namespace struct{ *link.Namespace }

// available skips the test where there cannot be such networks.
func available(t testing.TB, err error) {
	t.Helper()
	switch {
	case os.Getuid() != 0:
		t.Skip("only root can make network namespaces: run this test as root")
	case errors.Is(err, link.ErrUnavailable):
		t.Skip(err)
	}
	must(t, err)
}

// do calls f in the network. Sockets and processes that f makes belong there; goroutines that it starts do not.
func (n *namespace) do(t testing.TB, f func()) {
	must(t, n.Do(func() error { f(); return nil }))
}

// dial connects to an address in the network.
func (n *namespace) dial(t testing.TB, addr string) (conn net.Conn, err error) {
	n.do(t, func() { conn, err = dialer(addr)() }) // for an address, not a name, in this thread
	return conn, err
}

// visitor returns an HTTP client in the network.
func (n *namespace) visitor(t testing.TB) *http.Client {
	client := newVisitor(t, true)
	client.Transport.(*http.Transport).DialContext = func(_ context.Context, _, addr string) (net.Conn, error) { return n.dial(t, addr) }
	return client
}

// upstream serves handler in the network, and returns its address.
func (n *namespace) upstream(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	srv := &httptest.Server{Config: &http.Server{Handler: handler, ErrorLog: quiet}}
	n.do(t, func() {
		var err error
		srv.Listener, err = net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
	})
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// linkedNetworks are two networks with a link between them.
type linkedNetworks struct {
	*link.Link
	near, far *namespace
}

func newLink(t testing.TB, q link.Quality) *linkedNetworks {
	t.Helper()
	needProgram(t, "ip", "iproute2")
	l, err := link.New(q)
	available(t, err)
	t.Cleanup(func() {
		l.Close()
		carried, lost := l.Packets()
		t.Logf("the link carried %d packets and lost %d", carried, lost)
	})
	return &linkedNetworks{l, &namespace{l.Near}, &namespace{l.Far}}
}

// tunnelAcross starts a server on the near side and its client on the far one.
func (l *linkedNetworks) tunnelAcross(t testing.TB, upstreams string, env []string) *tunnel {
	t.Helper()
	binary(t, "server") // not built in there
	tun := &tunnel{}
	l.near.do(t, func() {
		tun.server = startServer(t, append(env, "DATA_ADDR="+link.NearIP, "CONTROL_ADDR="+link.NearIP)...)
	})
	l.far.do(t, func() { tun.client = startClient(t, tun.server, upstreams, env...) })
	tun.client.await("connected")
	tun.await("client connected")
	return tun
}
