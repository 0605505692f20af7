package agent

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

const policy = `{"policies":[{"allow":["::1/128"]}],"upstreams":[1]}`

// TestOldServer has a server that would let everybody in: the client takes no stream of it,
// says so, and does not hurry back.
func TestOldServer(t *testing.T) {
	for _, c := range []struct {
		name, access string
		able         []string
		stays        bool
	}{
		{"old, and no policy", "", []string{tunnel.CapabilityHealth}, true},
		{"old", policy, []string{tunnel.CapabilityHealth}, false},
		{"older", policy, nil, false},
		{"new", policy, []string{tunnel.CapabilityHealth, tunnel.CapabilityAccess}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t)
			s.able = c.able
			a := newAgent(t, s.url, "http://"+echo(t), func(cfg *Config) {
				cfg.Access = func() json.RawMessage { return json.RawMessage(c.access) }
			})
			a.delays.permanent = time.Hour
			a.run(t)
			v := s.next(t)
			if string(v.hello.Access) != c.access {
				t.Errorf("declared %q", v.hello.Access)
			}
			if c.stays {
				alive(t, v.open(t, 0))
				return
			}
			within(t, v.Done())
			a.log.await(t, "cannot connect")
			if !strings.Contains(a.log.String(), `"level":"error"`) || !strings.Contains(a.log.String(), "upgrade the server") {
				t.Errorf("logged %s", a.log.String())
			}
		})
	}
}
