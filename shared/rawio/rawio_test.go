//go:build unix

package rawio

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns two ends of a connection, both wrapped.
func pair(tb testing.TB) (dialled, accepted net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	l = Listener(l)
	defer l.Close()
	dialled, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	accepted, err = l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	dialled = Wrap(dialled)
	tb.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled, accepted
}

// What package net asks of any connection: deadlines, closing, concurrent use.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		a, b = pair(t)
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

// The same of one that reads ahead.
func TestReadAhead(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		a, b = pair(t)
		a.(*Conn).ReadAhead()
		b.(*Conn).ReadAhead()
		return a, b, func() { a.Close(); b.Close() }, nil
	})
	a, b := pair(t)
	b.(*Conn).ReadAhead()
	sent := make([]byte, 8*WideSize)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = a.Write(sent)
		_ = a.(*Conn).CloseWrite()
	}()
	var got []byte
	ahead := 0
	for size := 1; ; size = 3*size%(2*aheadSize) + 1 {
		p := make([]byte, size)
		n, err := b.Read(p)
		got = append(got, p[:n]...)
		if ahead = max(ahead, b.(*Conn).Ahead()); err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, sent) || ahead == 0 {
		t.Errorf("got %d bytes of %d, at most %d ahead", len(got), len(sent), ahead)
	}
	if n := wide.Load(); n != 0 {
		t.Errorf("%d wide buffers in use at the end", n)
	}
}

