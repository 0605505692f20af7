package agent

import (
	"context"
	"encoding/json"
	"time"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// maxSpread bounds the time over which the clients of a server renew their sessions.
const maxSpread = 30 * time.Second

// predecessor is a session that serves until its successor is there, however often the
// attempts at that fail. The zero value is none.
type predecessor struct {
	session *tunnel.Session
	goAway  <-chan tunnel.GoAway
}

// changed returns what is closed when the token or the licence changes.
func (a *Agent) changed() <-chan struct{} {
	if a.cfg.Changed == nil {
		return nil
	}
	return a.cfg.Changed()
}

func (a *Agent) license() string {
	if a.cfg.License == nil {
		return ""
	}
	return a.cfg.License()
}

// access returns who may visit, nil for everybody.
func (a *Agent) access() json.RawMessage {
	if a.cfg.Access == nil {
		return nil
	}
	return a.cfg.Access()
}

// renew begins to replace a session because there is a new token or licence, or other visitors are to be let in, and returns
// when to make the first attempt. The session goes on until its successor is there and its
// streams have ended.
func (a *Agent) renew(ctx context.Context, left *departures, s *tunnel.Session) time.Duration {
	wait := jitter(min(a.returnOver, maxSpread)) // the others may have new ones, too
	a.cfg.Metrics.reconnected(errRenewed)
	a.log.Info().Stringer("in", wait.Round(time.Millisecond)).Msg("renewing the connection with the new credentials")
	left.add(s, func(successor <-chan struct{}) {
		select { // make before break
		case <-successor:
		case <-s.Done():
		case <-ctx.Done():
		}
		if ctx.Err() == nil {
			s.GoAway(tunnel.GoAway{Reason: "the client has a newer connection"})
			if a.quiet(s, ctx.Done()) {
				_ = s.Close()
				return
			}
		}
		a.leave(s)
	})
	return wait
}

// pause waits for the next attempt, and reports false when ctx has ended. It cuts the wait
// short when there is a new token or licence, and when the session that serves meanwhile is
// told to go or breaks: the server has then changed.
func (a *Agent) pause(ctx context.Context, wait time.Duration, changed <-chan struct{}, before *predecessor, b *backoff) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var done <-chan struct{}
	if before.session != nil {
		done = before.session.Done()
	}
	select {
	case <-timer.C:
	case <-changed:
	case g := <-before.goAway:
		*before = predecessor{}
		a.log.Info().Str("reason", g.Reason).Msg("the server asks for another connection")
		return sleep(ctx, b.afterGoAway(g))
	case <-done:
		*before = predecessor{}
		return sleep(ctx, b.next())
	case <-ctx.Done():
		return false
	}
	return true
}
