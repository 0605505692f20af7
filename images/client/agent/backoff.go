package agent

import (
	"errors"
	"net/http"
	"time"

	"github.com/adit-tunnel/adit/shared/autotls"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// delays are the times between attempts.
type delays struct {
	first, most time.Duration // of the exponential backoff
	permanent   time.Duration // after a refusal that only a person can mend
	stable      time.Duration // a connection that lasts so long starts the backoff anew
	grace       time.Duration // see leaveGrace
}

var defaultDelays = delays{
	first: 500 * time.Millisecond, most: 30 * time.Second, permanent: time.Minute, stable: time.Minute, grace: leaveGrace,
}

// maxHint bounds what a server may ask for: a fault there must not keep us away for days.
const maxHint = 10 * time.Minute

// backoff says how long to wait before the next attempt: a random time up to a limit
// that doubles ("full jitter"), so that clients that lost one server together do not
// come back together.
type backoff struct {
	delays
	attempts int
	since    time.Time     // of the connection that there was
	spread   time.Duration // over which every attempt after it is spread
}

// connected notes a connection to a server that wants its clients back over that time.
func (b *backoff) connected(returnOver time.Duration) {
	b.since, b.spread = time.Now(), min(returnOver, b.most)
}

// after returns the wait after a failure or the end of a connection.
func (b *backoff) after(err error) time.Duration {
	b.ended()
	if permanent(err) {
		return b.permanent/2 + jitter(b.permanent/2)
	}
	wait := max(b.next(), jitter(b.spread)) // many others may be waiting with us
	var refused *RefusedError
	if errors.As(err, &refused) {
		wait += min(refused.RetryAfter, maxHint)
	}
	return wait
}

// afterGoAway returns the wait after the server has sent us away: what it asks for, and
// if that happens again and again no less than after a failure.
func (b *backoff) afterGoAway(g tunnel.GoAway) time.Duration {
	b.ended()
	again := b.attempts > 0
	wait := b.next()
	if asked := min(g.After, maxHint) + jitter(min(g.Jitter, maxHint)); !again || asked > wait {
		return asked
	}
	return wait
}

// ended notes the end of the connection, if there was one.
func (b *backoff) ended() {
	if !b.since.IsZero() && time.Since(b.since) >= b.stable {
		b.attempts = 0
	}
	b.since = time.Time{}
}

func (b *backoff) next() time.Duration {
	limit := b.most
	if b.attempts < 16 {
		limit = min(b.most, b.first<<b.attempts)
	}
	b.attempts++
	return jitter(limit)
}

// permanent reports whether trying again soon makes no sense: the token is wrong, what
// is asked for is not allowed, or the versions do not fit.
func permanent(err error) bool {
	if errors.Is(err, autotls.ErrUntrusted) || errors.Is(err, autotls.ErrNoCA) || errors.Is(err, autotls.ErrPlainHTTP) || errors.Is(err, errOldServer) {
		return true
	}
	var refused *RefusedError
	if !errors.As(err, &refused) {
		return false
	}
	switch refused.Status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusUpgradeRequired:
		return true
	}
	return false
}
