package oneport

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/adit-tunnel/adit/images/server/pending"
)

// firstByte bounds the wait for the first byte of a connection, as the data plane bounds
// that for the head of a request.
const firstByte = 10 * time.Second

// recordHandshake is the first byte of a TLS connection (RFC 8446 section 5.1), and no
// request of HTTP begins with it.
const recordHandshake = 0x16

// Split returns two listeners in place of l: one for the connections that begin with a
// TLS handshake, one for all others. Each is to be closed, and both have to be for l to
// be; what nobody accepts any more is closed. Those that have not begun are on the list.
func Split(l net.Listener, list *pending.List) (plain, secure net.Listener) {
	s := &splitter{listener: l, list: list, open: 2, ended: make(chan struct{}), failed: make(chan error), waiting: map[net.Conn]struct{}{}}
	p := &half{s: s, conns: make(chan net.Conn), closed: make(chan struct{})}
	t := &half{s: s, conns: make(chan net.Conn), closed: make(chan struct{})}
	s.work.Go(func() { s.accept(p, t) })
	return p, t
}

type splitter struct {
	listener net.Listener
	list     *pending.List
	failed   chan error    // of Accept
	ended    chan struct{} // closed with the listener
	work     sync.WaitGroup

	mu      sync.Mutex
	open    int                   // halves
	waiting map[net.Conn]struct{} // whose first byte has not come; nil when the listener is closed
}

// half is one of the two listeners.
type half struct {
	s      *splitter
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (h *half) Accept() (net.Conn, error) {
	select {
	case <-h.closed: // also when there is something else
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-h.conns:
		return c, nil
	case err := <-h.s.failed: // either may say so, and has to come again
		return nil, err
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *half) Addr() net.Addr { return h.s.listener.Addr() }

// Close closes this half. The last one closes the listener, and waits for the
// connections that nobody has accepted to be closed.
func (h *half) Close() (err error) {
	h.once.Do(func() {
		close(h.closed)
		err = h.s.closeHalf()
	})
	return err
}

func (s *splitter) closeHalf() error {
	s.mu.Lock()
	s.open--
	last := s.open == 0
	if last {
		for c := range s.waiting {
			_ = c.Close()
		}
		s.waiting = nil
	}
	s.mu.Unlock()
	if !last {
		return nil
	}
	close(s.ended)
	err := s.listener.Close()
	s.work.Wait()
	return err
}

func (s *splitter) accept(plain, secure *half) {
	for {
		c, err := s.listener.Accept()
		if err == nil {
			if !s.track(c) {
				_ = c.Close()
				continue
			}
			s.work.Go(func() { s.look(c, plain, secure) })
			continue
		}
		select {
		case s.failed <- err: // the one who takes it waits a moment, if another try makes sense
		case <-s.ended:
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// look hands a connection to the half that it is for.
func (s *splitter) look(c net.Conn, plain, secure *half) {
	first := [1]byte{}
	_ = c.SetReadDeadline(time.Now().Add(firstByte))
	_, err := io.ReadFull(c, first[:])
	s.untrack(c)
	if err != nil || c.SetReadDeadline(time.Time{}) != nil {
		_ = c.Close()
		return
	}
	to := plain
	if first[0] == recordHandshake {
		to = secure
	}
	select {
	case to.conns <- &begun{Conn: c, first: first, ahead: true}:
	case <-to.closed:
		_ = c.Close()
	}
}

func (s *splitter) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		return false
	}
	s.waiting[c] = struct{}{}
	s.list.Track(c, http.StateNew)
	return true
}

func (s *splitter) untrack(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, c)
	s.list.Release(c)
}

// begun is a connection whose first byte was read.
type begun struct {
	net.Conn
	first [1]byte
	ahead bool // first is still to be read
}

func (c *begun) Read(p []byte) (int, error) {
	if c.ahead && len(p) > 0 {
		c.ahead = false
		p[0] = c.first[0]
		return 1, nil
	}
	return c.Conn.Read(p)
}

// CloseWrite sends the end of our bytes; reading goes on.
func (c *begun) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn returns the connection below, for whoever wants to reset it.
func (c *begun) NetConn() net.Conn { return c.Conn }
