package tunnel

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// Lanes is what a session needs to let bulky streams travel on websockets of their own.
// Both peers must have said CapabilityLanes, and hold the same grant.
type Lanes struct {
	Grant *LaneGrant
	// Dial makes the websocket handshake of a lane with this value of the Adit-Lane header
	// and returns what lies below the websocket, of which nothing was read beyond the
	// handshake. Only a client has it. An error that is ErrLaneGone concerns the stream
	// only; after any other no lane is tried for a while.
	Dial func(ctx context.Context, name string) (net.Conn, error)
	// Masked has the client mask all frames with random keys, for a proxy on the way that may
	// look at them: then the kernel cannot move bytes to a lane.
	Masked bool
	// Most bounds the lanes of the session at once; 8 if zero.
	Most int
	// Total bounds the lanes of all sessions that share the Counters; 0 for no limit.
	Total int
	// After is how many bytes in one direction make a stream bulky; 1 MiB if zero.
	After int
	// Idle is how long a lane may carry nothing until its stream goes back to the session;
	// 10 s if zero. Middle boxes cut what is silent for longer.
	Idle time.Duration

	grace time.Duration // laneGrace, shorter in tests
	dial  time.Duration // laneDial, the same
}

// CapabilityLanes in a Hello says that the peer knows lanes and has them switched on.
const CapabilityLanes = "lanes"

// Errors of NewLane and Lanes.Dial that callers branch on.
var (
	// ErrLaneGone says that the stream has ended or needs no lane any more.
	ErrLaneGone = errors.New("the stream has no use for a lane any more")
	// ErrLaneUnknown says that a lane does not belong to the session.
	ErrLaneUnknown = errors.New("no such session")
	// ErrTooManyLanes says that the session's limit is reached.
	ErrTooManyLanes = errors.New("too many lanes on the session")
)

const (
	laneMost  = 8
	laneAfter = 1 << 20
	laneIdle  = 10 * time.Second
	// laneDial bounds a handshake, and what comes right behind it.
	laneDial = 20 * time.Second
	// lanePause is how long no lane is tried after one was refused.
	lanePause = time.Minute
	// laneBrokenPause is the same after one broke while it was in use, which a stream pays for.
	laneBrokenPause = 10 * time.Minute
	// laneGrace is how long a lane that broke waits for the session to say why.
	laneGrace = 2 * time.Second
	// laneBeat is how often a receiver shows a sign of life, and lanePatience how long the
	// sender waits for one.
	laneBeat     = 15 * time.Second
	lanePatience = 4 * laneBeat
	// laneControl bounds the write of a control frame by the receiver, who sends nothing else.
	laneControl = 5 * time.Second
)

func (l *Lanes) setDefaults() {
	if l.Most <= 0 {
		l.Most = laneMost
	}
	if l.After <= 0 {
		l.After = laneAfter
	}
	if l.grace <= 0 {
		l.grace = laneGrace
	}
	if l.dial <= 0 {
		l.dial = laneDial
	}
	if l.Idle <= 0 {
		l.Idle = laneIdle
	}
}

// lane is a websocket of its own for one direction of one stream.
type lane struct {
	sess  *Session
	st    *Stream
	sends bool          // our bytes, rather than the peer's
	ready chan struct{} // closed: both ends have greeted each other on it
	over  chan struct{} // closed: the lane is closed, see kill
	stop  context.CancelFunc

	mu     sync.Mutex // may be taken with no other lock but wmu held
	conn   net.Conn
	live   bool // ready is closed, or about to
	killed bool
	timer  *time.Timer // of a sender's look, or a receiver's beat

	blame    sync.Once
	trailing bool // the stream is over but for this lane; the session's lock guards it

	laneSender
	laneReceiver
}

// streamLanes is what a stream knows of lanes. The stream's lock guards all but the
// atomics.
type streamLanes struct {
	in, out *lane
	moved   bool   // MOVE came: behind what is queued the peer's bytes are on the lane
	backed  bool   // BACK came
	total   uint64 // what it said
	lost    bool   // bytes on the lane will never come, and err says why
	refused bool   // the server has no use for a lane of our bytes: it is not asked again
}

// newLane registers a lane for a stream; the goroutine that the caller starts for it, or
// is itself, calls laneWork.Done. A lane that is not attached must be killed.
func (s *Session) newLane(st *Stream, sends bool) (*lane, error) {
	l := &lane{sess: s, st: st, sends: sends, ready: make(chan struct{}), over: make(chan struct{})}
	s.mu.Lock()
	switch {
	case s.cfg.Lanes == nil || s.err != nil:
		s.mu.Unlock()
		return nil, ErrLaneGone
	case len(s.lanes) >= s.cfg.Lanes.Most || !s.countLane():
		s.mu.Unlock()
		s.cfg.Counters.LaneErrors.Full.Add(1)
		return nil, ErrTooManyLanes
	}
	if s.lanes == nil {
		s.lanes = make(map[*lane]struct{})
	}
	s.lanes[l] = struct{}{}
	s.laneWork.Add(1)
	s.mu.Unlock()

	st.mu.Lock()
	ok := st.err == nil && !st.removed
	switch {
	case sends && ok && !st.finSent && st.lanes.out == nil:
		st.lanes.out = l
	case !sends && ok && !st.finRecv && st.lanes.in == nil:
		st.lanes.in = l
		st.hasIn.Store(true)
	default:
		ok = false
	}
	st.mu.Unlock()
	if !ok {
		l.kill()
		s.laneWork.Done()
		return nil, ErrLaneGone
	}
	return l, nil
}

