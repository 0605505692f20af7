package tunnel

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a session needs beyond its carrier. The zero value works for a
// session that opens streams and accepts none.
type Config struct {
	// Client says which side of the connection we are: the client dialled.
	Client bool
	// PingInterval is the time between pings; a peer that is silent for two of them is
	// dead. 15 s if zero.
	PingInterval time.Duration
	// MaxStreams bounds the streams at once, opened by either side, and with them the
	// calls of Handle. 4096 if zero.
	MaxStreams int
	// Budget bounds the receive windows of all streams together, in bytes. 64 MiB if zero.
	Budget int
	// Handle serves a stream that the peer opened, in a goroutine of its own; the
	// session waits for it when it closes. It calls Accept or Reset before it returns.
	// If nil every stream is refused.
	Handle func(*Stream)
	// GoAway, if set, is called once when the peer announces that it leaves. It must
	// not block.
	GoAway func(GoAway)
	// Health, if set, is called when the peer tells which of its upstreams wait, the set
	// being the caller's to keep. It must not block.
	Health func(Waiting)
	// Lanes, if set, lets bulky streams leave the session for websockets of their own.
	Lanes *Lanes
	// Counters, if set, count the payload of DATA, live. Several sessions may share them.
	Counters *Counters
}

// Counters count bytes carried and streams. They may be read at any time.
type Counters struct {
	Received, Sent  atomic.Uint64 // payload bytes of DATA
	Streams, Active atomic.Int64  // streams begun, and streams open now
	Lanes           atomic.Int64  // open now, or being dialled
	Moves           atomic.Uint64 // of a stream's direction to a lane
	LaneErrors      LaneErrors
}

// LaneErrors count lanes that did not come about or broke, by reason.
type LaneErrors struct {
	Refused atomic.Uint64 // by the peer, or something between
	Timeout atomic.Uint64 // the handshake took too long
	Full    atomic.Uint64 // a limit was reached
	Broken  atomic.Uint64 // while bytes were on them, and with them their stream
}

// Session is one connected client as either side sees it: streams over a carrier.
// All methods may be called by any goroutine.
type Session struct {
	carrier Carrier
	cfg     Config
	w       *writer
	budget  budget
	began   time.Time    // the origin of clock
	heard   atomic.Int64 // when the peer last sent something, by clock
	missed  atomic.Int64 // when the peer last let a deadline pass, by clock
	rtt     rttMeter
	pinger  *time.Timer

	remeasured atomic.Int64 // when remeasure sent a ping, by clock

	mu        sync.Mutex
	streams   map[uint32]*Stream
	serving   map[*Stream]struct{} // over and out of streams, but the handler is still busy
	nextID    uint32
	leaving   bool          // GOAWAY was sent or received
	dismissed bool          // GOAWAY was received: no new streams
	told      bool          // Config.GoAway was called
	empty     bool          // drained is closed
	drained   chan struct{} // closed when leaving and without streams
	err       error

	reluctance atomic.Int32 // see judge

	lanes    map[*lane]struct{}
	trailing int           // lanes whose stream is over
	noLanes  time.Duration // none is dialled before, by clock

	handlers sync.WaitGroup // Config.Handle calls
	loops    sync.WaitGroup // reader and writer
	laneWork sync.WaitGroup // whatever a lane does by itself
	done     chan struct{}  // closed when the session has ended
}

// New starts a session on a carrier, which the session owns from then on. The
// caller must Close it.
func New(c Carrier, cfg Config) *Session {
	if cfg.PingInterval <= 0 {
		cfg.PingInterval = 15 * time.Second
	}
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = 4096
	}
	if cfg.Budget <= 0 {
		cfg.Budget = defaultBudget
	}
	if cfg.Counters == nil {
		cfg.Counters = new(Counters)
	}
	if cfg.Lanes != nil {
		lanes := *cfg.Lanes
		lanes.setDefaults()
		cfg.Lanes = &lanes
	}
	s := &Session{
		carrier: c, cfg: cfg,
		// A peer whose link is so slow that one batch takes this long is of no use; one
		// that is gone is noticed by its silence before.
		w:       newWriter(c, max(4*cfg.PingInterval, leastWriteTimeout)),
		began:   time.Now(),
		budget:  newBudget(cfg.Budget),
		streams: make(map[uint32]*Stream),
		serving: make(map[*Stream]struct{}),
		nextID:  2,
		done:    make(chan struct{}),
		drained: make(chan struct{}),
	}
	if cfg.Client {
		s.nextID = 1
	}
	s.w.flooded = func() { s.end(s.w.reason()) }
	s.mu.Lock()                          // the timer needs itself
	s.pinger = time.AfterFunc(0, s.ping) // at once: the round trip is wanted early
	s.mu.Unlock()
	trims.add()
	s.loops.Go(func() { s.end(s.read()) })
	s.loops.Go(s.write)
	return s
}

