package tunnel

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// laneReceiver is the part of a lane that we receive on. But for control it belongs to
// the goroutine that reads the stream.
type laneReceiver struct {
	r     laneReader
	got   uint64
	ended error // what the lane ended with, if it has

	controlMu sync.Mutex
}

// announced acts on LANE, MOVE and BACK.
func (st *Stream) announced(h header, count uint64) error {
	st.heard.Store(true)
	if h.typ == frameLane {
		st.sess.dialLane(st, false)
		return nil
	}
	st.mu.Lock()
	in, again := st.lanes.in, st.lanes.moved
	switch {
	case st.finRecv || h.typ == frameMove && again || h.typ == frameBack && (!again || st.lanes.backed) && st.err == nil:
		st.mu.Unlock()
		return protocolErrorf("stream %d: %s out of turn", st.id, h.typ)
	case in == nil: // it broke meanwhile, or never came about here
		st.mu.Unlock()
		st.Reset(CodeBroken, laneBroken)
		return nil
	case h.typ == frameBack:
		st.lanes.backed, st.lanes.total = true, count
		st.mu.Unlock()
		wake(st.readable)
		return nil
	}
	st.lanes.moved = true
	st.sess.cfg.Counters.Moves.Add(1)
	sink, queued := st.sink, st.buffered > 0
	st.mu.Unlock()
	wake(st.readable)
	if sink != nil && !queued {
		sink.blocked()
	}
	return nil
}

// beat is the turn of a receiver's timer. It shows a sign of life: without it a middle box
// may cut a lane whose reader is slow, and the sender cannot tell that from a dead one.
func (l *lane) beat() {
	if l.sess.goLane(func() { l.control(opPong, nil) }) {
		l.again(l.beatEvery())
	}
}

func (l *lane) beatEvery() time.Duration { return min(l.sess.cfg.PingInterval, laneBeat) }

// control sends a control frame to the sender. One that cannot be sent says that the lane is
// dead: nobody reads a lane before MOVE, so nobody else would find out.
func (l *lane) control(opcode byte, payload []byte) {
	l.mu.Lock()
	conn, live := l.conn, l.live
	l.mu.Unlock()
	if !live {
		return
	}
	l.controlMu.Lock()
	_ = conn.SetWriteDeadline(time.Now().Add(laneControl))
	_, err := conn.Write(appendWSControl(nil, opcode, payload, l.sess.cfg.Client))
	l.controlMu.Unlock()
	if err != nil {
		l.killUnused()
	}
}

// setReadDeadline is as setWriteDeadline.
func (l *lane) setReadDeadline() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live {
		_ = l.conn.SetReadDeadline(l.st.rd.at())
	}
}

// errOnLane is what drain returns when the next bytes are on the lane.
var errOnLane = errors.New("the next bytes are on a lane")

// ahead reports whether a read returns at once.
func (l *lane) ahead() bool {
	select {
	case <-l.ready:
		return len(l.r.buf) > 0 && l.r.left > 0
	default:
		return false
	}
}

// receiving returns the lane to read, or nil for the session. It waits until the lane
// is there.
func (st *Stream) receiving() (*lane, error) {
	st.mu.Lock()
	l := st.lanes.in
	on := st.lanes.moved && st.buffered == 0 && st.readErrLocked() == nil
	st.mu.Unlock()
	if !on {
		return nil, nil
	}
	select {
	case <-l.ready:
	case <-l.over:
		select {
		case <-l.ready:
		default:
			l.ended = net.ErrClosed
		}
	case <-st.rd.passed():
		return nil, os.ErrDeadlineExceeded
	}
	return l, nil
}

// readLane reads from the lane. It returns 0 and no error when it is worth looking at the
// session again.
func (st *Stream) readLane(p []byte) (int, error) {
	l, err := st.receiving()
	if l == nil {
		return 0, err
	}
	if l.ended == nil {
		n, err := l.r.fill(p)
		if n > 0 {
			st.lanePassed(l, n)
			return n, nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, os.ErrDeadlineExceeded
		}
		l.ended = err
	}
	return 0, st.leave(l)
}

