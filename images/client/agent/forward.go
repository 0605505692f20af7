package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/adit-tunnel/adit/images/client/forward"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// Forward opens a stream to a service of the server's network, "host:port". It implements
// forward.Server. What the server does not allow it is not asked for again on the same
// session.
func (a *Agent) Forward(ctx context.Context, destination string) (*tunnel.Stream, error) {
	a.mu.Lock()
	s, able, reason := a.session, a.forwards, a.denied[destination]
	a.mu.Unlock()
	switch {
	case s == nil || s.Leaving():
		return nil, forward.ErrNotConnected
	case !able:
		return nil, &forward.DeniedError{Reason: "the server does no forwards: set FORWARD_ALLOW there, or update it if it is too old"}
	case reason != "":
		return nil, &forward.DeniedError{Reason: reason}
	}
	st, err := s.Open(ctx, tunnel.Target{Forward: destination})
	var (
		reset *tunnel.ResetError
		ended *tunnel.SessionError
	)
	switch {
	case err == nil:
		return st, nil
	case errors.As(err, &reset) && reset.Code == tunnel.CodeDenied:
		reason = oneLine(reset.Reason)
		a.mu.Lock()
		if a.session == s {
			if a.denied == nil {
				a.denied = map[string]string{}
			}
			a.denied[destination] = reason
		}
		a.mu.Unlock()
		return nil, &forward.DeniedError{Reason: reason}
	case errors.As(err, &ended), errors.Is(err, tunnel.ErrClosed), errors.Is(err, tunnel.ErrGoingAway):
		return nil, fmt.Errorf("%w: %w", forward.ErrNotConnected, err)
	}
	return nil, err
}

// capabilities are what the client says in its Hello that it knows.
func (a *Agent) capabilities() (list []string) {
	if a.cfg.Forwards {
		list = append(list, tunnel.CapabilityForward)
	}
	if a.cfg.Lanes {
		list = append(list, tunnel.CapabilityLanes)
	}
	return list
}
