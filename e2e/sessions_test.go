//go:build unix

package e2e

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"
)

// TestReconnect crashes the server; its successor on the same port has another CA.
func TestReconnect(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, scheme, auto string }{
		{"auto-TLS", "wss://", "AUTO_TLS=true"},
		{"ws", "ws://", "AUTO_TLS=false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, c.auto)
			client := connect(t, s, "http://"+says(t, "hello"), c.auto, "URL="+c.scheme+s.control)
			must(t, answers(s.url("/"), "hello"))
			s.kill()
			client.await("connection lost")
			client.await("cannot connect", "error", "refused")

			mark := client.mark()
			again := startServer(t, c.auto, "TOKEN="+s.token, "CONTROL_PORT="+port(s.control))
			client.awaitFrom(mark, "connected")
			again.await("client connected")
			must(t, answers(again.url("/"), "hello"))
			metrics := "http://" + client.addr("metrics") + "/metrics"
			must(t, answers(metrics, `adit_connected{server="`+s.control+`"} 1`))
			must(t, answers(metrics, `adit_reconnects_total{reason="unreachable"}`))
		})
	}
	t.Run("the client crashes", func(t *testing.T) {
		t.Parallel()
		tun := newTunnel(t, "http://"+says(t, "hello"))
		tun.client.kill()
		tun.await("client disconnected")
		code, body, err := get(tun.url("/"), "")
		if err != nil || code != 503 {
			t.Errorf("without a client: %d %s %v", code, body, err)
		}
		connect(t, tun.server, "http://"+says(t, "hello again"))
		must(t, answers(tun.url("/"), "hello again"))
	})
	t.Run("a successor takes over from a client that is frozen", func(t *testing.T) {
		t.Parallel()
		tun := newTunnel(t, "http://"+says(t, "first"), "CLIENT_ID=edge-7")
		tun.client.signal(syscall.SIGSTOP) // the connection is there, and nobody at its end
		connect(t, tun.server, "http://"+says(t, "second"), "CLIENT_ID=edge-7")
		tun.await("client took over from its older connection")
		must(t, answers(tun.url("/"), "second"))
		tun.client.kill()
	})
}

// TestSeveralClients has two clients serve one route in turn.
func TestSeveralClients(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	first := connect(t, s, "http://"+says(t, "one")+",one.test=http://"+says(t, "only one"))
	second := connect(t, s, "http://"+says(t, "two"))
	count := func(n int) map[string]int {
		t.Helper()
		seen := map[string]int{}
		for range n {
			code, body, err := get(s.url("/"), "")
			if err != nil || code != 200 {
				t.Fatalf("%d %s %v", code, body, err)
			}
			seen[body]++
		}
		return seen
	}
	if got := fmt.Sprint(count(20)); got != "map[one:10 two:10]" {
		t.Errorf("got %s", got)
	}
	if code, body, err := get(s.url("/"), "one.test"); code != 200 || body != "only one" {
		t.Errorf("one.test: %d %s %v", code, body, err)
	}
	second.stop()
	if got := fmt.Sprint(count(10)); got != "map[one:10]" {
		t.Errorf("after the second has left: %s", got)
	}
	s.await("client is leaving")
	first.stop()
	for _, host := range []string{"", "one.test"} {
		if code, _, err := get(s.url("/"), host); code != 503 {
			t.Errorf("after both have left: %d %v", code, err)
		}
	}
}

// TestSeveralServers has one client serve two servers, one of which goes away for a while.
func TestSeveralServers(t *testing.T) {
	t.Parallel()
	a, token := startServer(t), ""
	token = a.token
	b := startServer(t, "TOKEN="+token)
	c := startClient(t, a, "http://"+says(t, "hello"), "URL=wss://"+a.control+", wss://"+b.control)
	for _, s := range []*server{a, b} {
		s.await("client connected")
		must(t, answers(s.url("/"), "hello"))
	}
	a.kill()
	must(t, answers(b.url("/"), "hello"))
	c.await("connection lost", "url", a.control)
	must(t, answers("http://"+c.addr("metrics")+"/readyz", "ready"))
	a = startServer(t, "TOKEN="+token, "CONTROL_PORT="+port(a.control))
	a.await("client connected")
	must(t, answers(a.url("/"), "hello"))
	eventually(t, func() error {
		return errors.Join(
			answers("http://"+c.addr("metrics")+"/metrics", `adit_connected{server="`+a.control+`"} 1`),
			answers("http://"+c.addr("metrics")+"/metrics", `adit_connected{server="`+b.control+`"} 1`))
	})
}

// TestRefusals has servers refuse a client: its log says why, loudly when only a person can help.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s, plain := startServer(t), startServer(t, "AUTO_TLS=false", "MAX_CLIENTS=1")
	up := "http://" + says(t, "hello")
	connect(t, plain, up, "AUTO_TLS=false", "URL=ws://"+plain.control)
	data := "ws://" + plain.data
	for _, c := range []struct {
		name   string
		server *server
		up     string
		env    []string
		level  string
		part   string
	}{
		{"wrong token", s, up, []string{"TOKEN=" + newToken()}, "error", "the server has another TOKEN"},
		{"wrong token, ws", plain, up, []string{"TOKEN=" + newToken(), "AUTO_TLS=false", "URL=ws://" + plain.control}, "error",
			"the server refused with 401: the token is not one of the server's: compare TOKEN here with TOKEN of the server"},
		{"TCP where HTTP is served", s, "2222=localhost:22", nil, "error",
			"the server refused with 403: upstream 2222=localhost:22 asks for a TCP port, but this server has MODE=http: "},
		{"too many clients", plain, up, []string{"AUTO_TLS=false", "URL=ws://" + plain.control}, "warn", "the server refused with 503: the server has its limit of 1 clients"},
		{"not the control plane", plain, up, []string{"AUTO_TLS=false", "URL=" + data}, "warn", "is URL the address of the server's control plane"},
		{"TLS where there is none", plain, up, nil, "error", "the server speaks plain http on this port"},
		{"no TLS where there is some", s, up, []string{"AUTO_TLS=false", "URL=ws://" + s.control}, "error", "the server refused with 400: Client sent an HTTP request to an HTTPS server"},
		{"nobody there", s, up, []string{"URL=wss://127.0.0.1:1"}, "warn", "connection refused"},
		{"no such name", s, up, []string{"URL=wss://server.invalid"}, "warn", "server.invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := startClient(t, c.server, c.up, c.env...).await("cannot connect", "error", c.part)
			if e.field("level") != c.level {
				t.Errorf("at level %s, want %s: %s", e.field("level"), c.level, e.text)
			}
			if wait, err := time.ParseDuration(e.field("retry_in")); err != nil || c.level == "error" && wait < 10*time.Second {
				t.Errorf("tries again too soon, or does not say when: %s", e.text)
			}
		})
	}
	t.Run("wrong token is seen by the server", func(t *testing.T) {
		s.await("authentication failed", "path", "/.well-known/ca.crt", "reason", "wrong")
		plain.await("authentication failed", "path", "/connect", "reason", "wrong")
	})
}