// write runs the writer. When Close has ended the session what was pending is sent,
// and then the carrier's last word; the peer answers that by closing.
func (s *Session) write() {
	err := s.w.run()
	if err == nil {
		err = s.carrier.CloseWrite()
	}
	if err == nil {
		return
	}
	var ended *SessionError
	if errors.As(err, &ended) && ended.Err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		// The peer is gone, but what it sent before may lie here unread: the reader comes
		// to the end by itself.
		timer := time.NewTimer(closeTimeout)
		defer timer.Stop()
		select {
		case <-s.done:
		case <-timer.C:
		}
	}
	s.end(lost(err))
	if s.Err() == ErrClosed { // otherwise end closes the carrier, with the reason
		_ = s.carrier.Close("")
	}
}

const (
	// leastWriteTimeout bounds the write of one batch however short the ping interval is.
	leastWriteTimeout = 30 * time.Second
	// closeTimeout bounds how long Close waits for pending bytes and for the peer's answer,
	// and how long the reader goes on when the writer has failed.
	closeTimeout = 3 * time.Second
)

// Open asks the peer to connect an upstream and waits until it has, or refuses with
// a [*ResetError], or ctx ends: ErrOpenTimeout at its deadline. The stream belongs to
// the caller, who must Close it.
func (s *Session) Open(ctx context.Context, t Target) (*Stream, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	switch {
	case s.err != nil:
		s.mu.Unlock()
		return nil, s.err
	case s.dismissed:
		s.mu.Unlock()
		return nil, ErrGoingAway
	case s.countLocked() >= s.cfg.MaxStreams:
		s.mu.Unlock()
		return nil, ErrTooManyStreams
	}
	for s.nextID == 0 || s.streams[s.nextID] != nil { // after 2³¹ streams the numbers come again
		s.nextID += 2
	}
	st := newStream(s, s.nextID, t)
	st.ours = true
	s.nextID += 2
	window := st.win.left
	s.addLocked(st)
	// With the lock held, so that the order on the wire is that of the decisions.
	s.w.control(func(b []byte) []byte { return appendOpen(b, st.id, window, t) })
	s.mu.Unlock()
	if err := st.waitAccepted(ctx); err != nil {
		st.Reset(CodeCancelled, "no longer wanted")
		if ctx.Err() == context.DeadlineExceeded && err == context.Cause(ctx) {
			s.Missed()
			err = ErrOpenTimeout
		}
		return nil, err
	}
	return st, nil
}

// opened serves a stream that the peer asks for.
func (s *Session) opened(id, window uint32, t Target) error {
	theirs := uint32(1)
	if s.cfg.Client {
		theirs = 0
	}
	if id%2 != theirs {
		return protocolErrorf("OPEN of stream %d, a number of ours", id)
	}
	if window > maxCredit {
		return protocolErrorf("OPEN of stream %d: a window of %d bytes", id, window)
	}
	refuse := func(code Code, reason string) {
		s.w.control(func(b []byte) []byte { return appendReset(b, id, code, reason) })
	}
	s.mu.Lock()
	switch {
	case s.streams[id] != nil:
		s.mu.Unlock()
		return protocolErrorf("OPEN of stream %d, which is open", id)
	case s.err != nil:
		s.mu.Unlock()
		return nil
	case s.cfg.Handle == nil:
		s.mu.Unlock()
		refuse(CodeNoUpstream, "this side accepts no streams")
		return nil
	case s.countLocked() >= s.cfg.MaxStreams:
		s.mu.Unlock()
		refuse(CodeOverload, "too many streams on the session")
		return nil
	}
	st := newStream(s, id, t)
	st.credit, st.handled = int64(window), 1
	s.addLocked(st)
	s.handlers.Add(1)
	s.mu.Unlock()
	go s.serve(st)
	return nil
}

