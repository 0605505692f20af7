package tcp

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// TestMaxConnections resets the visitors of a port that has its limit, and no others.
func TestMaxConnections(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxConns = 2 })
	port, other := freeport.New(t), freeport.New(t)
	s.connect(t, says("a"), port, other)
	first, second := visit(t, port), visit(t, port)
	hears(t, first)
	hears(t, second)
	wantRefused(t, port)
	if got := s.metric(t, "adit_tcp_refused_connections_total", "max_connections"); got != 1 {
		t.Errorf("refused: %v", got)
	}
	hears(t, visit(t, other))
	first.Close()
	eventually(t, func() bool { return s.busy() == 2 })
	if got := hears(t, visit(t, port)); got != "a" {
		t.Errorf("got %s", got)
	}
}

// TestDrain closes the ports at once and waits for the connections.
func TestDrain(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	s.connect(t, says("a"), port)
	conn := visit(t, port)
	hears(t, conn)
	stop, done := s.run(t)
	stop()
	within(t, s.closing)
	eventually(t, func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	select {
	case <-done:
		t.Fatal("the drain did not wait")
	default:
	}
	must(t, second(io.WriteString(conn, "more")))
	if got := hears(t, conn); got != "more" {
		t.Errorf("got %s", got)
	}
	must(t, conn.CloseWrite())
	must(t, second(io.ReadAll(conn)))
	within(t, done)
}

// TestDrainCut ends what lasts too long so that the visitor does not take it for an end.
func TestDrainCut(t *testing.T) {
	s := start(t, func(c *Config) { c.Drain = time.Millisecond })
	port := freeport.New(t)
	s.connect(t, says("a"), port)
	conn := visit(t, port)
	hears(t, conn)
	stop, done := s.run(t)
	stop()
	within(t, done)
	s.Close()
	wantReset(t, conn)
}

// TestCloseHeader ends while a visitor has not said who he is.
func TestCloseHeader(t *testing.T) {
	reading := make(chan struct{})
	s := start(t, func(c *Config) {
		c.Visitor = func(conn net.Conn) (Visitor, error) {
			close(reading)
			_, err := conn.Read(make([]byte, 1))
			return Visitor{}, err
		}
	})
	port := freeport.New(t)
	s.connect(t, says("a"), port)
	conn := visit(t, port)
	within(t, reading)
	s.Close()
	wantReset(t, conn)
}

// exhausted is a listener without descriptors to accept with.
type exhausted struct {
	net.Listener
	tried chan struct{}
	once  atomic.Bool
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.once.CompareAndSwap(false, true) {
		close(l.tried)
	}
	return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
}

// TestAcceptFails waits between attempts, and ends with the plane.
func TestAcceptFails(t *testing.T) {
	s := start(t)
	l := &exhausted{tried: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.accept(&port{listener: l})
	}()
	within(t, l.tried)
	select {
	case <-done:
		t.Fatal("it gave up")
	default:
	}
	s.Close()
	within(t, done)
}

// TestAcceptWhileClosing resets a connection that was accepted too late.
func TestAcceptWhileClosing(t *testing.T) {
	s := start(t)
	accepted, dialled := tcpPair(t)
	defer dialled.Close()
	s.Close()
	if reason := s.admit(&port{}, accepted); reason != "draining" {
		t.Errorf("admitted: %q", reason)
	}
	reset(accepted)
}
