package tunnel

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Stream is one byte connection to one upstream of one client. It is a net.Conn
// whose directions close separately: CloseWrite sends the end of our bytes, Read
// returns io.EOF at the end of the peer's. A stream that breaks returns a
// [*ResetError] (or the session's error), never io.EOF.
//
// Read and Write may be used by one goroutine each; all else by any.
type Stream struct {
	id      uint32
	sess    *Session
	carried carried
	target  Target
	ours    bool // opened here

	readable chan struct{} // capacity 1: something to read, or the state changed
	writable chan struct{} // capacity 1: credit came, or the state changed
	rd, wd   deadline

	mu         sync.Mutex
	head, tail *chunk // received and not yet read
	buffered   int
	filling    bool // the session's reader writes into tail
	win        window
	sink       sink
	offering   bool // see offer.go
	accepted   bool
	finRecv    bool  // the peer's bytes have ended
	finSent    bool  // ours have
	err        error // reset or session error: ends both directions
	local      bool  // err came from here: buffered bytes are of no more interest
	removed    bool  // the session has forgotten the stream
	credit     int64 // what we may send
	handled    int   // who is at work for Config.Handle; the session's lock guards it
	lanes      streamLanes
	hasIn      atomic.Bool // lanes.in is set
	hasOut     atomic.Bool // lanes.out is to be used
	heard      atomic.Bool // the peer said something since we last looked

	wmu      sync.Mutex // one Write at a time
	turn     turn       // guarded by the session's writer
	lastBulk uint64     // number of the batch that holds our last bulk frame; as turn
	bulk     bulk       // guarded by wmu
}

func newStream(s *Session, id uint32, t Target) *Stream {
	return &Stream{
		id: id, sess: s, target: t,
		readable: make(chan struct{}, 1),
		writable: make(chan struct{}, 1),
		win:      openWindow(&s.budget, s.now()),
	}
}

// Target returns what the opener asked for.
func (st *Stream) Target() Target { return st.target }

// Session returns the session that carries the stream.
func (st *Stream) Session() *Session { return st.sess }

// Accept tells the opener that the upstream is connected. Only the side that did
// not open the stream calls it, once, before it writes.
func (st *Stream) Accept() error {
	st.mu.Lock()
	err, size := st.err, st.win.left
	if err == nil && (st.ours || st.accepted) {
		err = errAccept
	}
	if err == nil {
		st.accepted = true
	}
	st.mu.Unlock()
	if err != nil {
		return err
	}
	st.sess.w.control(func(b []byte) []byte {
		return appendUint32Frame(b, frameAccept, st.id, uint32(size))
	})
	return nil
}

var errAccept = errors.New("accept: the stream was opened here, or is accepted already")

func (st *Stream) isAccepted() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.accepted
}

// waitAccepted blocks until the peer has accepted or reset the stream.
func (st *Stream) waitAccepted(ctx context.Context) error {
	for {
		st.mu.Lock()
		ok, err := st.accepted, st.err
		st.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-st.readable:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Read returns bytes of the peer. It implements net.Conn.
func (st *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if st.rd.expired.Load() {
			return 0, os.ErrDeadlineExceeded
		}
		st.mu.Lock()
		n := 0
		for c := st.head; c != nil && n < len(p); c = st.head {
			m := copy(p[n:], c.buf[c.r:c.w])
			n += m
			c.r += m
			if !st.dropLocked() {
				break
			}
		}
		if n > 0 {
			st.consumedLocked(n)
			st.mu.Unlock()
			return n, nil
		}
		err := st.readErrLocked()
		lane := st.lanes.moved
		st.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if lane {
			if n, err := st.readLane(p); n > 0 || err != nil {
				return n, err
			}
			continue
		}
		if err := st.waitReadable(); err != nil {
			return 0, err
		}
	}
}

// WriteTo writes the peer's bytes to w until they end, without a buffer in between.
// It implements io.WriterTo, which io.Copy looks for.
func (st *Stream) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if st.rd.expired.Load() {
			return total, os.ErrDeadlineExceeded
		}
		n, err := st.drain(w)
		total += n
		if err == errOnLane {
			n, _, err = st.pour(pourTo{w: w, progress: func() {}}, math.MaxInt64)
			total += n
			if err == nil {
				continue
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err == nil {
			err = st.waitReadable()
		}
		if err != nil {
			return total, err
		}
	}
}

// Ready reports whether Read would return at once. Who reads asks.
func (st *Stream) Ready() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.lanes.moved && st.buffered == 0 {
		return st.lanes.backed || st.lanes.in.ahead()
	}
	return st.buffered > 0 || st.readErrLocked() != nil
}

// waitReadable returns nil when it is worth looking again.
func (st *Stream) waitReadable() error {
	select {
	case <-st.readable:
		return nil
	case <-st.rd.passed():
		return os.ErrDeadlineExceeded
	}
}

// readErrLocked says why there is nothing to read, or nil if something may come.
func (st *Stream) readErrLocked() error {
	switch {
	case st.local:
		return st.err
	case st.buffered > 0:
		return nil
	case st.lanes.lost:
		return st.err
	case st.lanes.moved:
		return nil
	case st.finRecv: // complete, whatever happened to the stream since
		return io.EOF
	}
	return st.err
}

