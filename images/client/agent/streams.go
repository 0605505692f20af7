package agent

import (
	"context"
	"net"
	"time"

	"github.com/adit-tunnel/adit/images/client/upstream"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

const (
	// halfClosed bounds how long one direction of a stream may stay silent after the other
	// has ended.
	halfClosed = 5 * time.Minute
	// stillWanted is how often we look whether a stream is still wanted while its upstream
	// does not answer.
	stillWanted = 200 * time.Millisecond
)

// serve connects the upstream that the server asks for by its index, and carries the
// bytes. There is no way for a server to name any other address.
func (a *Agent) serve(st *tunnel.Stream) {
	target := st.Target()
	if target.Upstream >= len(a.cfg.Upstreams) {
		st.Reset(tunnel.CodeNoUpstream, "no such upstream")
		return
	}
	u := a.cfg.Upstreams[target.Upstream]
	conn, err := a.dial(st, target)
	if err != nil {
		if st.Err() != nil {
			a.log.Debug().Err(err).Str("upstream", u.String()).Msg("stream no longer wanted")
			return
		}
		code := upstream.Code(err)
		a.cfg.Metrics.dialErrors.WithLabelValues(code.String()).Inc()
		event := a.log.Debug() // each stream would be too much
		if !a.down[target.Upstream].Swap(true) {
			event = a.log.Warn()
		}
		event.Err(err).Str("upstream", u.String()).Msg("cannot reach upstream")
		st.Reset(code, "")
		a.cfg.Health.Failed(target.Upstream)
		return
	}
	if down := &a.down[target.Upstream]; down.Load() && down.Swap(false) {
		a.log.Info().Str("upstream", u.String()).Msg("upstream can be reached again")
	}
	if st.Accept() != nil {
		_ = conn.Close()
		return
	}
	if err := tunnel.Relay(st, conn, halfClosed); err != nil {
		a.log.Debug().Err(err).Str("upstream", u.String()).Msg("stream broke off")
	}
}

// dial connects the upstream, unless the stream breaks meanwhile: what nobody waits for
// any more would hold back the end of the session, and count against its streams.
func (a *Agent) dial(st *tunnel.Stream, target tunnel.Target) (net.Conn, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watch := time.AfterFunc(stillWanted, func() { // ends with ctx
		ticker := time.NewTicker(stillWanted)
		defer ticker.Stop()
		for st.Err() == nil {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
		cancel()
	})
	defer watch.Stop()
	return a.cfg.Dialer.Dial(ctx, a.cfg.Upstreams[target.Upstream], target)
}
