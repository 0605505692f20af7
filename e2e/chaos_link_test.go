//go:build linux

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// namespace is a network of its own, as a machine has it. It exists as long as the test, or a program in it, runs.
type namespace struct{ file *os.File }

// newNamespace makes a network that has nothing but loopback.
func newNamespace(t testing.TB) *namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make network namespaces: run this test as root")
	}
	n := &namespace{}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := openNamespace(t)
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("network namespaces cannot be made here: unshare: %v", err)
	}
	defer enter(home)
	n.file = openNamespace(t)
	t.Cleanup(func() { n.file.Close() })
	n.ip(t, "link set lo up")
	return n
}

// openNamespace returns the network of this thread.
func openNamespace(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	return f
}

// enter moves this thread to a network. A thread that cannot return must not be used by anything else.
func enter(network *os.File) {
	if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(fmt.Sprintf("setns: %v", err))
	}
}

// do calls f in the network. Sockets and processes that f makes belong there; goroutines that it starts do not.
func (n *namespace) do(t testing.TB, f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := openNamespace(t)
	defer home.Close()
	enter(n.file)
	defer enter(home)
	f()
}

// ip runs the ip command in the network.
func (n *namespace) ip(t testing.TB, args string) {
	t.Helper()
	path := needProgram(t, "ip", "iproute2")
	n.do(t, func() {
		if out, err := exec.Command(path, strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	})
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

// Quality of a link: what happens to a packet that goes to the near or to the far side.
type quality struct {
	delay, jitter time.Duration // jitter also changes the order
	loss, double  float64       // how many of the packets are lost, and how many come twice, of 1
	cut           [2]bool       // nothing arrives at: the near side, the far side
}

// link is two networks with a wire between them, which the test holds in its hands: the packets of the machine's
// kernel go through it one by one. (netem would do it, but not every kernel has that.)
type link struct {
	near, far       *namespace
	nearIP, farIP   string
	mu              sync.Mutex
	quality         quality
	carried, missed int
}

func newLink(t testing.TB, q quality) *link {
	t.Helper()
	l := &link{near: newNamespace(t), far: newNamespace(t), nearIP: "10.73.0.1", farIP: "10.73.0.2", quality: q}
	ends := []*os.File{newTun(t, l.near, l.nearIP, l.farIP), newTun(t, l.far, l.farIP, l.nearIP)}
	var work sync.WaitGroup
	for to := range ends {
		work.Go(func() { l.carry(ends[1-to], ends[to], to) })
	}
	t.Cleanup(func() {
		for _, f := range ends {
			f.Close()
		}
		work.Wait()
		t.Logf("the link carried %d packets and lost %d", l.carried, l.missed)
	})
	return l
}

// newTun makes a network interface in n whose packets are read and written here.
func newTun(t testing.TB, n *namespace, own, peer string) *os.File {
	t.Helper()
	var tun *os.File
	n.do(t, func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Skipf("no network interfaces can be made here: /dev/net/tun: %v", err)
		}
		request, err := unix.NewIfreq("wire")
		must(t, err)
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			unix.Close(fd)
			t.Fatalf("make a network interface: %v", err)
		}
		tun = os.NewFile(uintptr(fd), "wire")
	})
	n.ip(t, fmt.Sprintf("address add %s peer %s dev wire", own, peer))
	n.ip(t, "link set wire up")
	return tun
}

// carry moves packets until the interfaces are closed.
func (l *link) carry(from, to *os.File, side int) {
	packet := make([]byte, 64<<10)
	for {
		n, err := from.Read(packet)
		if err != nil {
			return
		}
		l.mu.Lock()
		q := l.quality
		lost := q.cut[side] || rand.Float64() < q.loss
		if lost {
			l.missed++
		} else {
			l.carried++
		}
		l.mu.Unlock()
		if lost {
			continue
		}
		copies := 1
		if rand.Float64() < q.double {
			copies = 2
		}
		for range copies {
			if q.delay == 0 {
				_, _ = to.Write(packet[:n]) // a link may lose what it likes
				continue
			}
			held := append([]byte(nil), packet[:n]...)
			time.AfterFunc(q.delay+rand.N(q.jitter+1), func() { _, _ = to.Write(held) })
		}
	}
}

// set changes the quality from now on.
func (l *link) set(q quality) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quality = q
}

// tunnelAcross starts a server on the near side and its client on the far one.
func (l *link) tunnelAcross(t testing.TB, upstreams string, env []string) *tunnel {
	t.Helper()
	binary(t, "server") // not built in there
	tun := &tunnel{}
	l.near.do(t, func() {
		tun.server = startServer(t, append(env, "DATA_ADDR="+l.nearIP, "CONTROL_ADDR="+l.nearIP)...)
	})
	l.far.do(t, func() { tun.client = startClient(t, tun.server, upstreams, env...) })
	tun.client.await("connected")
	tun.await("client connected")
	return tun
}
