package agent

import (
	"net"
	"time"

	"github.com/adit-tunnel/adit/images/client/upstream"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// halfClosed bounds how long one direction of a stream may stay silent after the other
// has ended.
const halfClosed = 5 * time.Minute

// serve connects the upstream that the server asks for by its index, and carries the
// bytes. There is no way for a server to name any other address.
func (a *Agent) serve(st *tunnel.Stream) {
	if st.Target().Upstream >= len(a.cfg.Upstreams) {
		st.Reset(tunnel.CodeNoUpstream, "no such upstream")
		return
	}
	conn := a.accept(st)
	if conn == nil {
		return
	}
	release := st.Hold()
	tunnel.RelayFunc(st, conn, halfClosed, func(err error) {
		if err != nil {
			a.log.Debug().Err(err).Stringer("upstream", a.cfg.Upstreams[st.Target().Upstream]).Msg("stream broke off")
		}
		release()
	})
}

// accept accepts the stream with a connection to its upstream, or resets it and returns
// nil.
func (a *Agent) accept(st *tunnel.Stream) net.Conn {
	target := st.Target()
	u := a.cfg.Upstreams[target.Upstream]
	conn, err := a.dial(st, target)
	if err != nil {
		if st.Err() != nil {
			a.log.Debug().Err(err).Stringer("upstream", u).Msg("stream no longer wanted")
			return nil
		}
		code := upstream.Code(err)
		a.cfg.Metrics.dialErrors.WithLabelValues(code.String()).Inc()
		event := a.log.Debug() // each stream would be too much
		if !a.down[target.Upstream].Swap(true) {
			event = a.log.Warn()
		}
		event.Err(err).Stringer("upstream", u).Msg("cannot reach upstream")
		st.Reset(code, "")
		a.cfg.Health.Failed(target.Upstream)
		return nil
	}
	if down := &a.down[target.Upstream]; down.Load() && down.Swap(false) {
		a.log.Info().Stringer("upstream", u).Msg("upstream can be reached again")
	}
	if st.Accept() != nil {
		_ = conn.Close()
		return nil
	}
	return conn
}

// dial connects the upstream, unless the stream breaks meanwhile.
func (a *Agent) dial(st *tunnel.Stream, target tunnel.Target) (net.Conn, error) {
	ctx, cancel := st.Wanted()
	defer cancel()
	return a.cfg.Dialer.Dial(ctx, a.cfg.Upstreams[target.Upstream], target)
}
