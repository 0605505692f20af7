package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

const (
	// leaveGrace is how long a session without streams is kept for the server to end it:
	// streams that it opened before it heard of our leaving may be under way.
	leaveGrace = time.Second
	// maxDepartures bounds the sessions that are left and not yet over.
	maxDepartures = 16
)

var (
	errGoAway  = errors.New("the server is leaving")
	errRenewed = errors.New("the token, the licence or who may visit has changed")
)

// leave tells the server that we go and waits for what is under way.
func (a *Agent) leave(s *tunnel.Session) {
	s.GoAway(tunnel.GoAway{Reason: "the client is shutting down"})
	a.log.Info().Int("streams", s.Streams()).Stringer("at_most", a.cfg.Drain).Msg("draining")
	a.finish(s)
}

// depart begins to leave a session because the server asks for it, and returns when to
// connect again. The session goes on until its successor is there and its streams have
// ended.
func (a *Agent) depart(ctx context.Context, left *departures, s *tunnel.Session, g tunnel.GoAway, b *backoff) time.Duration {
	wait := b.afterGoAway(g)
	a.cfg.Metrics.reconnected(errGoAway)
	event, message := a.log.Info(), "server is leaving"
	switch g.Code {
	case tunnel.CodeNone:
	case tunnel.CodeDenied:
		event, message = a.log.Warn(), "the server does not let this connection stay"
	default: // not in the course of things
		event, message = a.log.Warn(), "connection lost"
	}
	event.Str("reason", g.Reason).Int("streams", s.Streams()).Stringer("reconnect_in", wait.Round(time.Millisecond)).Msg(message)
	left.add(s, func(successor <-chan struct{}) {
		select { // make before break
		case <-successor:
		case <-s.Done():
		case <-ctx.Done():
		}
		if ctx.Err() == nil && a.quiet(s, ctx.Done()) { // the server sets the limit
			_ = s.Close()
			return
		}
		a.leave(s)
	})
	return wait
}

// finish closes a session when its streams have ended, at the latest after Config.Drain.
func (a *Agent) finish(s *tunnel.Session) {
	limit := make(chan struct{})
	timer := time.AfterFunc(a.cfg.Drain, func() { close(limit) })
	defer timer.Stop()
	if !a.quiet(s, limit) {
		if n := s.Streams(); n > 0 {
			a.log.Warn().Int("streams", n).Msg("drain cut off")
		}
	}
	_ = s.Close()
}

// quiet waits until the session carries nothing any more, and reports false if the limit
// came before. The server, which opens the streams, knows when that is, and ends the
// session; one that does not is given a moment.
func (a *Agent) quiet(s *tunnel.Session, limit <-chan struct{}) bool {
	select {
	case <-s.Drained():
	case <-limit:
		return s.Streams() == 0
	}
	grace := time.NewTimer(a.delays.grace)
	defer grace.Stop()
	select {
	case <-s.Done():
	case <-grace.C:
	case <-limit:
		return s.Streams() == 0
	}
	for s.Streams() > 0 { // they came late
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-timer.C:
		case <-limit:
			timer.Stop()
			return s.Streams() == 0
		}
	}
	return true
}

// departures are the sessions that are being left. They belong to one goroutine.
type departures struct {
	work      sync.WaitGroup
	slots     chan struct{}
	successor chan struct{} // closed when the session that comes after the last one is there
}

// add has do see the session off, which must close it.
func (d *departures) add(s *tunnel.Session, do func(successor <-chan struct{})) {
	if d.slots == nil {
		d.slots = make(chan struct{}, maxDepartures)
	}
	select {
	case d.slots <- struct{}{}:
	default: // a server that sends us away again and again, and ends nothing
		_ = s.Close()
		return
	}
	successor := make(chan struct{})
	d.successor = successor
	d.work.Go(func() {
		defer func() { <-d.slots }()
		do(successor)
	})
}

// succeeded tells the last one that it has a successor.
func (d *departures) succeeded() {
	if d.successor != nil {
		close(d.successor)
		d.successor = nil
	}
}

func (d *departures) wait() { d.work.Wait() }
