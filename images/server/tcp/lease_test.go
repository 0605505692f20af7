package tcp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

func TestReserveErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	takenPort, own, free := taken.Addr().(*net.TCPAddr).Port, freeport.New(t), freeport.New(t)
	for _, c := range []struct {
		name   string
		config func(*Config)
		port   int
		is     error
		part   string
	}{
		{"not allowed", func(c *Config) { c.Allow = Ports{{22, 22}, {80, 90}} }, 8000, ErrNotAllowed,
			"port 8000 is not allowed: the server has ALLOW_PORTS=22,80-90; ask for one of those, as in 22=localhost:8000"},
		{"the server's own", func(c *Config) { c.Reserved = []int{1, own} }, own, ErrNotAllowed,
			fmt.Sprintf("port %d is not allowed: the server uses it itself; ask for another", own)},
		{"another program's", nil, takenPort, ErrInUse,
			fmt.Sprintf("port %d is in use by another program on the server's machine: stop that, or ask for another port", takenPort)},
		{"no such address", func(c *Config) { c.Addr = "192.0.2.1" }, free, nil,
			fmt.Sprintf("open port %d: 192.0.2.1 is not an address of the server's machine: correct DATA_ADDR", free)},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := func(*Config) {}
			if c.config != nil {
				change = c.config
			}
			s := start(t, change)
			// The first port is let go of when the second cannot be had.
			var list []*routing.Backend
			first := freeport.New(t)
			if s.cfg.Allow.Contains(first) && s.cfg.Addr == "127.0.0.1" {
				list = append(list, backendOf(t, first, 0))
			}
			_, err := s.Reserve(append(list, backendOf(t, c.port, 1)))
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.part) {
				t.Errorf("got %v", err)
			}
			if len(s.ports) != 0 {
				t.Errorf("open: %v", s.ports)
			}
		})
	}
}

// TestLease opens a port with the first lease on it and closes it with the last.
func TestLease(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	reserved, err := s.Reserve([]*routing.Backend{backendOf(t, port, 0)})
	must(t, err)
	wantRefused(t, port) // open, but nobody serves it yet
	if got := s.metric(t, "adit_tcp_refused_connections_total", "no_client"); got != 1 {
		t.Errorf("refused: %v", got)
	}
	a := s.connect(t, says("a"), port)
	reserved.Release()
	under := visit(t, port)
	if got := hears(t, under); got != "a" {
		t.Errorf("got %s", got)
	}
	b := s.connect(t, says("b"), port)
	a.lease.Release()
	a.lease.Release() // does no harm
	if got := hears(t, visit(t, port)); got != "b" {
		t.Errorf("got %s", got)
	}
	b.lease.Release()
	if _, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port)); err == nil {
		t.Error("the port is open without a lease")
	}
	// What was under way goes on.
	must(t, second(io.WriteString(under, "still there")))
	if got := hears(t, under); got != "still there" {
		t.Errorf("got %s", got)
	}
	c := s.connect(t, says("c"), port)
	if got := hears(t, visit(t, port)); got != "c" {
		t.Errorf("opened again, got %s", got)
	}
	c.lease.Release()
	new(Lease).Release()
	if len(s.ports) != 0 {
		t.Errorf("open: %v", s.ports)
	}
}

func second[T any](_ T, err error) error { return err }

// TestOwnPorts gives different clients different ports at the same time, and one client
// several.
func TestOwnPorts(t *testing.T) {
	s := start(t)
	one, two, three := freeport.New(t), freeport.New(t), freeport.New(t)
	s.connect(t, says("a"), one, two)
	s.connect(t, says("b"), three)
	for port, want := range map[int]string{one: "a", two: "a", three: "b"} {
		if got := hears(t, visit(t, port)); got != want {
			t.Errorf("port %d: got %s, want %s", port, got, want)
		}
	}
}

// TestReserveLate asks a plane that is closing.
func TestReserveLate(t *testing.T) {
	s := start(t)
	lease, err := s.Reserve([]*routing.Backend{backendOf(t, freeport.New(t), 0)})
	must(t, err)
	s.Close()
	if _, err := s.Reserve([]*routing.Backend{backendOf(t, freeport.New(t), 0)}); err == nil || errors.Is(err, ErrInUse) || errors.Is(err, ErrNotAllowed) {
		t.Errorf("got %v", err)
	}
	lease.Release()
	s.Close()
}
