package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// lanes returns how a session gets its lanes: dialled as the session itself was, nil if
// either side has them switched off.
func (a *Agent) lanes(config *tls.Config, grant *tunnel.LaneGrant) *tunnel.Lanes {
	if !a.cfg.Lanes || grant == nil {
		return nil
	}
	way, err := wayTo(a.cfg.Server, a.proxy)
	masked := err != nil || way.proxy != nil || way.socks != nil
	return &tunnel.Lanes{Grant: grant, Masked: masked, Dial: func(ctx context.Context, name string) (net.Conn, error) {
		conn, _, err := a.handshake(ctx, config, http.Header{
			"Authorization":   {"Bearer " + a.cfg.Token()},
			tunnel.LaneHeader: {name},
		})
		var refused *RefusedError
		if errors.As(err, &refused) && refused.Status == http.StatusGone {
			return nil, tunnel.ErrLaneGone
		}
		if err != nil {
			if ctx.Err() != context.Canceled {
				a.log.Debug().Err(err).Msg("cannot open a lane")
			}
			return nil, err
		}
		return conn.NetConn(), nil
	}}
}
