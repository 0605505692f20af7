package control

import (
	"slices"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// TestHealth has upstreams wait, as their client says when it connects and later.
func TestHealth(t *testing.T) {
	s := start(t)
	h := hello("a", "http://app:8080", "a.test=http://app:8081")
	h.Waiting.Add(1)
	p := s.connect(t, h, echo)
	if !slices.Contains(p.hello.Capabilities, tunnel.CapabilityHealth) {
		t.Errorf("the server's hello is %+v", p.hello)
	}
	want := func(healthy, waiting string, list ...string) {
		t.Helper()
		doc := s.Document()
		if !slices.Equal(doc.Clients[0].Waiting, list) {
			t.Errorf("waiting are %q, want %q", doc.Clients[0].Waiting, list)
		}
		if got := s.metric(t, `adit_upstreams{state="healthy"}`); got != healthy {
			t.Errorf("%s are healthy, want %s", got, healthy)
		}
		if got := s.metric(t, `adit_upstreams{state="waiting"}`); got != waiting {
			t.Errorf("%s are waiting, want %s", got, waiting)
		}
		if _, body := s.get(t, "/status", token); strings.Contains(body, `"waiting"`) != (len(list) > 0) {
			t.Errorf("status is %s", body)
		}
	}
	want("1", "1", "a.test=http://app:8081")

	p.Health(nil)
	s.log.await(t, "upstream answers", "upstream", "a.test=http://app:8081", "client_id", "a")
	want("2", "0")

	p.Health(tunnel.Waiting{0xff, 0xff}) // more than there are
	s.log.await(t, "upstream does not answer any more, its visitors wait", "upstream", "*=http://app:8080")
	s.log.await(t, "upstream does not answer any more, its visitors wait", "upstream", "a.test=http://app:8081")
	want("0", "2", "*=http://app:8080", "a.test=http://app:8081")

	// A newer connection of the client says anew.
	s.connect(t, epoch(hello("a", "http://app:8080", "a.test=http://app:8081"), 2), echo)
	want("2", "0")
}

// TestHealthFlood has a client change its mind all the time: the log does not follow.
func TestHealthFlood(t *testing.T) {
	s := start(t)
	p := s.connect(t, hello("a", "a.test=http://app:8080", "b.test=http://app:8080"), echo)
	for range maxTold {
		p.Health(tunnel.Waiting{1})
		p.Health(nil)
	}
	p.Health(tunnel.Waiting{2}) // the order is kept, so this is the last
	eventually(t, func() bool {
		waiting := s.Document().Clients[0].Waiting
		return len(waiting) == 1 && waiting[0] == "b.test=http://app:8080"
	})
	if got := strings.Count(s.log.String(), `"upstream"`) - strings.Count(s.log.String(), `"level":"debug"`); got != maxTold {
		t.Errorf("%d lines, want %d", got, maxTold)
	}
}
