package tunnel

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// laneState is how far a lane is that we send on.
type laneState uint8

const (
	laneDialled laneState = iota // not yet to be used
	laneReady                    // to be used with the next write
	laneMoved                    // MOVE was sent: our bytes travel on it
	laneBacked                   // BACK was sent: the receiver still reads
)

// laneSender is the part of a lane that we send on.
type laneSender struct {
	state laneState // guarded by the stream's lock

	// Guarded by the stream's wmu.
	plain *net.TCPConn // the connection if it is a bare socket
	below gatherer     // for TLS, whose records leave in one system call; may be nil
	sent  uint64
	used  bool // since look was there

	moved  atomic.Bool
	backed atomic.Bool  // the deadline of the stream's writes is of no more concern here
	before atomic.Int64 // what the stream had sent when it moved
	head   [wsHeader]byte
	pipe   splicer
}

// bulk recognises a direction of a stream that carries a lot at a time: so many bytes
// within some seconds, and few turns, at which the other side said something. Many small
// answers are not bulky: they leave the session's batches as they are.
type bulk struct {
	bytes, turns int
	since        time.Duration
}

const (
	bulkWithin = 10 * time.Second
	bulkTurn   = 64 << 10 // at least so many bytes between two turns
	// bulkTrips is how many round trips a stream has to be at it where these are longFrom or
	// more. A lane is a connection that knows nothing of the way yet: over a long one the
	// session is ahead of it by the round trips that it has needed itself to become fast, and
	// what ends soon had better stay there.
	bulkTrips = 20
	longFrom  = 15 * time.Millisecond
)

// add tells whether the stream is bulky with n bytes more. If only the round trips are against it, bytes is after or
// more then; otherwise it begins anew.
func (b *bulk) add(n, after int, turned bool, rtt time.Duration, now func() time.Duration) bool {
	if b.bytes == 0 {
		b.since, b.turns = now(), 0
	} else if turned {
		b.turns++
	}
	if b.bytes += n; b.bytes < after {
		return false
	}
	took := now() - b.since
	if rtt >= longFrom && took < bulkTrips*rtt {
		return false
	}
	bulky := b.turns <= b.bytes/bulkTurn && took < max(bulkWithin, 2*bulkTrips*rtt)
	b.bytes = 0
	return bulky
}

// mostReluctance bounds how often the bytes that make a stream bulky are doubled.
const mostReluctance = 4

// judge learns from a lane on which our bytes could travel: so many of them did. Where
// streams end soon after they have become bulky, lanes cost more than they are worth, and
// it takes twice as many bytes the next time.
func (s *Session) judge(sent int64) {
	r := s.reluctance.Load()
	switch after := int64(s.cfg.Lanes.After) << r; {
	case sent >= 4*after:
		r = 0
	case sent < after:
		r = min(r+1, mostReluctance)
	}
	s.reluctance.Store(r)
}

// measure is called with wmu held after bytes were sent on the session.
func (st *Stream) measure(n int) {
	lanes := st.sess.cfg.Lanes
	if lanes == nil {
		return
	}
	turned := st.heard.Load()
	if turned {
		st.heard.Store(false)
	}
	after := lanes.After << st.sess.reluctance.Load()
	if !st.bulk.add(n, after, turned, st.sess.rtt.least(), st.sess.clock) {
		if st.bulk.bytes >= after {
			st.sess.remeasure()
		}
		return
	}
	if st.anyOut() {
		return
	}
	if st.sess.cfg.Client {
		st.sess.dialLane(st, true)
	} else {
		st.sess.w.control(func(b []byte) []byte { return appendHeader(b, frameLane, 0, st.id) })
	}
}

// usable lets the next write move to the lane.
func (l *lane) usable() {
	st := l.st
	st.mu.Lock()
	if st.lanes.out == l && l.state == laneDialled {
		l.state = laneReady
		st.hasOut.Store(true)
	}
	st.mu.Unlock()
}

