//go:build unix

package rawio

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Conn is a TCP connection whose Read and Write are cheaper. All else, splicing by
// ReadFrom and WriteTo included, is that of the connection below. Like any net.Conn it
// may be used by several goroutines.
type Conn struct {
	*net.TCPConn
	raw    syscall.RawConn
	r, w   op
	gather *Gather // nil for none
}

// op is one direction: what its callback needs, so that a call allocates nothing.
type op struct {
	mu   sync.Mutex // one call at a time
	call func(fd uintptr) bool
	p    []byte
	n    int
	err  error
	try  bool // a write does not wait

	ahead bool // a read may take more than it returns
	pace  Pace
	much  bool  // the next one is worth a wide buffer
	kept  *kept // what it took
}

// Wrap returns conn as a [Conn] if it is a *net.TCPConn, and otherwise conn itself.
func Wrap(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	c := &Conn{TCPConn: tcp, raw: raw}
	c.r.call, c.w.call = c.r.read, c.w.write
	return c
}

// NetConn returns the connection below.
func (c *Conn) NetConn() net.Conn { return c.TCPConn }

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.r.ahead {
		if n := c.r.take(p); n > 0 {
			return n, nil
		}
	}
	n, err := c.r.do(c.raw.Read, p)
	if err != nil {
		return n, c.fault("read", err)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Close implements net.Conn. What was read ahead is lost.
func (c *Conn) Close() error {
	err := c.TCPConn.Close() // which ends a Read that waits
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.kept != nil {
		c.r.kept.recycle()
		c.r.kept = nil
	}
	return err
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.gather != nil {
		if n, on, err := c.gather.take(p); on {
			return n, err
		}
	}
	n, err := c.w.do(c.raw.Write, p)
	if err != nil {
		return n, c.fault("write", err)
	}
	return n, nil
}

// TryWrite writes what the socket takes at once.
func (c *Conn) TryWrite(p []byte) (int, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.try = true
	n, err := c.w.doLocked(c.raw.Write, p)
	c.w.try = false
	if err != nil {
		return n, c.fault("write", err)
	}
	return n, nil
}

// do runs the callback until it has finished, or the wait for the socket has ended.
func (o *op) do(call func(func(uintptr) bool) error, p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.doLocked(call, p)
}

func (o *op) doLocked(call func(func(uintptr) bool) error, p []byte) (int, error) {
	o.p, o.n, o.err = p, 0, nil
	err := call(o.call)
	o.p = nil
	if err == nil {
		err = o.err
	}
	return o.n, err
}

// read takes what is there; false waits for more.
func (o *op) read(fd uintptr) bool {
	n, err := Read(fd, o.p)
	if err == syscall.EAGAIN {
		return false
	}
	if err != nil {
		o.err = os.NewSyscallError("read", err)
		return true
	}
	o.n = n
	return true
}

// write writes all; false waits for room.
func (o *op) write(fd uintptr) bool {
	for o.n < len(o.p) {
		n, err := Write(fd, o.p[o.n:])
		if err == syscall.EAGAIN {
			return o.try
		}
		if err != nil {
			o.err = os.NewSyscallError("write", err)
			return true
		}
		o.n += n
	}
	return true
}

// fault words an error as package net does.
func (c *Conn) fault(operation string, err error) error {
	var inner *net.OpError
	if errors.As(err, &inner) { // of the wait: closed, or the deadline
		err = inner.Err
	}
	return &net.OpError{Op: operation, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
