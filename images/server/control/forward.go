package control

import (
	"slices"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// capabilities returns what the server can do, for its Hello.
func (c *Control) capabilities() []string {
	list := []string{tunnel.CapabilityHealth, tunnel.CapabilityAccess}
	if c.cfg.Forward != nil {
		list = append(list, tunnel.CapabilityForward)
	}
	if c.cfg.Lanes {
		list = append(list, tunnel.CapabilityLanes)
	}
	return list
}

// forwards returns what serves the streams that a client opens, nil if the server does no
// forwards: then they are refused.
func (c *Control) forwards(cl *client) func(*tunnel.Stream) {
	if c.cfg.Forward == nil {
		return nil
	}
	return func(st *tunnel.Stream) {
		if cl.barred.Load() {
			st.Reset(tunnel.CodeDenied, "the client may not stay")
			return
		}
		c.cfg.Forward(st, cl.hello.ClientID)
	}
}

// noUpstreams says why a client without upstreams is refused; "" if it has forwards.
func (c *Control) noUpstreams(hello tunnel.Hello) string {
	switch {
	case !slices.Contains(hello.Capabilities, tunnel.CapabilityForward):
		return "the client names no upstream: set UPSTREAMS on the client"
	case c.cfg.Forward == nil:
		return "the client has nothing but FORWARDS, and this server does none: set FORWARD_ALLOW on the server, or UPSTREAMS on the client"
	}
	return ""
}