// lanePassed counts bytes that came by lane.
func (st *Stream) lanePassed(l *lane, n int) {
	l.got += uint64(n)
	st.countReceived(n)
	if !st.heard.Load() {
		st.heard.Store(true)
	}
}

// leave goes back to the session behind the last byte on the lane: when the sender has
// announced how many there were, and so many have come. It returns what readErrLocked
// returned in one step with that.
func (st *Stream) leave(l *lane) error {
	patience := lanePatience
	if l.ended != errLaneEnd {
		patience = l.sess.cfg.Lanes.grace
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	over := l.over
	for broken := false; ; {
		st.mu.Lock()
		if st.local || st.lanes.lost {
			err := st.err
			st.mu.Unlock()
			if err == nil {
				err = net.ErrClosed
			}
			return err
		}
		if st.lanes.backed && st.lanes.total == l.got {
			st.dropInLocked()
			err := st.readErrLocked()
			st.mu.Unlock()
			l.control(opClose, []byte{1000 >> 8, 1000 & 0xff})
			l.kill()
			return err
		}
		broken = broken || st.lanes.backed
		st.mu.Unlock()
		if broken {
			if st.Err() == nil {
				l.broke()
			}
			l.kill()
			return st.Err()
		}
		select {
		case <-st.readable:
		case <-over:
			broken, over = true, nil
		case <-timer.C:
			broken = true
		case <-st.rd.passed():
			return os.ErrDeadlineExceeded
		}
	}
}

// pourTo is where a lane is poured.
type pourTo struct {
	conn     net.Conn // if it is a socket the kernel may splice
	w        io.Writer
	progress func() // is called whenever something has moved
}

// pour writes at most limit bytes of the lane to a connection. It returns done with what
// leave returned when there are no more on the lane, and otherwise an error of the
// connection, or nil at the limit.
func (st *Stream) pour(to pourTo, limit int64) (total int64, done bool, err error) {
	l, err := st.receiving()
	if l == nil {
		return 0, err == nil, err
	}
	var (
		buffers LaneBuffers
		came    int // the last time
		dst     rawSocket
		splice  bool
	)
	defer buffers.Recycle()
	if canSplice && l.plain != nil && to.conn != nil {
		dst, err = rawOf(to.conn)
		splice = err == nil
	}
	passed := func(n int) {
		total += int64(n)
		limit -= int64(n)
		st.lanePassed(l, n)
		to.progress()
	}
	for limit > 0 && l.ended == nil {
		if err := l.r.next(splice); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return total, false, os.ErrDeadlineExceeded
			}
			l.ended = err
			break
		}
		if splice && l.r.key == (maskKey{}) {
			n, err := l.spliceTo(dst, limit, passed)
			if err == errNoSplice {
				splice = false
				continue
			}
			if err != nil {
				return total, false, err
			}
			if n > 0 || l.ended != nil {
				continue
			}
		}
		buf := buffers.Next(came)
		n, err := l.r.fill(buf.b[:min(int64(len(buf.b)), limit)])
		came = n
		if n > 0 {
			m, err := to.w.Write(buf.b[:n])
			passed(m)
			if err != nil {
				return total, false, err
			}
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return total, false, os.ErrDeadlineExceeded
		}
		l.ended = err
	}
	if limit <= 0 {
		return total, false, nil
	}
	return total, true, st.leave(l)
}

// PourTo writes at most limit bytes that come by lane to conn, with splice where both are
// plain sockets. It returns early, with no error, when the stream is back on the session.
func (st *Stream) PourTo(conn net.Conn, limit int64) (int64, error) {
	n, done, err := st.pour(pourTo{conn: conn, w: conn, progress: func() {}}, limit)
	if done && err == io.EOF { // for Read to say
		err = nil
	}
	return n, err
}

// Pours reports whether the next bytes come by lane.
func (st *Stream) Pours() bool {
	if !st.hasIn.Load() {
		return false
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.lanes.moved && st.buffered == 0
}
