package tunnel

import (
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-tunnel/adit/shared/rawio"
)

// Relay joins a stream and a connection until both directions have ended or either
// broke, and closes both. Half-closes pass in both directions; a stream that breaks
// resets the connection, and a connection that breaks resets the stream, so that a
// cut is never taken for an end. It returns nil after a clean end.
//
// conn should have a CloseWrite method, or its peer does not learn of the stream's end
// before the connection is closed. What wraps a socket should have a NetConn method that
// returns it, as tls.Conn has, or a break can only close it.
//
// That a peer is gone without a word is found out as TCP does: Relay turns its keep-alive on,
// at the latest when the connection is silent. Who opens conn need not do it.
//
// linger bounds, if it is positive, how long the other direction may stay silent
// after one has ended.
func Relay(st *Stream, conn net.Conn, linger time.Duration) error {
	over := make(chan error, 1)
	RelayFunc(st, conn, linger, func(err error) { over <- err })
	return <-over
}

// RelayFunc is Relay, but calls done with what Relay would return, and returns also when the
// relay has come to rest: then done is called in a goroutine of its own, later. A connection
// over which nothing passes so has no goroutine at all, where the system allows it. Who
// wants to end it must reset the stream: that the connection is closed goes unnoticed
// meanwhile.
func RelayFunc(st *Stream, conn net.Conn, linger time.Duration, done func(error)) {
	newRelay(st, conn, linger, done).start()
}

func newRelay(st *Stream, conn net.Conn, linger time.Duration, done func(error)) *relay {
	r := &relay{st: st, conn: conn, linger: linger, done: done, restAfter: restAfter}
	r.raw, r.direct = newRawConn(conn)
	return r
}

func (r *relay) start() {
	r.st.setSink(r)
	r.run()
}

// run carries the connection's bytes, and sees the relay to its end.
func (r *relay) run() {
	if !r.fromConn() {
		return // wake begins another one
	}
	if over := r.unended(); over != nil {
		<-over
	}
	r.tasks.Wait()
	err := r.finish()
	_ = r.conn.Close()
	_ = r.st.Close()
	r.done(err)
}

// cutLinger is the linger, if no other is set, of a relay whose stream is gone and that
// only hands on what had come.
const cutLinger = time.Minute

// relay is the state of one Relay. As the stream's sink it writes received bytes to
// the socket in place, on the session's reader, without blocking; what the socket does
// not take is left to a goroutine that lives until the queue is empty. A connection
// that has no socket to write to (TLS, say) always uses that goroutine.
type relay struct {
	st     *Stream
	conn   net.Conn
	raw    rawConn
	direct bool // raw can be used

	bulky bool // the last read found a lot
	wide  bool // the next buffer for a lane
	pace  rawio.Pace

	linger    time.Duration
	restAfter time.Duration
	moved     atomic.Bool // bytes moved, see movedLocked
	done      func(error)

	mu       sync.Mutex
	timer    *time.Timer   // of the linger, once one direction has ended
	err      error         // the first thing that broke
	ending   bool          // the stream's direction has ended
	over     chan struct{} // closed with it; nil before somebody waits
	finished bool          // the relay is over
	rest     rest
	tasks    sync.WaitGroup
}

// unended returns a channel that is closed when the stream's direction ends, or nil if it
// has ended.
func (r *relay) unended() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ending {
		r.over = make(chan struct{})
	}
	return r.over
}

func (r *relay) take(p []byte) int {
	r.moved.Store(true)
	if !r.direct {
		return 0
	}
	n, err := r.raw.tryWrite(p)
	if err != nil {
		r.broke(err)
		return len(p) // nobody wants the rest
	}
	return n
}

func (r *relay) blocked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending {
		return
	}
	r.tasks.Go(func() {
		_, err := r.st.drain(writerFunc(r.write))
		if err == errOnLane {
			_, _, err = r.st.pour(pourTo{conn: r.conn, w: writerFunc(r.write), progress: r.progress}, math.MaxInt64)
		}
		switch err {
		case nil: // back to take
		case io.EOF:
			r.ended(nil)
		default: // of the connection, or of the stream, which then knows already
			r.broke(err)
		}
	})
}

func (r *relay) progress() { r.moved.Store(true) }

// writeStep is how much is written at once to a connection that does not tell how far it
// is, in bytes: little enough for the linger to see that a slow one moves.
const writeStep = 16 << 10