// enter returns the lane to write on, or nil for the session. It waits while the lane
// that there was is still being read, for bytes on the session would be ahead of it. The
// caller holds wmu.
func (st *Stream) enter() (*lane, error) {
	for {
		st.mu.Lock()
		l := st.lanes.out
		switch {
		case st.err != nil:
			err := st.err
			st.mu.Unlock()
			return nil, err
		case st.finSent:
			st.mu.Unlock()
			return nil, io.ErrClosedPipe
		case st.wd.expired.Load():
			st.mu.Unlock()
			return nil, os.ErrDeadlineExceeded
		case l == nil || l.state == laneDialled:
			st.mu.Unlock()
			return nil, nil
		case l.state == laneMoved:
			st.mu.Unlock()
			return l, nil
		case l.state == laneReady:
			l.state = laneMoved
			st.mu.Unlock()
			l.move()
			st.sess.cfg.Counters.Moves.Add(1)
			return l, nil
		}
		st.mu.Unlock()
		select {
		case <-st.writable:
		case <-l.over: // broken, or
			st.mu.Lock()
			gone := st.lanes.out != l || st.err != nil
			st.mu.Unlock()
			if !gone {
				return nil, st.laneBroke(l)
			}
		case <-st.wd.passed():
		}
	}
}

// move announces that our bytes travel on the lane from now on. The caller holds wmu.
func (l *lane) move() {
	l.setWriteDeadline()
	l.before.Store(l.st.carried.sent.Load())
	l.moved.Store(true)
	l.sess.w.ordered(l.st, func(b []byte) []byte { return appendHeader(b, frameMove, 0, l.st.id) })
}

// look is the turn of a sender's timer: it sends a stream that has nothing to send back to
// the session. One that has never used the lane goes there and back, for the receiver to
// see the end.
func (l *lane) look() {
	if st := l.st; st.wmu.TryLock() {
		unused := false
		st.mu.Lock()
		if !l.used && l.state == laneReady && st.lanes.out == l && st.err == nil && !st.finSent {
			l.state, unused = laneMoved, true
		}
		st.mu.Unlock()
		if unused {
			l.move()
		}
		over := !l.used && st.back(l, false)
		l.used = false
		st.wmu.Unlock()
		if over {
			return
		}
	}
	l.again(l.sess.cfg.Lanes.Idle)
}

// back announces how much travelled on the lane, with FIN behind it if fin, and ends it.
// It reports false if the stream is not on the lane. The caller holds wmu.
func (st *Stream) back(l *lane, fin bool) bool {
	st.mu.Lock()
	if st.lanes.out != l || l.state != laneMoved || st.err != nil && !fin {
		st.mu.Unlock()
		return false
	}
	l.state = laneBacked
	st.mu.Unlock()
	total := l.sent
	st.sess.w.ordered(st, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint64(appendHeader(b, frameBack, 8, st.id), total)
		if fin {
			b = appendHeader(b, frameFin, 0, st.id)
		}
		return b
	})
	// The close frame may have to wait for a slow reader: nobody else does.
	l.backed.Store(true)
	st.sess.goLane(func() {
		l.setWriteDeadline()
		err := l.send(appendWSControl(nil, opClose, []byte{1000 >> 8, 1000 & 0xff}, l.sess.cfg.Client))
		if err != nil && !l.gone() { // without it the receiver would wait for ever
			l.lost(err, true)
			l.kill()
		}
	})
	return true
}

// watch reads what the receiver sends: signs of life, and its close frame at the end.
func (l *lane) watch() {
	s, st := l.sess, l.st
	patience := lanePatience
	if !s.cfg.Client { // the client's end of the greeting is still to come
		patience = s.cfg.Lanes.dial
	}
	_ = l.conn.SetReadDeadline(time.Now().Add(patience))
	l.r.control = func() {
		_ = l.conn.SetReadDeadline(time.Now().Add(lanePatience))
		l.usable()
	}
	err := l.r.next(false)
	st.mu.Lock()
	state := l.state
	clean := st.lanes.out == l && state == laneBacked && err == errLaneEnd
	if clean || st.lanes.out == l && state < laneMoved {
		st.dropOutLocked()
	}
	st.mu.Unlock()
	if !clean && !l.gone() {
		l.lost(err, state >= laneMoved)
	}
	l.kill()
	wake(st.writable)
}

// lost is called when the lane has ended before its time, with this error. If the session
// does not say within a moment that the stream has, it is the lane's fault: that costs the
// stream, if it used the lane, and lanes get a rest. Where both sides have sent FIN the
// session has nothing more to say: the receiver may have left with the rest unread, and if
// it has not it knows better.
func (l *lane) lost(err error, used bool) {
	s, st := l.sess, l.st
	over := func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return used && st.finSent && st.finRecv
	}
	if over() {
		return
	}
	timer := time.NewTimer(s.cfg.Lanes.grace)
	defer timer.Stop()
	select {
	case <-l.over:
		return
	case <-s.done:
		return
	case <-timer.C:
	}
	switch {
	case !used:
		s.laneRefused(err)
	case !over():
		l.broke()
	}
}