// serve calls the handler of a stream.
func (s *Session) serve(st *Stream) {
	s.cfg.Handle(st)
	if !st.isAccepted() {
		st.Reset(CodeInternal, "the handler neither accepted nor refused")
	}
	s.handled(st)
}

// handled is called when the handler of a stream has returned, and for each Hold.
func (s *Session) handled(st *Stream) {
	s.mu.Lock()
	st.handled--
	over := st.handled == 0
	if over {
		delete(s.serving, st)
		s.checkDrainedLocked()
	}
	s.mu.Unlock()
	if over {
		s.handlers.Done()
	}
}

// Hold has the session take its Handle for being at work on the stream until release is
// called, once, also if it returns before. Only Handle may call it.
func (st *Stream) Hold() (release func()) {
	st.sess.mu.Lock()
	st.handled++
	st.sess.mu.Unlock()
	return func() { st.sess.handled(st) }
}

// countLocked is the number of streams: a peer that opens and resets in a loop must
// not start handlers without bound, so those that still run count.
func (s *Session) countLocked() int { return len(s.streams) + len(s.serving) + s.trailing }

func (s *Session) addLocked(st *Stream) {
	s.streams[st.id] = st
	s.cfg.Counters.Streams.Add(1)
	s.cfg.Counters.Active.Add(1)
}

// forget takes a stream that is over out of the table.
func (s *Session) forget(st *Stream) {
	s.trail(st)
	s.mu.Lock()
	known := s.streams[st.id] == st
	if known {
		delete(s.streams, st.id)
		if st.handled > 0 {
			s.serving[st] = struct{}{}
		}
		s.checkDrainedLocked()
	}
	s.mu.Unlock()
	if !known {
		return
	}
	s.cfg.Counters.Active.Add(-1)
	st.mu.Lock()
	st.removed = true
	st.releaseLocked()
	st.mu.Unlock()
}

// served returns the streams that are over and have a handler at work.
func (s *Session) served() []*Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.serving))
}

func (s *Session) lookup(id uint32) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[id]
}

// Streams returns how many streams are open or still have a handler at work: at zero
// all that came for the handlers has been dealt with.
func (s *Session) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.countLocked()
}

// Done is closed when the session has ended; Err then says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns nil while the session lives, ErrClosed after Close, and otherwise a
// [*SessionError] with the reason.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// RemoteAddr returns the address of the peer's end of the carrier.
func (s *Session) RemoteAddr() net.Addr { return s.carrier.RemoteAddr() }

// Close ends the session and all its streams at once, and waits for its goroutines
// and for the streams' handlers. What streams that are over have sent still reaches a
// peer that reads, so that whoever waits for Streams to be zero loses nothing; this
// takes three seconds at most. It must not be called from a handler.
func (s *Session) Close() error {
	s.end(ErrClosed)
	for _, st := range s.served() {
		st.abort(ErrClosed, true) // perhaps it still hands on the last bytes
	}
	cut := time.AfterFunc(closeTimeout, func() { _ = s.carrier.Close("") })
	s.loops.Wait()
	cut.Stop()
	_ = s.carrier.Close("")
	s.endLanes()
	s.laneWork.Wait()
	s.handlers.Wait()
	return nil
}

// end makes err the end of the session; only the first call counts. Unless it is
// Close that ends it the carrier is closed too.
func (s *Session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	streams := s.streams
	s.streams = make(map[uint32]*Stream)
	for _, st := range streams {
		if st.handled > 0 {
			s.serving[st] = struct{}{}
		}
	}
	s.mu.Unlock()

	closed := err == ErrClosed
	if closed {
		s.w.finish(err)
	} else {
		s.w.fail(err)
	}
	for _, st := range streams {
		s.cfg.Counters.Active.Add(-1)
		st.mu.Lock()
		st.removed = true
		st.mu.Unlock()
		st.abort(err, closed)
	}
	s.pinger.Stop()
	s.endLanes()
	trims.remove()
	close(s.done)
	if closed {
		return
	}
	reason := ""
	var ended *SessionError
	if errors.As(err, &ended) && ended.Err == nil { // a fault that the peer should hear of
		reason = ended.Reason
	}
	_ = s.carrier.Close(reason)
}

func (s *Session) now() time.Time { return time.Now() }