// TestReadMeanwhile has a Read find nothing kept, and another keep something before its turn to read the socket comes.
func TestReadMeanwhile(t *testing.T) {
	a, b := pair(t)
	c := b.(*Conn)
	c.ReadAhead()
	if _, err := a.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1)
	got := ""
	for range 3 { // as Read does after take
		n, err := c.r.do(c.raw.Read, p)
		if err != nil {
			t.Fatal(err)
		}
		got += string(p[:n])
		if got == "a" {
			if _, err := a.Write([]byte("def")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got != "abc" {
		t.Errorf("got %q", got)
	}
}

func TestErrors(t *testing.T) {
	// What package net says of the same fault is what ours has to say.
	plain := func(c net.Conn) net.Conn {
		if c, ok := c.(interface{ NetConn() net.Conn }); ok {
			return c.NetConn()
		}
		return c
	}
	for _, c := range []struct {
		name string
		is   error
		do   func(c, peer net.Conn) error
	}{
		{"the end", io.EOF, func(c, peer net.Conn) error {
			peer.Close()
			_, err := c.Read(make([]byte, 1))
			return err
		}},
		{"a deadline", os.ErrDeadlineExceeded, func(c, _ net.Conn) error {
			_ = c.SetReadDeadline(time.Unix(1, 0))
			_, err := c.Read(make([]byte, 1))
			return err
		}},
		{"a deadline to write", os.ErrDeadlineExceeded, func(c, _ net.Conn) error {
			_ = c.SetWriteDeadline(time.Unix(1, 0))
			_, err := c.Write(make([]byte, 1))
			return err
		}},
		{"closed", net.ErrClosed, func(c, _ net.Conn) error {
			c.Close()
			_, err := c.Read(make([]byte, 1))
			return err
		}},
		{"reset", syscall.ECONNRESET, func(c, peer net.Conn) error {
			_ = peer.(interface{ SetLinger(int) error }).SetLinger(0)
			peer.Close()
			_, err := c.Read(make([]byte, 1))
			return err
		}},
		{"broken pipe", syscall.EPIPE, func(c, _ net.Conn) error {
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			_, err := c.Write(make([]byte, 1))
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, peer := pair(t)
			got := c.do(conn, peer)
			if !errors.Is(got, c.is) {
				t.Errorf("got %v", got)
			}
			other, peer := pair(t)
			other = plain(other)
			want := c.do(other, peer)
			var ours, theirs *net.OpError
			if errors.As(want, &theirs) && (!errors.As(got, &ours) || ours.Op != theirs.Op || ours.Net != theirs.Net ||
				ours.Timeout() != theirs.Timeout() || fmt.Sprint(ours.Err) != fmt.Sprint(theirs.Err)) {
				t.Errorf("got %v, package net says %v", got, want)
			}
		})
	}
}

// A write that the socket does not take at once waits for room and loses nothing.
func TestLargeWrite(t *testing.T) {
	a, b := pair(t)
	sent := make([]byte, 32<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = a.Write(sent)
		a.Close()
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d, %v", len(got), len(sent), err)
	}
}

// TryWrite does not wait, and Write goes on behind what it wrote.
func TestTryWrite(t *testing.T) {
	a, b := pair(t)
	conn := a.(*Conn)
	sent := make([]byte, 32<<20) // more than a socket takes
	_, _ = rand.Read(sent)
	n, err := conn.TryWrite(sent)
	if n == 0 || n == len(sent) || err != nil {
		t.Fatalf("wrote %d bytes, %v", n, err)
	}
	if more, err := conn.TryWrite(sent[n:]); err != nil {
		t.Errorf("a full socket: %v", err)
	} else {
		n += more
	}
	go func() {
		_, _ = conn.Write(sent[n:])
		a.Close()
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d, %v", len(got), len(sent), err)
	}
	if n, err := conn.TryWrite(sent); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed socket: %d, %v", n, err)
	}
}

// What is no TCP connection stays as it is.
func TestOthers(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Wrap(a) != a {
		t.Error("a pipe was wrapped")
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, way := range []string{"net", "rawio"} {
		b.Run("conn="+way, func(b *testing.B) {
			here, there := pair(b)
			if way == "net" {
				type inner interface{ NetConn() net.Conn }
				here, there = here.(inner).NetConn(), there.(inner).NetConn()
			}
			go func() {
				buf := make([]byte, 1024)
				for {
					n, err := there.Read(buf)
					if err != nil {
						return
					}
					if _, err := there.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
			buf := make([]byte, 1024)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := here.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(here, buf); err != nil {
					b.Fatal(err)
				}
			}
			here.Close()
		})
	}
}

// TestGather sends what several writes gathered, in order, through a socket that soon
// takes no more, with a peer that begins to read late.
func TestGather(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprintf("through=%v", through), func(t *testing.T) {
			a, b := pair(t)
			g := a.(*Conn).Gather(through)
			sent := make([]byte, 8<<20)
			_, _ = rand.Read(sent)
			got := make(chan []byte)
			begin := make(chan struct{})
			go func() {
				<-begin
				all, _ := io.ReadAll(b)
				got <- all
			}()
			rest, stuck := sent, false
			for len(rest) > 0 {
				g.Begin()
				for range 3 { // pieces of one message
					n := min(len(rest), 50<<10)
					if _, err := a.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				done, err := g.Try()
				if err != nil {
					t.Fatal(err)
				}
				if done {
					continue
				}
				if !stuck {
					stuck = true
					if err := a.SetWriteDeadline(time.Unix(1, 0)); err != nil { // is not heeded
						t.Fatal(err)
					}
					close(begin)
				}
				if err := g.Flush(30 * time.Second); err != nil {
					t.Fatal(err)
				}
			}
			if !stuck {
				t.Error("the socket took it all: nothing was tested")
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(<-got, sent) {
				t.Error("what came is not what was sent")
			}
		})
	}
}

// TestGatherFaults ends the wait of a Flush by its time limit, and by a peer that is gone.
func TestGatherFaults(t *testing.T) {
	full := func(t *testing.T) (a, b net.Conn, g *Gather) {
		a, b = pair(t)
		g = a.(*Conn).Gather(true)
		g.Begin()
		for range 64 {
			if _, err := a.Write(make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
		return a, b, g
	}
	t.Run("time", func(t *testing.T) {
		a, _, g := full(t)
		if err := g.Flush(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if _, err := a.Write([]byte("x")); err == nil {
			t.Error("bytes are written behind a gap")
		}
	})
	t.Run("reset", func(t *testing.T) {
		_, b, g := full(t)
		_ = b.(*Conn).SetLinger(0)
		b.Close()
		if err := g.Flush(30 * time.Second); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("got %v", err)
		}
	})
}