// dropLocked frees the first chunk if it is used up, and reports whether the next
// one may be looked at.
func (st *Stream) dropLocked() bool {
	c := st.head
	if c == nil || c.r < c.w {
		return false
	}
	if c == st.tail {
		if st.filling {
			return false // the session's reader is about to extend it
		}
		st.tail = nil
	}
	st.head = c.next
	c.free()
	return true
}

// consumedLocked notes that n bytes were read, and returns credit to the peer.
func (st *Stream) consumedLocked(n int) {
	if st.local {
		return // discarded meanwhile
	}
	st.buffered -= n
	if st.win.size == 0 || st.finRecv || st.err != nil {
		st.releaseLocked()
		return
	}
	if grant := st.win.consume(n, &st.sess.budget, st.sess.rttForTuning(), st.sess.now); grant > 0 {
		st.sess.w.control(func(b []byte) []byte {
			return appendUint32Frame(b, frameCredit, st.id, uint32(grant))
		})
	}
}

// releaseLocked gives the window back once the stream is over and read to its end.
func (st *Stream) releaseLocked() {
	if st.removed && (st.buffered == 0 || st.local) {
		st.win.release(&st.sess.budget)
	}
}

// Write sends p. It returns when the bytes are on their way in the session, or an
// error; it waits while the peer's window is used up. It implements net.Conn.
func (st *Stream) Write(p []byte) (int, error) { return st.write(p, 0) }

// WriteBuffer is Write of the first n bytes of the buffer's body, of which nothing may be
// left then.
func (st *Stream) WriteBuffer(buf *Buffer, n int) (int, error) {
	return st.write(buf.b[:buf.front()+n], buf.front())
}

// write is Write of what lies in b behind so many bytes: none, or wsHeader, when a lane may
// make its frames in place.
func (st *Stream) write(b []byte, front int) (total int, err error) {
	st.wmu.Lock()
	defer st.wmu.Unlock()
	for len(b) > front {
		if st.hasOut.Load() {
			l, err := st.enter()
			if err != nil {
				return total, err
			}
			if l != nil {
				n, err := st.writeLane(l, b, front)
				return total + n, err
			}
		}
		n, err := st.takeCredit(min(len(b)-front, bulkData))
		if err != nil {
			return total, err
		}
		if err := st.send(b[front : front+n]); err != nil {
			return total, err
		}
		st.measure(n)
		total += n
		b = b[n:]
	}
	return total, nil
}

// takeCredit waits until at least one byte may be sent and takes up to want.
func (st *Stream) takeCredit(want int) (int, error) {
	for {
		st.mu.Lock()
		switch {
		case st.err != nil:
			err := st.err
			st.mu.Unlock()
			return 0, err
		case st.finSent:
			st.mu.Unlock()
			return 0, io.ErrClosedPipe
		case st.wd.expired.Load():
			st.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case st.credit > 0:
			n := int(min(int64(want), st.credit))
			st.credit -= int64(n)
			st.mu.Unlock()
			return n, nil
		}
		st.mu.Unlock()
		select {
		case <-st.writable:
		case <-st.wd.passed():
		}
	}
}

// send hands one frame to the writer and, if need be, waits for its turn.
func (st *Stream) send(p []byte) error {
	w := st.sess.w
	taken, err := w.data(st, p)
	if err != nil {
		return st.failure(err)
	}
	for !taken {
		over := st.wd.passed()
		select {
		case <-st.turn.done:
			taken = true
			continue
		case <-st.writable: // reset, or a moved deadline, or credit that we do not need now
			st.mu.Lock()
			err = st.err
			st.mu.Unlock()
		case <-over:
			err = os.ErrDeadlineExceeded
		}
		if err == nil {
			continue
		}
		if w.cancel(st) {
			st.mu.Lock()
			st.credit += int64(len(p))
			st.mu.Unlock()
			return err
		}
		<-st.turn.done // it was taken just now: what ended the wait ends the next one
		taken = true
	}
	st.countSent(len(p))
	return nil
}

// failure prefers the reason that the stream knows over the writer's error.
func (st *Stream) failure(err error) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err != nil {
		return st.err
	}
	return err
}

// Err returns why the stream broke, or nil while it works or after a clean end.
func (st *Stream) Err() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.err
}

// poke wakes whoever waits in Read or Write to look at the state again.
func (st *Stream) poke() {
	wake(st.readable)
	wake(st.writable)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// LocalAddr and RemoteAddr name the session's ends, and the stream within it.
func (st *Stream) LocalAddr() net.Addr { return addr{"adit"} }

// RemoteAddr returns the address of the session's peer.
func (st *Stream) RemoteAddr() net.Addr { return st.sess.RemoteAddr() }

type addr struct{ name string }

func (a addr) Network() string { return "adit" }
func (a addr) String() string  { return a.name }

// SetDeadline sets both deadlines. It implements net.Conn.
func (st *Stream) SetDeadline(t time.Time) error {
	_ = st.SetReadDeadline(t)
	return st.SetWriteDeadline(t)
}

// SetReadDeadline bounds Read and WriteTo; also calls that wait already.
func (st *Stream) SetReadDeadline(t time.Time) error {
	st.rd.set(t)
	if st.hasIn.Load() {
		if l := st.laneIn(); l != nil {
			l.setReadDeadline()
		}
	}
	wake(st.readable)
	return nil
}

// SetWriteDeadline bounds Write; also calls that wait already.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	st.wd.set(t)
	if st.hasOut.Load() {
		if l := st.laneOut(); l != nil {
			l.setWriteDeadline()
		}
	}
	wake(st.writable)
	return nil
}
