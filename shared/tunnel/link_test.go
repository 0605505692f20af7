package tunnel

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// link is a carrier of unlimited width on which every batch arrives after a delay. It
// is made for bubbles of testing/synctest, where the delay costs no time.
type link struct {
	delay time.Duration
	out   *linkQueue
	in    *linkQueue
}

type linkQueue struct {
	mu      sync.Mutex
	cond    *sync.Cond
	batches []linkBatch
	closed  bool
}

type linkBatch struct {
	due time.Time
	p   []byte
}

func newLinkQueue() *linkQueue {
	q := new(linkQueue)
	q.cond = sync.NewCond(&q.mu)
	return q
}

// linkPair returns a pair with this time for a round trip.
func linkPair(rtt time.Duration) carrierPair {
	return func(testing.TB) (Carrier, Carrier) {
		a, b := newLinkQueue(), newLinkQueue()
		return &link{rtt / 2, a, b}, &link{rtt / 2, b, a}
	}
}

func (l *link) WriteBatch(first, second []byte, _ time.Duration) error {
	l.out.mu.Lock()
	defer l.out.mu.Unlock()
	if l.out.closed {
		return net.ErrClosed
	}
	l.out.batches = append(l.out.batches, linkBatch{time.Now().Add(l.delay), slices.Concat(first, second)})
	l.out.cond.Signal()
	return nil
}

func (l *link) Read(p []byte) (int, error) {
	q := l.in
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if len(q.batches) == 0 {
			if q.closed {
				return 0, io.EOF
			}
			q.cond.Wait()
			continue
		}
		b := &q.batches[0]
		if wait := time.Until(b.due); wait > 0 {
			q.mu.Unlock()
			<-time.After(wait)
			q.mu.Lock()
			continue
		}
		n := copy(p, b.p)
		if b.p = b.p[n:]; len(b.p) == 0 {
			q.batches = q.batches[1:]
		}
		return n, nil
	}
}

func (l *link) CloseWrite() error {
	l.out.mu.Lock()
	defer l.out.mu.Unlock()
	l.out.closed = true
	l.out.cond.Signal()
	return nil
}

func (l *link) Close(string) error {
	_ = l.CloseWrite()
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	l.in.closed, l.in.batches = true, nil
	l.in.cond.Signal()
	return nil
}

func (l *link) RemoteAddr() net.Addr { return addr{"link"} }

// duplex is a connection in memory whose directions close separately, as those of a
// socket do. Without a buffer: a Write waits for its reader.
type duplex struct{ in, out net.Conn }

func duplexPair() (a, b net.Conn) {
	ab, ba := net.Pipe()
	cd, dc := net.Pipe()
	return &duplex{in: cd, out: ab}, &duplex{in: ba, out: dc}
}

func (d *duplex) Read(p []byte) (int, error)         { return d.in.Read(p) }
func (d *duplex) Write(p []byte) (int, error)        { return d.out.Write(p) }
func (d *duplex) CloseWrite() error                  { return d.out.Close() }
func (d *duplex) LocalAddr() net.Addr                { return d.in.LocalAddr() }
func (d *duplex) RemoteAddr() net.Addr               { return d.in.RemoteAddr() }
func (d *duplex) SetReadDeadline(t time.Time) error  { return d.in.SetReadDeadline(t) }
func (d *duplex) SetWriteDeadline(t time.Time) error { return d.out.SetWriteDeadline(t) }

func (d *duplex) SetDeadline(t time.Time) error {
	_ = d.in.SetDeadline(t)
	return d.out.SetDeadline(t)
}

func (d *duplex) Close() error {
	_ = d.in.Close()
	return d.out.Close()
}
