//go:build linux

// Package link makes two networks on this machine with a wire between them that is as long
// and as bad as wanted: the packets of the machine's kernel go through this program one by
// one. (netem would do it, but not every kernel has that.) It needs root.
package link

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrUnavailable is the error where this machine, or this user, cannot have networks of
// its own.
var ErrUnavailable = errors.New("networks of their own cannot be made here")

// Namespace is a network of its own, as a machine has it. It exists until it is closed and
// no program runs in it.
type Namespace struct{ file *os.File }

// NewNamespace makes a network that has nothing but loopback.
func NewNamespace() (*Namespace, error) {
	if os.Getuid() != 0 {
		return nil, fmt.Errorf("%w: only root can", ErrUnavailable)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := current()
	if err != nil {
		return nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("%w: unshare: %v", ErrUnavailable, err)
	}
	defer enter(home)
	file, err := current()
	if err != nil {
		return nil, err
	}
	n := &Namespace{file}
	if err := n.IP("link set lo up"); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Close lets the network end.
func (n *Namespace) Close() error { return n.file.Close() }

// current returns the network of this thread.
func current() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") }

// enter moves this thread to a network. A thread that cannot return must not be used by
// anything else.
func enter(network *os.File) {
	if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(fmt.Sprintf("setns: %v", err))
	}
}

// Do calls f in the network. Sockets and processes that f makes belong there; goroutines
// that it starts do not.
func (n *Namespace) Do(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := current()
	if err != nil {
		return err
	}
	defer home.Close()
	enter(n.file)
	defer enter(home)
	return f()
}

// IP runs the ip command in the network.
func (n *Namespace) IP(args string) error {
	return n.Do(func() error {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
		return nil
	})
}

// Dial connects to an address in the network.
func (n *Namespace) Dial(addr string) (conn net.Conn, err error) {
	err = n.Do(func() error { // for an address, not a name, in this thread
		conn, err = net.DialTimeout("tcp", addr, 10*time.Second)
		return err
	})
	return conn, err
}

// Listen listens on an address of the network.
func (n *Namespace) Listen(addr string) (l net.Listener, err error) {
	err = n.Do(func() error {
		l, err = net.Listen("tcp", addr)
		return err
	})
	return l, err
}

// Quality of a link: what happens to a packet that goes to the near or to the far side.
type Quality struct {
	Delay, Jitter time.Duration // jitter also changes the order
	Loss, Double  float64       // how many of the packets are lost, and how many come twice, of 1
	Cut           [2]bool       // nothing arrives at: the near side, the far side
	Rate          float64       // bytes per second in each direction; 0: no limit. Packets that would wait for longer than MostWait are lost.
}

// MostWait bounds how long a packet waits ahead of a link with a rate.
const MostWait = 100 * time.Millisecond

// Addresses of the two sides.
const (
	NearIP = "10.73.0.1"
	FarIP  = "10.73.0.2"
)

// Link is two networks with a wire between them.
type Link struct {
	Near, Far *Namespace

	ends    []*os.File
	work    sync.WaitGroup
	mu      sync.Mutex
	quality Quality
	carried int
	missed  int
}

// New makes two networks and the wire.
func New(q Quality) (l *Link, err error) {
	l = &Link{quality: q}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.Near, err = NewNamespace(); err != nil {
		return nil, err
	}
	if l.Far, err = NewNamespace(); err != nil {
		return nil, err
	}
	for _, end := range []struct {
		n         *Namespace
		own, peer string
	}{{l.Near, NearIP, FarIP}, {l.Far, FarIP, NearIP}} {
		tun, err := newTun(end.n, end.own, end.peer)
		if err != nil {
			return nil, err
		}
		l.ends = append(l.ends, tun)
	}
	for to := range l.ends {
		l.work.Go(func() { l.carry(l.ends[1-to], l.ends[to], to) })
	}
	return l, nil
}

// Close takes the wire away.
func (l *Link) Close() {
	for _, f := range l.ends {
		f.Close()
	}
	l.work.Wait()
	for _, n := range []*Namespace{l.Near, l.Far} {
		if n != nil {
			n.Close()
		}
	}
}

// Set changes the quality from now on.
func (l *Link) Set(q Quality) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quality = q
}

// Packets returns how many the link has carried and lost.
func (l *Link) Packets() (carried, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.carried, l.missed
}

// newTun makes a network interface in n whose packets are read and written here.
func newTun(n *Namespace, own, peer string) (tun *os.File, err error) {
	err = n.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("%w: /dev/net/tun: %v", ErrUnavailable, err)
		}
		request, err := unix.NewIfreq("wire")
		if err == nil {
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("make a network interface: %w", err)
		}
		tun = os.NewFile(uintptr(fd), "wire")
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, args := range []string{fmt.Sprintf("address add %s peer %s dev wire", own, peer), "link set wire up txqueuelen 10000"} {
		if err := n.IP(args); err != nil {
			tun.Close()
			return nil, err
		}
	}
	return tun, nil
}

// held is a packet on the wire.
type held struct {
	packet []byte
	due    time.Time
}

// carry moves packets until the interfaces are closed.
func (l *Link) carry(from, to *os.File, side int) {
	wire := make(chan held, 1<<16)
	defer close(wire)
	l.work.Go(func() {
		for h := range wire {
			time.Sleep(time.Until(h.due))
			_, _ = to.Write(h.packet) // a link may lose what it likes
		}
	})
	packet := make([]byte, 64<<10)
	var free time.Time // when the wire has sent what it was given
	for {
		n, err := from.Read(packet)
		if err != nil {
			return
		}
		now := time.Now()
		if free.Before(now) {
			free = now
		}
		l.mu.Lock()
		q := l.quality
		lost := q.Cut[side] || rand.Float64() < q.Loss || q.Rate > 0 && free.Sub(now) > MostWait
		if lost {
			l.missed++
		} else {
			l.carried++
		}
		l.mu.Unlock()
		if lost {
			continue
		}
		if q.Rate > 0 {
			free = free.Add(time.Duration(float64(n) / q.Rate * float64(time.Second)))
		}
		copies := 1
		if rand.Float64() < q.Double {
			copies = 2
		}
		for range copies {
			p := append([]byte(nil), packet[:n]...)
			switch {
			case q.Jitter > 0:
				time.AfterFunc(q.Delay+rand.N(q.Jitter+1), func() { _, _ = to.Write(p) })
			default:
				select {
				case wire <- held{p, free.Add(q.Delay)}:
				default:
				}
			}
		}
	}
}
