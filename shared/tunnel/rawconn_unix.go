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
	call  func(fd uintptr) bool
	p     []byte
	buf   *Buffer
	n     int
	err   error
	large bool // see rawConn.read
	wide  bool
	// progress has write wait until all is written, and is called whenever some is.
	progress func()
}

// newRawConn returns false for a connection that is not a plain stream socket.
func newRawConn(conn net.Conn) (rawConn, bool) {
	if tcp := plainTCP(conn); tcp != nil {
		conn = tcp
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
func (c rawConn) tryWrite(p []byte) (int, error) { return c.write(p, nil) }

// write writes p and calls progress whenever some of it is written. It waits for the
// socket, unless progress is nil.
func (c rawConn) write(p []byte, progress func()) (int, error) {
	op := c.w
	op.p, op.n, op.err, op.progress = p, 0, nil, progress
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
			return op.progress == nil
		}
		if err != nil {
			op.err = os.NewSyscallError("write", err)
			break
		}
		op.n += n
		if op.progress != nil {
			op.progress()
		}
	}
	return true
}

// read waits until there is something to read and returns it in the body of a buffer of
// copyPool, or one for a lane if large, and that a wide one if it may be, or io.EOF.
func (c rawConn) read(large, wide bool) (*Buffer, int, error) {
	op := c.r
	op.large, op.wide = large, wide
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
	var buf *Buffer
	if op.large {
		buf = newLaneBuffer(op.wide)
	} else {
		buf = copyPool.Get().(*Buffer)
	}
	n, err := rawio.Read(fd, buf.Body())
	if err == nil {
		op.buf, op.n = buf, n
		return true
	}
	buf.Recycle()
	if err == syscall.EAGAIN {
		return false // wait, without a buffer
	}
	op.err = os.NewSyscallError("read", err)
	return true
}

// plainTCP returns the socket of a connection that has nothing in between, or nil.
func plainTCP(conn net.Conn) *net.TCPConn {
	if c, ok := conn.(*rawio.Conn); ok {
		return c.TCPConn
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}
