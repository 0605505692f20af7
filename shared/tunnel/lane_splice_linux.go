package tunnel

import (
	"io"
	"net"
	"os"
	"syscall"
)

const (
	canSplice = true
	// spliceMost is how much is asked of a socket at once, in bytes, and the room that a
	// pipe is given where the system allows it.
	spliceMost = 1 << 20

	spliceMove     = 0x1
	spliceNonblock = 0x2
	setPipeSize    = 1031 // F_SETPIPE_SZ
)

// rawSocket is a socket without Go's reading and writing in between.
type rawSocket struct{ conn syscall.RawConn }

// rawOf returns errNoSplice for what is no plain stream socket.
func rawOf(conn net.Conn) (rawSocket, error) {
	if tcp := plainTCP(conn); tcp != nil {
		conn = tcp
	}
	switch c := conn.(type) {
	case *net.TCPConn:
		raw, err := c.SyscallConn()
		return rawSocket{raw}, err
	case *net.UnixConn:
		raw, err := c.SyscallConn()
		return rawSocket{raw}, err
	}
	return rawSocket{}, errNoSplice
}

// wait returns when there is something to read, also if that is the end.
func (s rawSocket) wait() error {
	var err error
	var peek [1]byte
	waitErr := s.conn.Read(func(fd uintptr) bool {
		for {
			_, _, err = syscall.Recvfrom(int(fd), peek[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if err != syscall.EINTR {
				return err != syscall.EAGAIN
			}
		}
	})
	if waitErr != nil {
		return waitErr
	}
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	return nil
}

// write writes p, and may say that more follows at once.
func (s rawSocket) write(p []byte, more bool) error {
	flags := syscall.MSG_NOSIGNAL | syscall.MSG_DONTWAIT
	if more {
		flags |= 0x8000 // MSG_MORE
	}
	var err error
	waitErr := s.conn.Write(func(fd uintptr) bool {
		for len(p) > 0 {
			var n int
			n, err = syscall.SendmsgN(int(fd), p, nil, nil, flags)
			switch err {
			case nil:
				p = p[n:]
			case syscall.EINTR:
			default:
				return err != syscall.EAGAIN
			}
		}
		return true
	})
	if waitErr != nil {
		return waitErr
	}
	if err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	return nil
}

// splicer moves bytes between sockets through a pipe, which it has only while open.
type splicer struct {
	p     *pipe
	dirty bool // something may be left in it
}

type pipe struct{ r, w int }

// pipes are those that nobody uses at the moment.
var pipes = make(chan *pipe, 16)

func (s *splicer) open() error {
	select {
	case s.p = <-pipes:
		return nil
	default:
	}
	var fd [2]int
	if err := syscall.Pipe2(fd[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	// The system may refuse so much; then it takes more steps.
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd[1]), setPipeSize, spliceMost)
	s.p = &pipe{fd[0], fd[1]}
	return nil
}

func (s *splicer) close() {
	p := s.p
	if p == nil {
		return
	}
	s.p = nil
	if !s.dirty {
		select {
		case pipes <- p:
			return
		default:
		}
	}
	s.dirty = false
	_ = syscall.Close(p.r)
	_ = syscall.Close(p.w)
}

// fill moves what the socket has into the empty pipe: 0 if that is nothing at the moment,
// io.EOF at the end, errNoSplice where it cannot be done.
func (s *splicer) fill(src rawSocket, most int) (n int, err error) {
	waitErr := src.conn.Read(func(fd uintptr) bool {
		for {
			var moved int64
			moved, err = spliceFD(int(fd), s.p.w, most)
			n = int(moved)
			if err != syscall.EINTR {
				return true
			}
		}
	})
	switch {
	case waitErr != nil:
		return 0, waitErr
	case err == syscall.EAGAIN:
		return 0, nil
	case err == syscall.EINVAL, err == syscall.ENOSYS:
		return 0, errNoSplice
	case err != nil:
		return 0, os.NewSyscallError("splice", err)
	case n == 0:
		return 0, io.EOF
	}
	s.dirty = true
	return n, nil
}

// drain moves the n bytes that are in the pipe to the socket, and tells of every step.
func (s *splicer) drain(dst rawSocket, n int, moved func(n int)) error {
	var err error
	waitErr := dst.conn.Write(func(fd uintptr) bool {
		for n > 0 {
			var m int64
			m, err = spliceFD(s.p.r, int(fd), n)
			switch {
			case err == syscall.EINTR:
			case err != nil:
				return err != syscall.EAGAIN
			case m == 0:
				err = io.ErrUnexpectedEOF
				return true
			default:
				n -= int(m)
				moved(int(m))
			}
		}
		return true
	})
	if waitErr != nil {
		return waitErr
	}
	if err != nil {
		return os.NewSyscallError("splice", err)
	}
	s.dirty = false
	return nil
}

func spliceFD(from, to, n int) (int64, error) {
	m, err := syscall.Splice(from, nil, to, nil, n, spliceMove|spliceNonblock)
	return int64(m), err
}
