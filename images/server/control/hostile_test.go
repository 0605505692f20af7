package control

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/images/server/tcp"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// TestLogInjection has clients, with a token and without, say what would be a line of the
// log, a command to a terminal, or a sample of a metric, wherever they can.
func TestLogInjection(t *testing.T) {
	const evil = "x\n{\"level\":\"info\",\"message\":\"all is well\"}\r\n\x1b[2J\x00\u2028\"\\"
	s := start(t)
	h := hello("a", "http://a")
	h.Hostname, h.Version = evil, evil
	p := s.connect(t, h, echo)
	for _, h := range []tunnel.Hello{hello(evil, "http://a"), hello("b", evil), hello("b", "http://a?"+evil), hello("b", evil+"=http://a"), hello("b", "22=a:"+evil)} {
		if text := s.refused(t, h, http.StatusBadRequest); strings.Count(text, "\n") != 1 || strings.ContainsAny(text, "\r\x1b\x00") {
			t.Errorf("the refusal is %q", text)
		}
	}
	s.get(t, "/status/x%0a%1b%5b2J", "wrong-token-wrong")
	s.get(t, "/status?x%0a", "wrong-token-wrong")
	p.GoAway(tunnel.GoAway{Reason: evil})
	s.log.await(t, "client is leaving")
	log := s.log.String()
	for line := range strings.Lines(log) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil || strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\r\x1b\x00") || entry["message"] == "all is well" {
			t.Errorf("the log has the line %q: %v", line, err)
		}
	}
	if _, body := s.get(t, "/metrics", token); strings.Contains(body, "all is well") || strings.Contains(body, "\x1b") {
		t.Error("the metrics have it, too")
	}
}

// TestOthersPort has one client ask for what another has: it shares it, as clients with one
// token trust each other, and takes nothing away.
func TestOthersPort(t *testing.T) {
	s := start(t)
	first := s.connect(t, hello("a", "a.test=http://a"), echo)
	second := s.connect(t, epoch(hello("b", "a.test=http://b"), 1<<62), echo)
	for range 2 {
		alive(t, s.open(t, "a.test"))
	}
	if first.Streams() != 1 || second.Streams() != 1 {
		t.Errorf("they have %d and %d streams", first.Streams(), second.Streams())
	}
	for _, h := range []tunnel.Hello{hello("c", "1023=a:1"), hello("c", "80=a:1"), hello("c", "http://a", "443=a:1")} {
		if text := s.refused(t, h, http.StatusForbidden); !strings.Contains(text, tcp.ErrNotAllowed.Error()) {
			t.Errorf("got %s", text)
		}
	}
}
