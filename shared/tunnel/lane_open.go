package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// dialLane has the client dial a lane for the stream. It does not block.
func (s *Session) dialLane(st *Stream, up bool) {
	lanes := s.cfg.Lanes
	if lanes == nil || lanes.Dial == nil || s.lanesPaused() {
		return
	}
	l, err := s.newLane(st, up)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lanes.dial)
	l.mu.Lock()
	l.stop = cancel
	killed := l.killed
	l.mu.Unlock()
	if killed {
		cancel()
	}
	go func() {
		defer s.laneWork.Done()
		defer cancel()
		conn, err := lanes.Dial(ctx, LaneName{Grant: *lanes.Grant, Stream: st.id, Up: up}.String())
		if err == nil {
			l.attach(conn)
			return
		}
		switch gone := errors.Is(err, ErrLaneGone); {
		case gone && up:
			st.refuseOut()
		case !gone && !l.gone():
			s.laneRefused(err)
		}
		l.kill()
	}()
}

func (s *Session) lanesPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock() < s.noLanes
}

func (s *Session) pauseLanes(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noLanes = max(s.noLanes, s.clock()+d)
}

// laneRefused notes that a lane did not come about.
func (s *Session) laneRefused(err error) {
	errs := &s.cfg.Counters.LaneErrors
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		errs.Timeout.Add(1)
	} else {
		errs.Refused.Add(1)
	}
	s.pauseLanes(lanePause)
}

// gone reports whether the lane was closed on purpose.
func (l *lane) gone() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}

// PendingLane is a lane whose handshake is under way on the server.
type PendingLane struct{ l *lane }

// NewLane registers the lane that a client dials, before the handshake is answered. The
// caller calls Attach or Abandon. Errors are ErrLaneGone, ErrLaneUnknown and
// ErrTooManyLanes.
func (s *Session) NewLane(name LaneName) (*PendingLane, error) {
	lanes := s.cfg.Lanes
	if lanes == nil || s.cfg.Client || !lanes.Grant.proves(name) {
		return nil, ErrLaneUnknown
	}
	st := s.lookup(name.Stream)
	if st == nil {
		return nil, ErrLaneGone
	}
	l, err := s.newLane(st, !name.Up)
	if err != nil {
		return nil, err
	}
	return &PendingLane{l}, nil
}

// Attach hands over the connection below the websocket, and returns when both ends have
// greeted each other on it, or it is closed.
func (p *PendingLane) Attach(conn net.Conn) {
	p.l.attach(conn)
	p.l.sess.laneWork.Done()
}

// Abandon says that the handshake failed.
func (p *PendingLane) Abandon() {
	p.l.kill()
	p.l.sess.laneWork.Done()
}

// attach makes the lane usable, or closes it. The connection belongs to the lane from then
// on.
func (l *lane) attach(conn net.Conn) {
	l.r = laneReader{conn: conn, masked: !l.sess.cfg.Client}
	if l.plain = plainTCP(conn); l.plain == nil && l.sends {
		l.below = newGatherer(conn)
	} else if l.plain == nil {
		l.r.ahead = readAhead(conn)
	}
	l.mu.Lock()
	l.conn = conn
	killed := l.killed
	l.mu.Unlock()
	if killed {
		_ = socket(conn).Close()
		return
	}
	_ = conn.SetDeadline(time.Now().Add(l.sess.cfg.Lanes.dial))
	if err := l.greet(); err != nil {
		l.lost(err, false)
		l.kill()
		return
	}
	if !l.sends {
		l.r.ping = func(data []byte) { l.control(opPong, data) }
	}
	l.mu.Lock()
	if l.live = !l.killed; l.live {
		_ = conn.SetDeadline(time.Time{})
		if l.sends {
			l.timer = time.AfterFunc(l.sess.cfg.Lanes.Idle, l.look)
		} else {
			l.timer = time.AfterFunc(l.beatEvery(), l.beat)
		}
	}
	live := l.live
	l.mu.Unlock()
	switch {
	case !live:
	case !l.sends:
		close(l.ready)
		l.setReadDeadline()
	case !l.sess.goLane(l.watch):
		l.kill()
	default:
		close(l.ready)
		if l.sess.cfg.Client {
			l.usable()
		}
	}
}

// greet finds out whether websocket frames pass in both directions before anything depends
// on it: the client sends a ping, the server a pong, and on a lane "down" the client one,
// too, which the server waits for in watch. Nobody reads beyond the frames of the handshake
// before: a handshake may swallow what comes with it.
func (l *lane) greet() error {
	say := func(opcode byte) error {
		_, err := l.r.conn.Write(appendWSControl(nil, opcode, nil, l.sess.cfg.Client))
		return err
	}
	hear := func(want byte) error {
		for {
			switch opcode, err := l.r.step(true); {
			case err != nil:
				return err
			case opcode == want:
				return nil
			case l.r.left > 0:
				return fmt.Errorf("%w: bytes ahead of the greeting", errLaneFrame)
			}
		}
	}
	if !l.sess.cfg.Client {
		if err := hear(opPing); err != nil {
			return err
		}
		return say(opPong)
	}
	if err := say(opPing); err != nil {
		return err
	}
	if err := hear(opPong); err != nil || l.sends {
		return err
	}
	return say(opPong)
}
