package tunnel

import (
	"errors"
	"io"
	"net"
	"os"
)

// splices reports whether the kernel can move bytes from a socket to the lane on which
// the stream sends.
func (st *Stream) splices() bool {
	if !canSplice || !st.hasOut.Load() {
		return false
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	l := st.lanes.out
	return l != nil && l.plain != nil && l.state >= laneReady && !st.sess.cfg.Lanes.Masked
}

// spliceFrom moves at most limit bytes of a socket to the lane while the stream has one,
// and returns nil when it has none any more, io.EOF at the end of the socket's bytes, or
// errNoSplice before anything has moved. Each piece that the socket has becomes one
// frame, so that the lane is a valid websocket at every pause. What was taken from the
// socket has been sent, unless there is an error of the stream.
//
// A frame of the client has the masking key zero here, see Masking in the package
// documentation.
func (st *Stream) spliceFrom(conn net.Conn, limit int64, progress func()) (taken int64, err error) {
	src, err := rawOf(conn)
	if err != nil {
		return 0, errNoSplice
	}
	for taken < limit && st.splices() {
		if err := src.wait(); err != nil {
			return taken, err
		}
		st.wmu.Lock()
		l, err := st.enter()
		if err == nil && l != nil {
			var n int64
			n, err = st.spliceOnce(l, src, limit-taken, progress)
			taken += n
		}
		st.wmu.Unlock()
		if err != nil || l == nil {
			return taken, err
		}
	}
	return taken, nil
}

// spliceOnce moves what the socket has at the moment.
func (st *Stream) spliceOnce(l *lane, src rawSocket, limit int64, progress func()) (taken int64, err error) {
	dst, err := rawOf(l.plain)
	if err != nil {
		return 0, errNoSplice
	}
	if err := l.pipe.open(); err != nil {
		return 0, errNoSplice
	}
	defer l.pipe.close()
	for taken < limit {
		n, err := l.pipe.fill(src, int(min(limit-taken, spliceMost)))
		if err != nil || n == 0 {
			return taken, err
		}
		taken += int64(n)
		var key *maskKey
		if l.sess.cfg.Client {
			key = new(maskKey)
		}
		l.used = true
		if err := dst.write(appendWSHeader(l.head[:0], opBinary, n, key), true); err != nil {
			return taken, st.laneFailed(l, err)
		}
		if err := l.pipe.drain(dst, n, func(n int) {
			l.sent += uint64(n)
			st.countSent(n)
			progress()
		}); err != nil {
			return taken, st.laneFailed(l, err)
		}
	}
	return taken, nil
}

// Splices reports whether SpliceFrom may move something.
func (st *Stream) Splices() bool { return st.splices() }

// SpliceFrom is the counterpart of PourTo: it sends what conn has to say, at most limit
// bytes, by lane and without reading it, where both are plain sockets, and returns how many
// bytes it took from conn. It returns early, with no error, when the stream is back on the
// session, and when conn has ended, has failed or is nothing to splice, which the next read
// of it is to tell. An error is that of the stream, and what was taken may be lost.
func (st *Stream) SpliceFrom(conn net.Conn, limit int64) (int64, error) {
	n, _ := st.spliceFrom(conn, limit, func() {})
	return n, st.Err()
}

// errNoSplice says that a connection has to be read and written.
var errNoSplice = errors.New("the kernel cannot splice this")

// spliceTo moves payload of the current frame to a socket. Errors are those of the
// socket; what the lane ends with it notes.
func (l *lane) spliceTo(dst rawSocket, limit int64, passed func(n int)) (n int, err error) {
	r := &l.r
	if len(r.buf) > 0 { // came with the header
		p := r.buf[:min(int64(len(r.buf)), int64(r.left), limit)]
		r.buf = r.buf[len(p):]
		r.left -= uint64(len(p))
		passed(len(p))
		return len(p), dst.write(p, r.left > 0)
	}
	src, err := rawOf(l.plain)
	if err != nil {
		return 0, errNoSplice
	}
	if err := l.pipe.open(); err != nil {
		return 0, errNoSplice
	}
	defer l.pipe.close()
	for {
		n, err = l.pipe.fill(src, int(min(int64(r.left), limit, spliceMost)))
		switch {
		case err == io.EOF:
			l.ended = io.ErrUnexpectedEOF
			return 0, nil
		case err == errNoSplice:
			return 0, err
		case errors.Is(err, os.ErrDeadlineExceeded):
			return 0, os.ErrDeadlineExceeded
		case err != nil:
			l.ended = err
			return 0, nil
		case n > 0:
			r.left -= uint64(n)
			return n, l.pipe.drain(dst, n, passed)
		}
		l.pipe.close()
		if err := src.wait(); err != nil && err != io.EOF {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return 0, os.ErrDeadlineExceeded
			}
			l.ended = err
			return 0, nil
		}
		if err := l.pipe.open(); err != nil {
			return 0, errNoSplice
		}
	}
}
