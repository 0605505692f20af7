//go:build unix

package tunnel

import (
	"io"
	"net"
	"os"
	"syscall"

	"github.com/adit-tunnel/adit/shared/rawio"
)

// rawConn reads and writes a socket without ever waiting with a buffer in hand, and
// without waiting at all to write. It is used by one reader and one writer.
type rawConn struct {
	conn syscall.RawConn
	w    *rawOp
	r    *rawOp
}

// rawOp holds what a callback needs, so that a call allocates nothing.
type rawOp struct {
	call func(fd uintptr) bool
	p    []byte
	buf  *buffer
	n    int
	err  error
}

// newRawConn returns false for a connection that is not a plain stream socket.
func newRawConn(conn net.Conn) (rawConn, bool) {
	if c, ok := conn.(*rawio.Conn); ok {
		conn = c.TCPConn
	}
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return rawConn{}, false
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return rawConn{}, false
	}
	c := rawConn{conn: raw, w: new(rawOp), r: new(rawOp)}
	c.w.call = c.w.write
	c.r.call = c.r.read
	return c, true
}

// tryWrite writes what the socket takes at once.
func (c rawConn) tryWrite(p []byte) (int, error) {
	op := c.w
	op.p, op.n, op.err = p, 0, nil
	err := c.conn.Write(op.call)
	op.p = nil
	if err == nil {
		err = op.err
	}
	return op.n, err
}

func (op *rawOp) write(fd uintptr) bool {
	for op.n < len(op.p) {
		n, err := rawio.Write(fd, op.p[op.n:])
		if err == syscall.EAGAIN {
			break
		}
		if err != nil {
			op.err = os.NewSyscallError("write", err)
			break
		}
		op.n += n
	}
	return true // never wait
}

// read waits until there is something to read and returns it in a buffer of copyPool,
// or io.EOF.
func (c rawConn) read() (*buffer, int, error) {
	op := c.r
	op.buf, op.n, op.err = nil, 0, nil
	err := c.conn.Read(op.call)
	if err == nil {
		err = op.err
	}
	if err == nil && op.n == 0 {
		err = io.EOF
	}
	return op.buf, op.n, err
}

func (op *rawOp) read(fd uintptr) bool {
	buf := copyPool.Get().(*buffer)
	n, err := rawio.Read(fd, buf.b)
	if err == nil {
		op.buf, op.n = buf, n
		return true
	}
	copyPool.Put(buf)
	if err == syscall.EAGAIN {
		return false // wait, without a buffer
	}
	op.err = os.NewSyscallError("read", err)
	return true
}