// write writes to the connection and may wait.
func (r *relay) write(p []byte) (total int, err error) {
	if r.direct {
		return r.raw.write(p, r.progress)
	}
	for len(p) > 0 && err == nil {
		var n int
		n, err = r.conn.Write(p[:min(len(p), writeStep)])
		if n > 0 {
			r.moved.Store(true)
		}
		total += n
		p = p[n:]
	}
	return total, err
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// ended passes the end of the stream's bytes, clean or not, to the connection.
func (r *relay) ended(err error) {
	r.mu.Lock()
	if r.finished {
		r.mu.Unlock()
		return
	}
	first, over := !r.ending, r.over
	r.ending = true
	if r.err == nil {
		r.err = err
	}
	if first && err == nil && !r.direct {
		r.tasks.Go(r.closeWrite) // TLS has something to write for that
	}
	r.mu.Unlock()
	switch {
	case err != nil && first:
		abort(r.conn)
	case err != nil:
		// The connection was told of the clean end of what it receives, or has been
		// aborted: what the socket holds may still leave.
		_ = socket(r.conn).Close()
	case first && r.direct && over == nil: // else run is about to close it
		r.closeWrite()
	}
	if first {
		if over != nil {
			close(over)
		}
		r.halfEnded()
	}
	if err != nil {
		r.wake()
	}
}

// keepAlive has the system probe the connection when nothing passes over it.
func (r *relay) keepAlive() {
	if c, ok := socket(r.conn).(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok {
		_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true})
	}
}

func (r *relay) closeWrite() {
	if c, ok := r.conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // fails when the peer is gone: fromConn finds out
	}
}

// cut stops the connection's direction; the stream's goes on until the queue is empty.
func (r *relay) cut(err error) {
	r.fault(err)
	_ = r.conn.SetReadDeadline(time.Unix(1, 0)) // wakes fromConn
	r.mu.Lock()
	if r.linger <= 0 {
		r.linger = cutLinger
	}
	r.mu.Unlock()
	r.halfEnded()
	r.wake()
}

// broke resets both sides because the connection broke.
func (r *relay) broke(err error) {
	r.fault(err)
	r.st.Reset(CodeBroken, "the connection behind the stream broke off")
	r.ended(err)
}

// fault notes the first thing that broke.
func (r *relay) fault(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

// fromConn carries the connection's bytes to the stream until they end. It reports false
// if the relay has come to rest before.
func (r *relay) fromConn() bool {
	err := r.copyOrRest()
	switch {
	case err == errResting:
		return false
	case err == io.EOF:
		_ = r.st.CloseWrite()
		r.halfEnded()
	case r.st.Err() != nil: // ended or cut has been told
	default:
		r.broke(err)
	}
	return true
}

// copyIn returns io.EOF at the end of the connection's bytes.
func (r *relay) copyIn() error {
	for {
		if r.direct && r.st.splices() {
			switch _, err := r.st.spliceFrom(r.conn, math.MaxInt64, r.progress); err {
			case nil, errNoSplice:
			default:
				return err
			}
		}
		buf, n, err := r.read()
		if n > 0 {
			r.moved.Store(true)
			if _, werr := r.st.WriteBuffer(buf, n); werr != nil {
				err = werr // and not an end that came with the bytes
			}
		}
		if buf != nil {
			buf.Recycle()
		}
		if err != nil {
			return err
		}
	}
}

// read returns what the connection has, in the body of a buffer of a pool. While it is
// idle a socket waits without a buffer, others with a small one.
func (r *relay) read() (buf *Buffer, n int, err error) {
	onLane := r.st.hasOut.Load()
	if onLane {
		defer func() { r.wide = wideNext(&r.pace, n) }()
	}
	if r.direct {
		return r.raw.read(onLane, r.wide)
	}
	switch {
	case r.bulky && onLane:
		buf = newLaneBuffer(r.wide)
	case r.bulky:
		buf = copyPool.Get().(*Buffer)
	default:
		buf = idlePool.Get().(*Buffer)
	}
	n, err = r.conn.Read(buf.Body())
	r.bulky = n >= idleSize
	return buf, n, err
}

var errHalfClosed = errors.New("half-closed and silent for too long")

// halfEnded starts the linger: from now on silence breaks the relay.
func (r *relay) halfEnded() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.linger <= 0 || r.timer != nil || r.finished {
		return
	}
	r.movedLocked(&r.rest.forLinger)
	r.timer = time.AfterFunc(r.linger, r.look)
}

// look is the linger's turn.
func (r *relay) look() {
	r.mu.Lock()
	silent := !r.finished && !r.movedLocked(&r.rest.forLinger)
	if !r.finished && !silent {
		r.timer.Reset(r.linger)
	}
	r.mu.Unlock()
	if silent {
		r.broke(errHalfClosed)
	}
}

// finish returns what broke, and lets nothing happen any more.
func (r *relay) finish() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finished = true
	if r.timer != nil {
		r.timer.Stop()
	}
	return r.err
}

// abort closes conn so that its peer sees a reset, where the transport can.
func abort(conn net.Conn) {
	conn = socket(conn)
	if c, ok := conn.(interface{ SetLinger(int) error }); ok {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}

// socket returns what lies below conn: closing TLS would first say that this is the
// end, and might wait to say it.
func socket(conn net.Conn) net.Conn {
	for {
		c, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = c.NetConn()
	}
}
