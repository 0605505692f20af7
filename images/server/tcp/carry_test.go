package tcp

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// pattern returns n bytes that do not repeat.
func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

const large = 4 << 20

// TestHalfClose ends one direction, upon which all of the other still comes.
func TestHalfClose(t *testing.T) {
	t.Run("the visitor's", func(t *testing.T) {
		s := start(t)
		port := freeport.New(t)
		reply := pattern(large, 1)
		s.connect(t, func(c net.Conn) {
			sent, err := io.ReadAll(c) // up to the end of the question
			if err != nil {
				t.Error(err)
			}
			_, _ = fmt.Fprintf(c, "%x ", sha256.Sum256(sent))
			_, _ = c.Write(reply)
		}, port)
		conn := visit(t, port)
		question := pattern(large+1, 2)
		must(t, second(conn.Write(question)))
		must(t, conn.CloseWrite())
		got, err := io.ReadAll(conn)
		must(t, err)
		if want := append(fmt.Appendf(nil, "%x ", sha256.Sum256(question)), reply...); !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, want %d", len(got), len(want))
		}
	})
	t.Run("the upstream's", func(t *testing.T) {
		s := start(t)
		port := freeport.New(t)
		reply := pattern(large, 3)
		heard := make(chan [32]byte, 1)
		s.connect(t, func(c net.Conn) {
			_, _ = c.Write(reply)
			_ = c.(*net.TCPConn).CloseWrite()
			sent, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			heard <- sha256.Sum256(sent)
		}, port)
		conn := visit(t, port)
		got, err := io.ReadAll(conn)
		must(t, err)
		if !bytes.Equal(got, reply) {
			t.Errorf("got %d bytes, want %d", len(got), len(reply))
		}
		late := pattern(large, 4)
		must(t, second(conn.Write(late)))
		must(t, conn.Close())
		if within(t, heard) != sha256.Sum256(late) {
			t.Error("the upstream did not get what came after its end")
		}
	})
}

// TestUpstreamResets wants the visitor to see what happened, after what came before.
func TestUpstreamResets(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	s.connect(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 4))
		_ = c.(*net.TCPConn).SetLinger(0)
	}, port)
	conn := visit(t, port)
	must(t, second(io.WriteString(conn, "ping")))
	wantReset(t, conn)
}

// TestVisitorResets wants the upstream to see what happened.
func TestVisitorResets(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	seen := make(chan error, 1)
	s.connect(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "go")
		_, err := io.Copy(io.Discard, c)
		seen <- err
	}, port)
	conn := visit(t, port)
	hears(t, conn)
	must(t, conn.SetLinger(0))
	must(t, conn.Close())
	if err := within(t, seen); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the upstream saw %v, want a reset", err)
	}
}

// TestSessionDies wants the visitor to see a reset when the client is gone.
func TestSessionDies(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	c := s.connect(t, says("a"), port)
	conn := visit(t, port)
	hears(t, conn)
	must(t, c.gate.Close())
	wantReset(t, conn)
}

// TestCounters move while a connection is open.
func TestCounters(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	tunnel.Register(s.reg, s.connect(t, says("hello"), port).counters)
	conn := visit(t, port)
	hears(t, conn)
	want := func(name string, value float64) {
		t.Helper()
		eventually(t, func() bool { return s.metric(t, name, "") == value })
	}
	want("adit_received_bytes_total", 5)
	must(t, second(conn.Write(make([]byte, 1000))))
	must(t, second(io.ReadFull(conn, make([]byte, 1000))))
	want("adit_sent_bytes_total", 1000)
	want("adit_received_bytes_total", 1005)
	want("adit_streams", 1)
	conn.Close()
	want("adit_streams", 0)
}

// TestVisitorReader gives the client the addresses, and the upstream the bytes, that
// were read before.
func TestVisitorReader(t *testing.T) {
	address := func(text string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", text)
		must(t, err)
		return a
	}
	s := start(t, func(c *Config) {
		c.Visitor = func(conn net.Conn) (Visitor, error) {
			head := make([]byte, 8)
			if _, err := io.ReadFull(conn, head); err != nil || string(head[:4]) != "head" {
				return Visitor{}, fmt.Errorf("no head: %w", err)
			}
			return Visitor{Addr: address("192.0.2.1:1000"), Local: address("192.0.2.2:22"), Early: head[4:]}, nil
		}
	})
	port := freeport.New(t)
	targets := make(chan tunnel.Target, 1)
	b := backendOf(t, port, 7)
	here, there := tcpPair(t)
	session := tunnel.New(tunnel.NewConn(here), tunnel.Config{})
	peer := tunnel.New(tunnel.NewConn(there), tunnel.Config{Client: true, Handle: func(st *tunnel.Stream) {
		targets <- st.Target()
		if st.Accept() == nil {
			_, _ = io.Copy(st, st)
			_ = st.CloseWrite()
		}
	}})
	t.Cleanup(func() { session.Close(); peer.Close() })
	b.Opener = session
	lease, err := s.Reserve([]*routing.Backend{b})
	must(t, err)
	defer lease.Release()
	lease.Serve()

	conn := visit(t, port)
	must(t, second(io.WriteString(conn, "headearly and late")))
	must(t, conn.CloseWrite())
	got, err := io.ReadAll(conn)
	must(t, err)
	if string(got) != "early and late" {
		t.Errorf("got %q", got)
	}
	if got, want := within(t, targets), (tunnel.Target{Upstream: 7, Visitor: "192.0.2.1:1000", Local: "192.0.2.2:22"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}

	bad := visit(t, port)
	must(t, second(io.WriteString(bad, "whatever")))
	wantReset(t, bad)
	eventually(t, func() bool { return s.metric(t, "adit_tcp_refused_connections_total", "proxy_header") == 1 })
	eventually(t, func() bool { return s.metric(t, "tcp_dataplane_connections_gauge", fmt.Sprint(port)) == 0 })
}
