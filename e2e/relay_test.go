//go:build unix

package e2e

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

// relay is a listener in between: what it does with a connection is up to the test.
type relay struct {
	net.Listener
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	work   sync.WaitGroup
}

// newRelay has serve handle every connection to the relay until the test ends. Connections that serve makes belong
// into track.
func newRelay(t testing.TB, serve func(r *relay, conn net.Conn)) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := &relay{Listener: l, conns: map[net.Conn]struct{}{}}
	r.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.track(conn)
			r.work.Go(func() {
				defer conn.Close()
				serve(r, conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.mu.Lock()
		r.closed = true
		for conn := range r.conns {
			conn.Close()
		}
		r.mu.Unlock()
		r.work.Wait()
	})
	return r
}

func (r *relay) addr() string { return r.Addr().String() }

// track has the connection closed with the test, if not before.
func (r *relay) track(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		conn.Close()
	}
	r.conns[conn] = struct{}{}
}

// join carries bytes both ways until one side ends. What a sends is copied to seen, if that is not nil.
func (r *relay) join(a io.ReadWriteCloser, b net.Conn, seen *record) {
	r.track(b)
	r.work.Go(func() {
		defer a.Close()
		_, _ = io.Copy(a, b)
	})
	defer b.Close()
	if seen != nil {
		_, _ = io.Copy(io.MultiWriter(seen, b), a)
	} else {
		_, _ = io.Copy(b, a)
	}
}

// record is what somebody has overheard.
type record struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(b)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}
