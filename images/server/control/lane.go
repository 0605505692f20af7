package control

import (
	"errors"
	"net/http"
	"slices"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

func (c *Control) lanesOf(cl *client) *tunnel.Lanes {
	if cl.lanes == nil {
		return nil
	}
	return &tunnel.Lanes{Grant: cl.lanes, Total: c.cfg.MaxLanes}
}

// allowLanes lets lanes find the client's session; forbidLanes ends that.
func (c *Control) allowLanes(cl *client) {
	if cl.lanes == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lanes[cl.lanes.ID] = cl.session
}

func (c *Control) forbidLanes(cl *client) {
	if cl.lanes == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lanes, cl.lanes.ID)
}

// lane joins a lane to the session that it belongs to. What is refused is only an
// optimisation lost: the client goes on without.
func (c *Control) lane(w http.ResponseWriter, r *http.Request) {
	pending, code, text := c.admitLane(r)
	if pending == nil {
		c.cfg.Log.Debug().Str("remote_addr", r.RemoteAddr).Int("code", code).Str("reason", text).Msg("lane refused")
		refuse(w, code, text)
		return
	}
	conn, err := c.upgrader.Upgrade(w, r, nil)
	if err != nil {
		pending.Abandon()
		c.cfg.Log.Debug().Err(err).Str("remote_addr", r.RemoteAddr).Msg("handshake of a lane broke off")
		return
	}
	pending.Attach(conn.NetConn())
}

// admitLane returns why not, or the lane, which must be attached or abandoned.
func (c *Control) admitLane(r *http.Request) (lane *tunnel.PendingLane, code int, text string) {
	name, err := tunnel.ParseLaneName(r.Header.Get(tunnel.LaneHeader))
	switch {
	case err != nil:
		return nil, http.StatusBadRequest, err.Error()
	case r.Method != http.MethodGet || !websocket.IsWebSocketUpgrade(r) || !slices.Contains(websocket.Subprotocols(r), tunnel.Subprotocol):
		return nil, http.StatusBadRequest, "a lane is a websocket with the subprotocol " + tunnel.Subprotocol
	}
	c.mu.Lock()
	session := c.lanes[name.Grant.ID]
	c.mu.Unlock()
	if session == nil {
		return nil, http.StatusNotFound, "this server does not hold the session of the lane: it is over, or another replica has it"
	}
	lane, err = session.NewLane(name)
	switch {
	case errors.Is(err, tunnel.ErrLaneUnknown):
		return nil, http.StatusNotFound, "the lane does not belong to the session"
	case errors.Is(err, tunnel.ErrTooManyLanes):
		return nil, http.StatusServiceUnavailable, "there are as many lanes as there may be"
	case err != nil:
		return nil, http.StatusGone, "the stream of the lane is over"
	}
	return lane, 0, ""
}