// countLane counts a lane, unless there are too many in all.
func (s *Session) countLane() bool {
	n, most := s.cfg.Counters.Lanes.Add(1), s.cfg.Lanes.Total
	if most > 0 && n > int64(most) {
		s.cfg.Counters.Lanes.Add(-1)
		return false
	}
	return true
}

// goLane starts a goroutine that the session waits for; false if it has ended.
func (s *Session) goLane(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	s.laneWork.Go(f)
	return true
}

// again sets the lane's timer anew.
func (l *lane) again(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.killed {
		l.timer.Reset(d)
	}
}

// kill closes the lane at once. It is called with no lock held but wmu.
func (l *lane) kill() {
	l.mu.Lock()
	if l.killed {
		l.mu.Unlock()
		return
	}
	l.killed = true
	conn, stop, timer, live := l.conn, l.stop, l.timer, l.live
	l.mu.Unlock()
	if live && l.sends {
		sent := int64(0)
		if l.moved.Load() {
			sent = l.st.carried.sent.Load() - l.before.Load()
		}
		l.sess.judge(sent)
	}
	close(l.over)
	if stop != nil {
		stop()
	}
	if timer != nil {
		timer.Stop()
	}
	if conn != nil {
		_ = socket(conn).Close() // TLS has nothing to say: the frames do
	}
	s, st := l.sess, l.st
	st.mu.Lock()
	// What was announced stays, for whoever is on it finds out.
	if st.lanes.out == l && l.state < laneMoved {
		st.dropOutLocked()
	}
	if st.lanes.in == l && !st.lanes.moved {
		st.dropInLocked()
	}
	st.mu.Unlock()
	s.mu.Lock()
	delete(s.lanes, l)
	if l.trailing {
		s.trailing--
	}
	s.checkDrainedLocked()
	s.mu.Unlock()
	s.cfg.Counters.Lanes.Add(-1)
}

// killUnused closes a lane on which nothing was sent, and nothing will be.
func (l *lane) killUnused() {
	st := l.st
	st.mu.Lock()
	unused := l.sends && l.state < laneMoved || !l.sends && st.lanes.in == l && !st.lanes.moved
	st.mu.Unlock()
	if unused {
		l.kill()
	}
}

func (st *Stream) dropOutLocked() {
	st.lanes.out = nil
	st.hasOut.Store(false)
}

func (st *Stream) dropInLocked() {
	st.lanes.in, st.lanes.moved, st.lanes.backed = nil, false, false
	st.hasIn.Store(false)
}

// killLanes closes the lanes of the stream: incoming if nobody reads on, outgoing unless
// our bytes on it are complete.
func (st *Stream) killLanes(in bool, out bool) {
	if !st.hasIn.Load() && !st.anyOut() {
		return
	}
	st.mu.Lock()
	var list [2]*lane
	if in {
		list[0] = st.lanes.in
		st.lanes.lost = st.lanes.lost || st.lanes.moved
	}
	if l := st.lanes.out; out && l != nil {
		list[1] = l
	}
	st.mu.Unlock()
	for _, l := range list {
		if l != nil {
			l.kill()
		}
	}
}

// anyOut reports whether the stream has a lane for our bytes, or will get none.
func (st *Stream) anyOut() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.lanes.out != nil || st.lanes.refused
}

func (st *Stream) refuseOut() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.lanes.refused = true
}

// trail has the session count the lanes of a stream that is over while bytes may be on
// them, and closes those that were not used.
func (s *Session) trail(st *Stream) {
	st.mu.Lock()
	in, out := st.lanes.in, st.lanes.out
	inUsed, outUsed := st.lanes.moved, out != nil && out.state >= laneMoved
	inBusy := inUsed && st.finRecv && !st.local
	outBusy := outUsed && (out.state == laneBacked || st.finSent) // BACK was said, or is about to be
	st.mu.Unlock()
	if in == nil && out == nil {
		return
	}
	s.mu.Lock()
	for l, busy := range map[*lane]bool{in: inBusy, out: outBusy} {
		if _, open := s.lanes[l]; open && busy && !l.trailing {
			l.trailing = true
			s.trailing++
		}
	}
	s.mu.Unlock()
	if in != nil && !inUsed {
		in.kill()
	}
	if out != nil && !outUsed {
		out.kill()
	}
}

// endLanes closes all lanes of the session.
func (s *Session) endLanes() {
	s.mu.Lock()
	list := make([]*lane, 0, len(s.lanes))
	for l := range s.lanes {
		list = append(list, l)
	}
	s.mu.Unlock()
	for _, l := range list {
		l.kill()
	}
}

// OnLane reports whether the stream has a lane in either direction, or is about to.
func (st *Stream) OnLane() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.lanes.in != nil || st.lanes.out != nil
}

func (st *Stream) laneIn() *lane {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.lanes.in
}

func (st *Stream) laneOut() *lane {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.lanes.out
}
