//go:build unix

package rawio

import (
	"os"
	"sync"
	"syscall"
	"time"
)

// Gather makes the writes to a connection return at once, so that a message which several
// layers write in pieces, as TLS does its records, leaves in one system call, and so that
// a sender can go on if the socket does not take it all. It is made before the connection
// is used by several goroutines. Between Begin and the end of a Try or Flush that sent all
//   - Write, by whomever, keeps what it is given (or what the socket does not take), and
//   - SetWriteDeadline does nothing: the time limit is that of Flush.
//
// One goroutine at a time calls Begin, Try and Flush.
type Gather struct {
	c       *Conn
	through bool // one Write is one message: try at once
	call    func(fd uintptr) bool

	mu   sync.Mutex
	on   bool
	rest *block // written here and not yet sent
	err  error

	p []byte // of the call that is under way
	n int
}

// block is what waits to be sent: b from sent on.
type block struct {
	b    []byte
	sent int
}

// room is how much a block of the pool may hold, in bytes; a larger one is not kept. What
// append makes for a message of WideSize in records of TLS is less than 700 KiB.
const room = 704 << 10

var blocks = sync.Pool{New: func() any { return new(block) }}

func (b *block) recycle() {
	if cap(b.b) <= room {
		b.b, b.sent = b.b[:0], 0
		blocks.Put(b)
	}
}

// Gather returns a gatherer for the connection. If through, each Write is a message and
// goes to the socket at once as far as that takes it.
func (c *Conn) Gather(through bool) *Gather {
	c.gather = &Gather{c: c, through: through}
	c.gather.call = c.gather.write
	return c.gather
}

// Begin makes writes gather.
func (g *Gather) Begin() {
	g.mu.Lock()
	g.on = true
	g.mu.Unlock()
}

// take is Write while gathering; it reports false if it is not.
func (g *Gather) take(p []byte) (n int, on bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil { // for good: bytes are missing
		return 0, true, g.err
	}
	if !g.on {
		return 0, false, nil
	}
	if g.through && g.rest == nil {
		n = g.tryLocked(p)
	}
	if g.err != nil {
		return n, true, g.err
	}
	if n < len(p) {
		if g.rest == nil {
			g.rest = blocks.Get().(*block)
		}
		g.rest.b = append(g.rest.b, p[n:]...)
	}
	return len(p), true, nil
}

// tryLocked writes what the socket takes at once of p, and returns how much that was.
func (g *Gather) tryLocked(p []byte) int {
	if g.err != nil {
		return 0
	}
	g.p, g.n = p, 0
	if err := g.c.raw.Write(g.call); err != nil {
		g.err = g.c.fault("write", err)
	}
	g.p = nil
	return g.n
}

// write is the callback of tryLocked: it never waits.
func (g *Gather) write(fd uintptr) bool {
	for g.n < len(g.p) {
		n, err := Write(fd, g.p[g.n:])
		if err == syscall.EAGAIN {
			break
		}
		if err != nil {
			g.err = g.c.fault("write", os.NewSyscallError("write", err))
			break
		}
		g.n += n
	}
	return true
}

// Try sends what the socket takes at once. It reports whether that was all, or nothing
// can be sent any more; otherwise Flush has to be called.
func (g *Gather) Try() (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.rest; b != nil {
		b.sent += g.tryLocked(b.b[b.sent:])
		if b.sent < len(b.b) && g.err == nil {
			return false, nil
		}
		b.recycle()
		g.rest = nil
	}
	g.on = false
	return true, g.err
}

// Flush sends all, within the timeout.
func (g *Gather) Flush(timeout time.Duration) error {
	if done, err := g.Try(); done {
		return err
	}
	if err := g.c.TCPConn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	for {
		// What is written while we wait gathers behind this.
		g.mu.Lock()
		b := g.rest
		p := b.b[b.sent:len(b.b):len(b.b)]
		g.mu.Unlock()
		n, err := g.c.w.do(g.c.raw.Write, p)
		g.mu.Lock()
		b.sent += n
		if err != nil && g.err == nil {
			g.err = g.c.fault("write", err)
		}
		g.mu.Unlock()
		if done, err := g.Try(); done {
			if err == nil {
				err = g.c.TCPConn.SetWriteDeadline(time.Time{})
			}
			return err
		}
	}
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.gathering() {
		return nil
	}
	return c.TCPConn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	if c.gathering() {
		return c.TCPConn.SetReadDeadline(t)
	}
	return c.TCPConn.SetDeadline(t)
}

func (c *Conn) gathering() bool {
	g := c.gather
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.on
}
