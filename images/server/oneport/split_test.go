package oneport

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/images/server/pending"
)

func split(t *testing.T) (addr string, plain, secure net.Listener) {
	t.Helper()
	return splitWith(t, pending.New(1024, 0))
}

func splitWith(t *testing.T, list *pending.List) (addr string, plain, secure net.Listener) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain, secure = Split(l, list)
	t.Cleanup(func() {
		plain.Close()
		secure.Close()
	})
	return l.Addr().String(), plain, secure
}

func dial(t *testing.T, addr, say string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, say); err != nil {
		t.Fatal(err)
	}
	return c
}

// The first byte decides, and is not lost.
func TestSplit(t *testing.T) {
	addr, plain, secure := split(t)
	dial(t, addr, "") // says nothing, and keeps nobody waiting
	for _, c := range []struct {
		say string
		to  net.Listener
	}{{"GET / HTTP/1.1\r\n", plain}, {"\x16\x03\x01", secure}, {"\x00", plain}} {
		visitor := dial(t, addr, c.say)
		conn, err := c.to.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if conn.RemoteAddr().String() != visitor.LocalAddr().String() {
			t.Errorf("%q comes from %s, not %s", c.say, conn.RemoteAddr(), visitor.LocalAddr())
		}
		if err := visitor.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if p, err := io.ReadAll(conn); err != nil || string(p) != c.say {
			t.Errorf("got %q, %v, want %q", p, err, c.say)
		}
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Error(err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		if p, err := io.ReadAll(visitor); err != nil || string(p) != "hello" {
			t.Errorf("got %q, %v", p, err)
		}
		if plain.Addr().String() != addr || secure.Addr().String() != addr {
			t.Errorf("addresses are %s and %s", plain.Addr(), secure.Addr())
		}
	}
}

// One half goes on when the other is closed; the last one closes everything, also what has said nothing yet.
func TestSplitClose(t *testing.T) {
	addr, plain, secure := split(t)
	silent := dial(t, addr, "")
	if err := secure.Close(); err != nil {
		t.Error(err)
	}
	if _, err := secure.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	unwanted := dial(t, addr, "\x16")
	if _, err := unwanted.Read(make([]byte, 1)); err == nil {
		t.Error("a connection for nobody stays open")
	}
	dial(t, addr, "G")
	conn, err := plain.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()

	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := plain.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
	})
	if err := plain.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("a connection that said nothing stays open")
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the listener is still open")
	}
}

// failing is a listener that cannot accept for once, as one without descriptors.
type failing struct {
	net.Listener
	once sync.Once
}

var errFull = errors.New("too many open files")

func (l *failing) Accept() (conn net.Conn, err error) {
	l.once.Do(func() { err = errFull })
	if err != nil {
		return nil, err
	}
	return l.Listener.Accept()
}

// What goes wrong with the listener is for its users to judge.
func TestSplitFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain, secure := Split(&failing{Listener: l}, pending.New(1024, 0))
	defer plain.Close()
	defer secure.Close()
	if _, err := plain.Accept(); !errors.Is(err, errFull) {
		t.Fatalf("accept: %v", err)
	}
	dial(t, l.Addr().String(), "G")
	conn, err := plain.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// Connections that say nothing are bounded, and one that begins is none of them any more.
func TestSplitPending(t *testing.T) {
	const most = 4
	dropped := make(chan struct{}, 100)
	list := pending.New(most, 0)
	list.OnDrop(func() { dropped <- struct{}{} })
	addr, plain, _ := splitWith(t, list)
	visitor := dial(t, addr, "x")
	conn, err := plain.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var silent []net.Conn
	for range 3 * most {
		silent = append(silent, dial(t, addr, ""))
	}
	for range 2 * most {
		<-dropped
	}
	for i, c := range silent[:2*most] {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("silent connection %d stays: %v", i, err)
		}
	}
	if _, err := io.WriteString(visitor, "y"); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2)
	if _, err := io.ReadFull(conn, p); err != nil || string(p) != "xy" {
		t.Errorf("the visitor's connection has %q, %v", p, err)
	}
}