const laneBroken = "a lane of the stream broke off"

// broke resets the stream because its lane broke.
func (l *lane) broke() {
	l.blame.Do(func() {
		l.sess.cfg.Counters.LaneErrors.Broken.Add(1)
		l.sess.pauseLanes(laneBrokenPause)
	})
	l.st.Reset(CodeBroken, laneBroken)
	l.kill()
}

// laneBroke returns why the stream broke of whose lane a write has failed: what the session
// says within a moment, or that the lane did.
func (st *Stream) laneBroke(l *lane) error {
	timer := time.NewTimer(l.sess.cfg.Lanes.grace)
	defer timer.Stop()
	for st.Err() == nil {
		select {
		case <-st.writable:
			continue
		case <-timer.C:
		}
		l.broke()
	}
	l.kill()
	return st.Err()
}

// writeLane is write on the lane: one frame, if it can be made in place. The caller holds wmu.
func (st *Stream) writeLane(l *lane, b []byte, front int) (total int, err error) {
	most := len(b)
	if front == 0 {
		most = laneSize - wsHeader
	}
	for len(b) > front {
		n, err := l.write(b[:min(len(b), most)], front)
		if err != nil {
			return total, st.laneFailed(l, err)
		}
		st.countSent(n)
		total += n
		b = b[n:]
	}
	return total, nil
}

// laneFailed makes the error of a write that of the stream: nobody knows how much of it
// arrives.
func (st *Stream) laneFailed(l *lane, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && st.Err() == nil {
		st.Reset(CodeTimeout, "a write on a lane took too long")
		return os.ErrDeadlineExceeded
	}
	return st.laneBroke(l)
}

// write sends what lies in b behind so many bytes as one frame, which it makes in place if
// they are wsHeader.
func (l *lane) write(b []byte, front int) (int, error) {
	l.used = true
	p := b[front:]
	var err error
	switch {
	case front > 0:
		err = l.send(l.frame(b))
	case l.plain != nil && !l.sess.cfg.Client:
		frame := net.Buffers{appendWSHeader(l.head[:0], opBinary, len(p), nil), p}
		_, err = frame.WriteTo(l.plain)
	default:
		buf := newLaneBuffer(false)
		n := copy(buf.Body(), p)
		err = l.send(l.frame(buf.b[:wsHeader+n]))
		buf.Recycle()
	}
	if err != nil {
		return 0, err
	}
	l.sent += uint64(len(p))
	return len(p), nil
}

// frame makes a frame of what lies in b behind wsHeader bytes.
func (l *lane) frame(b []byte) []byte {
	p := b[wsHeader:]
	var key *maskKey
	if l.sess.cfg.Client {
		key = new(maskKey)
		*key = newMaskKey()
		key.mask(p, 0)
	}
	head := appendWSHeader(l.head[:0], opBinary, len(p), key)
	at := wsHeader - len(head)
	copy(b[at:], head)
	return b[at:]
}

// send writes one frame, through TLS in one system call if the socket takes it.
func (l *lane) send(b []byte) error {
	if l.below == nil {
		_, err := l.conn.Write(b)
		return err
	}
	limit := laneForever
	if at := l.writeLimit(); !at.IsZero() {
		limit = time.Until(at)
	}
	l.below.Begin()
	if _, err := l.conn.Write(b); err != nil {
		return err
	}
	return l.below.Flush(limit)
}

// laneForever is no limit: how long a write takes is the reader's affair. The end of the
// stream, of the lane and of the session end it.
const laneForever = 1000 * time.Hour

// writeLimit returns until when a write has to be done, or zero.
func (l *lane) writeLimit() time.Time {
	if l.backed.Load() {
		return time.Time{}
	}
	return l.st.wd.at()
}

// setWriteDeadline has the connection heed what the stream's deadline is by now: of two calls
// at once neither leaves an older one behind.
func (l *lane) setWriteDeadline() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live {
		_ = l.conn.SetWriteDeadline(l.writeLimit())
	}
}
