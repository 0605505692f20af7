package control

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

const lanOnly = `{"policies":[{"allow":["10.0.0.0/8"]}],"upstreams":[0,1]}`

// TestPolicies has a client declare who may visit: its backends have it, and who asks about
// clients learns nothing of it.
func TestPolicies(t *testing.T) {
	s := start(t)
	p := s.connect(t, withAccess(hello("a", "a.test=http://a", "b.test=http://b"), lanOnly), echo)
	if !slices.Contains(p.hello.Capabilities, tunnel.CapabilityAccess) {
		t.Errorf("capabilities %q", p.hello.Capabilities)
	}
	for host, want := range map[string]string{"a.test": "", "b.test": access.Address} {
		b := s.table.Match(host, "/").Backends()[0]
		if v := b.Access.Check(netip.MustParseAddr("192.0.2.1"), nil); v.Reason != want {
			t.Errorf("%s: got %q, want %q", host, v.Reason, want)
		}
	}
	s.mu.Lock()
	for _, cl := range s.clients {
		if cl.hello.Access != nil {
			t.Error("what the client declared is kept")
		}
	}
	s.mu.Unlock()
}

// TestPoliciesDiffer warns when clients of a route say different things, and only then.
func TestPoliciesDiffer(t *testing.T) {
	s := start(t)
	const warning = "another client of the route says something else of who may visit"
	s.connect(t, withAccess(hello("a", "a.test=http://a", "b.test=http://b"), lanOnly), echo)
	s.connect(t, withAccess(hello("b", "a.test=http://a", "b.test=http://b"), lanOnly), echo)
	s.connect(t, hello("c", "a.test=http://a", "c.test=http://b"), echo)
	if strings.Contains(s.log.String(), warning) {
		t.Errorf("logged %s", s.log.String())
	}
	port := freeport.New(t)
	s.connect(t, hello("p", fmt.Sprintf("%d=a:1", port)), echo)
	s.connect(t, withAccess(hello("q", fmt.Sprintf("%d=a:1", port)), `{"policies":[{"allow":["10.0.0.0/8"]}],"upstreams":[1]}`), echo)
	if log := s.log.String(); !strings.Contains(log, `"client_id":"q","visitors":"everyone from 10.0.0.0/8","other_client_id":"p","other_visitors":"everyone","message":"another client of the port`) {
		t.Errorf("logged %s", log)
	}
	s.connect(t, hello("d", "a.test=http://a", "b.test=http://b"), echo)
	if log := s.log.String(); strings.Count(log, warning) != 1 || !strings.Contains(log, `"visitors":"everyone","other_client_id":"a","other_visitors":"everyone from 10.0.0.0/8"`) {
		t.Errorf("logged %s", log)
	}
}
