package tunnel

import (
	"io"
	"net"
	"time"
)

// CloseWrite sends the end of our bytes; reading goes on. It waits for a Write that
// is under way.
func (st *Stream) CloseWrite() error {
	st.wmu.Lock()
	defer st.wmu.Unlock()
	st.mu.Lock()
	if st.err != nil || st.finSent {
		err := st.err
		st.mu.Unlock()
		return err
	}
	st.finSent = true
	over, l := st.finRecv, st.lanes.out
	st.mu.Unlock()
	if l == nil || !st.back(l, true) {
		if l != nil {
			defer l.killUnused()
		}
		st.sess.w.ordered(st, func(b []byte) []byte { return appendHeader(b, frameFin, 0, st.id) })
	}
	if over {
		st.sess.forget(st)
	}
	return nil
}

// Close ends both directions, our bytes cleanly behind whatever was written before. If
// the peer's have not ended it is told by a reset that nobody takes the rest. Where a
// Write still waits, or there is something that nobody has read, that is not a clean end
// and the peer gets only the reset.
func (st *Stream) Close() error {
	if st.wmu.TryLock() {
		clean := st.closeClean()
		st.wmu.Unlock()
		if clean {
			return nil
		}
	}
	st.finish(CodeCancelled, "closed", true)
	return nil
}

// closeClean closes a stream whose end is a clean one, and reports whether it is. The
// caller holds wmu.
func (st *Stream) closeClean() bool {
	st.mu.Lock()
	if st.err != nil || st.finSent || !st.accepted || st.buffered > 0 || st.sink != nil || st.lanes.moved && st.finRecv {
		st.mu.Unlock()
		return false
	}
	st.finSent, st.local, st.err = true, true, net.ErrClosed
	over, l := st.finRecv, st.lanes.out
	st.mu.Unlock()
	st.killLanes(true, false)
	st.silence()
	fin := l == nil || !st.back(l, true)
	st.sess.w.ordered(st, func(b []byte) []byte {
		if fin {
			b = appendHeader(b, frameFin, 0, st.id)
		}
		if !over {
			b = appendReset(b, st.id, CodeCancelled, "closed")
		}
		return b
	})
	st.sess.forget(st)
	return true
}

// Reset ends both directions at once with a code and a reason for the peer.
func (st *Stream) Reset(code Code, reason string) {
	st.finish(code, reason, false)
}

func (st *Stream) finish(code Code, reason string, ordered bool) {
	st.mu.Lock()
	if st.local {
		st.mu.Unlock()
		return
	}
	over := st.err != nil || st.removed || st.finSent && st.finRecv // the peer knows
	if st.err == nil {
		st.err = net.ErrClosed
		if !over && !ordered {
			st.err = &ResetError{Code: code, Reason: reason}
		}
	}
	st.local = true
	st.discardLocked()
	err, sink := st.err, st.sink
	complete := st.finSent && st.lanes.out != nil && st.lanes.out.state == laneBacked
	st.mu.Unlock()
	st.killLanes(true, !complete)
	st.silence()
	if !over {
		add := func(b []byte) []byte { return appendReset(b, st.id, code, reason) }
		if ordered {
			st.sess.w.ordered(st, add)
		} else {
			st.sess.w.control(add)
		}
		st.sess.forget(st)
	}
	if sink != nil {
		sink.ended(err)
	}
}

// silence stops the timers, and wakes whoever waits.
func (st *Stream) silence() {
	st.rd.set(time.Time{})
	st.wd.set(time.Time{})
	st.poke()
}

// discardLocked drops what was received and not read. The chunks are left to the
// garbage collector, not to the pool: a WriteTo or a sink may be using one.
func (st *Stream) discardLocked() {
	st.head, st.tail, st.buffered = nil, nil, 0
	st.releaseLocked()
}

// abort ends the stream because the peer or the session said so. If the peer's bytes
// were complete by then, the sink may still hand on what is queued, unless now.
func (st *Stream) abort(err error, now bool) {
	st.mu.Lock()
	if st.err == nil {
		st.err = err
	}
	sink, complete := st.sink, st.finRecv
	st.releaseLocked()
	st.mu.Unlock()
	st.killLanes(!complete || now, true)
	st.poke()
	switch {
	case sink == nil:
	case complete && !now:
		sink.cut(err)
	default:
		sink.ended(err)
	}
}

// sink takes received bytes at once, on the session's reader, which spares a wakeup
// and a copy. No method may block.
type sink interface {
	take(p []byte) int // returns how many bytes it took
	blocked()          // it did not take all: the rest is queued, and it must drain it
	ended(err error)   // clean end (nil) after all bytes were taken, or break, at once; may come more than once
	cut(err error)     // the stream broke after its last byte had come: ended(nil) came or will, but nothing can be sent
}

// setSink hands the peer's bytes to s from now on; nobody may Read any more. An Offer is a
// sink, too, but for once.
func (st *Stream) setSink(s sink) {
	st.mu.Lock()
	queued, complete, local, err := st.buffered > 0, st.finRecv, st.local, st.err
	st.sink = s
	onLane := st.lanes.moved && !st.lanes.lost
	st.mu.Unlock()
	if err != nil && (local || !complete) {
		s.ended(err)
		return
	}
	if err != nil {
		s.cut(err)
	}
	switch {
	case queued || onLane:
		s.blocked()
	case complete:
		s.ended(nil)
	}
}

// drain writes what is queued to w. It returns nil when the queue is empty and more
// may come, io.EOF at the clean end, and otherwise the error of the stream or of w.
// That the queue is empty is found in one step with taking the last bytes: a sink may
// rely on being called for whatever comes after.
func (st *Stream) drain(w io.Writer) (total int64, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for st.buffered > 0 {
		c := st.head
		p := c.buf[c.r:c.w] // the chunk stays ours: only a consumer drops it
		st.mu.Unlock()
		n, err := w.Write(p)
		total += int64(n)
		st.mu.Lock()
		if st.local {
			return total, st.err
		}
		c.r += n
		st.dropLocked()
		st.consumedLocked(n)
		if err != nil {
			return total, err
		}
	}
	if err := st.readErrLocked(); err != nil || !st.lanes.moved {
		return total, err
	}
	return total, errOnLane
}
