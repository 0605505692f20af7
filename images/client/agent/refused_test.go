package agent

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// TestRefused has servers refuse in all the ways that they have: the log says what to do,
// loudly and with a long wait when only a person can mend it.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   int
		text   string
		header []string
		want   string
		loud   bool
		wait   time.Duration // at least
	}{
		{"malformed", 400, "the client id is bad", nil, "the server refused with 400: the client id is bad", true, 30 * time.Second},
		{"token", 401, "the token is not one of the server's", nil, "the server refused with 401: the token is not", true, 30 * time.Second},
		{"not allowed", 403, "port 22 is not allowed", nil, "the server refused with 403: port 22 is not allowed", true, 30 * time.Second},
		{"version", 426, "speaks adit.v2", nil, "the server refused with 426: speaks adit.v2", true, 30 * time.Second},
		{"held", 409, "the client id is in use", nil, "the server refused with 409: the client id is in use", false, 0},
		{"too many failures", 429, "wait", []string{"Retry-After", "7"}, "the server refused with 429: wait", false, 7 * time.Second},
		{"full", 503, "the server has its limit", []string{"Retry-After", "5"}, "the server refused with 503: the server has its limit", false, 5 * time.Second},
		{"another program", 404, "not found", nil, "the server refused with 404: not found (is URL the address of the server's control plane, usually port 8123?)", false, 0},
		{"no text", 502, "", nil, "the server refused with 502: Bad Gateway (is URL", false, 0},
		{"several lines", 409, "one\r\ntwo\x1b[31m\n", nil, "409: one  two [31m", false, 0},
		{"a long text", 409, strings.Repeat("long ", 10000), nil, "409: long long", false, 0},
		{"elsewhere", 301, "", []string{"Location", "https://other.test/connect?secret"}, "(it sends us on to https://other.test)", false, 0},
		{"not our websocket", 101, "", []string{"Upgrade", "websocket", "Connection", "Upgrade"}, "the answer at this address is not that of a websocket", false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t)
			s.refuseWith(c.code, c.text, c.header...)
			a := newAgent(t, s.url, "http://app").run(t)
			line := a.log.await(t, "cannot connect", "error", c.want, "level", map[bool]string{true: "error", false: "warn"}[c.loud])
			wait, err := time.ParseDuration(fmt.Sprint(line["retry_in"]))
			if err != nil || wait < c.wait || wait > c.wait+time.Minute {
				t.Errorf("tries again in %v", line["retry_in"])
			}
			if text := fmt.Sprint(line["error"]); len(text) > 1200 || strings.Contains(text, "secret") || strings.ContainsAny(text, "\r\n\x1b") {
				t.Errorf("got %q", text)
			}
			reason := "refused"
			if c.code == 101 {
				reason = "unreachable"
			}
			if a.metric(t, "adit_reconnects_total", reason) == 0 {
				t.Error("not counted")
			}
			if strings.Contains(a.log.String(), token) {
				t.Error("the token is in the log")
			}
		})
	}
}

// TestRecovers connects when the server takes it again.
func TestRecovers(t *testing.T) {
	s := newServer(t)
	s.refuseWith(503, "later")
	a := newAgent(t, s.url, "http://"+echo(t)).run(t)
	for range 3 {
		a.log.await(t, "cannot connect", "error", "later")
	}
	s.refuseWith(0, "")
	alive(t, s.next(t).open(t, 0))
}

// TestNoServer has something else listen at the address, or nothing.
func TestNoServer(t *testing.T) {
	closed := freeport.Addr(t)
	answer := func(text string) string {
		return listen(t, func(c net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, text)
		})
	}
	switched := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
	for _, c := range []struct{ name, address, want string }{
		{"nothing", closed, "connect to " + closed + ": dial tcp"},
		{"hangs up", listen(t, func(net.Conn) {}), "connect to 127.0.0.1:"},
		{"not HTTP", answer("220 mail.test ESMTP\r\n"), "malformed HTTP"},
		{"wrong key", answer(switched + "x\r\n\r\n"), "not that of a websocket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u, err := url.Parse("ws://" + c.address)
			must(t, err)
			a := newAgent(t, u, "http://app").run(t)
			a.log.await(t, "cannot connect", "error", c.want, "level", "warn")
			if a.metric(t, "adit_reconnects_total", "unreachable") == 0 {
				t.Error("not counted")
			}
		})
	}
}
