package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// TestRefusals are all the plain answers to a client that may not connect.
func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	takenPort := taken.Addr().(*net.TCPAddr).Port

	noTCP := func(cfg *Config) { cfg.Ports, cfg.Mode = nil, "http" }
	noHTTP := func(cfg *Config) { cfg.Table, cfg.Mode = nil, "tcp" }
	hosts := func(cfg *Config) { cfg.Hosts = routing.Hosts{"a.test", "*.b.test"} }
	many := make([]string, maxUpstreams+1)
	for i := range many {
		many[i] = fmt.Sprintf("h%d=http://a", i)
	}
	set := func(name string, values ...string) func(http.Header) {
		return func(h http.Header) { h[http.CanonicalHeaderKey(name)] = values }
	}
	for _, c := range []struct {
		name   string
		config func(*Config)
		method string
		header func(http.Header)
		hello  tunnel.Hello
		before func(*server) // does something first
		code   int
		part   string
	}{
		{name: "no token", header: set("Authorization"), code: 401, part: "a token is needed"},
		{name: "wrong token", header: set("Authorization", "Bearer "+strings.Repeat("x", 32)), code: 401, part: "the token is not one of the server's"},
		{name: "too many failures", header: set("Authorization", "Bearer "+strings.Repeat("x", 32)), code: 429, part: "too many failed authentications",
			before: func(s *server) {
				for range 20 {
					s.get(t, "/status", strings.Repeat("y", 32))
				}
			}},
		{name: "POST", method: "POST", code: 405, part: "use GET"},
		{name: "HEAD", method: "HEAD", code: 426},
		{name: "no websocket", header: set("Upgrade"), code: 426, part: "the websocket subprotocol adit.v1"},
		{name: "another protocol", header: set("Sec-Websocket-Protocol", "adit.v0, chat"), code: 426, part: "adit.v1"},
		{name: "another version of websocket", header: set("Sec-Websocket-Version", "12"), code: 400, part: "unsupported version"},
		{name: "no hello", header: set(tunnel.HelloHeader), code: 400, part: "no Adit-Hello header"},
		{name: "malformed hello", header: set(tunnel.HelloHeader, "***"), code: 400, part: "decode hello"},
		{name: "no JSON", header: set(tunnel.HelloHeader, "aGVsbG8"), code: 400, part: "decode hello"},
		{name: "huge hello", header: set(tunnel.HelloHeader, strings.Repeat("A", 49<<10)), code: 400, part: "over the limit"},
		{name: "huge head", header: set("X-Something", strings.Repeat("A", 80<<10)), code: 431},
		{name: "a host that nobody may have", config: hosts, hello: hello("a", "a.test=http://a", "b.test=http://a"), code: 403,
			part: "upstream b.test=http://a asks for a host that this server lets no client have (ALLOW_HOSTS=a.test,*.b.test)"},
		{name: "the default route is not for clients", config: hosts, hello: hello("a", "http://a"), code: 403, part: "ALLOW_HOSTS"},
		{name: "no id", hello: hello("", "http://a"), code: 400, part: "set CLIENT_ID on the client"},
		{name: "bad id", hello: hello("a b", "http://a"), code: 400, part: "set CLIENT_ID on the client"},
		{name: "long id", hello: hello(strings.Repeat("a", 65), "http://a"), code: 400, part: "1 to 64"},
		{name: "nothing to serve", hello: hello("a"), code: 400, part: "set UPSTREAMS on the client"},
		{name: "too many upstreams", hello: hello("a", many...), code: 400, part: "1001 upstreams are more than the limit of 1000: spread them"},
		{name: "malformed upstream", hello: hello("a", "http://a", "ftp://b"), code: 400, part: `upstream "ftp://b": unknown scheme`},
		{name: "endless upstream", hello: hello("a", "ftp://"+strings.Repeat("b", 30<<10)), code: 400, part: "bbb…"},
		{name: "port where hosts are served", config: noTCP, hello: hello("a", "2222=localhost:22"), code: 403,
			part: "upstream 2222=localhost:22 asks for a TCP port, but this server has MODE=http: set MODE=http,tcp on the server, or write http://localhost:22"},
		{name: "host where ports are served", config: noHTTP, hello: hello("a", "http://localhost"), code: 403,
			part: "upstream http://localhost asks for a host, but this server has MODE=tcp: set MODE=http,tcp on the server, or write 8080=localhost:80"},
		{name: "port that is not allowed", hello: hello("a", "22=localhost:22"), code: 403, part: "port 22 is not allowed: the server has ALLOW_PORTS=1024-65535; ask for one of those, as in 1024=localhost:22"},
		{name: "port of another program", hello: hello("a", fmt.Sprintf("%d=localhost:22", takenPort)), code: 409,
			part: fmt.Sprintf("port %d is in use by another program on the server's machine: stop that, or ask for another port", takenPort)},
		{name: "policy that is not understood", hello: withAccess(hello("a", "http://a"), `{"policies":[{"allow":["::1/128"],"countries":["NZ"]}],"upstreams":[1]}`), code: 400,
			part: "the client says who may visit in a way that this server (version "},
		{name: "policy for other upstreams", hello: withAccess(hello("a", "http://a"), `{"policies":[{"allow":["::1/128"]}],"upstreams":[0,1]}`), code: 400, part: "upgrade the server if the client is newer"},
		{name: "no policy", hello: withAccess(hello("a", "http://a"), `null`), code: 400, part: "who may visit"},
		{name: "password for a port", hello: withAccess(hello("a", "2222=localhost:22"), `{"policies":[{"pass":true}],"upstreams":[1]}`), code: 400, part: "upstream 2222=localhost:22 is a TCP port, which can neither ask"},
		{name: "policy in the upstream", hello: hello("a", "http://a?allow=10.0.0.0/8"), code: 400, part: "says who may visit, which belongs into the member access"},
		{name: "older", hello: epoch(hello("taken", "http://a"), 4), code: 409, part: "the client id taken is in use by a newer connection from 127.0.0.1:"},
		{name: "as old", hello: epoch(hello("taken", "http://a"), 5), code: 409, part: "give each client a CLIENT_ID of its own"},
		{name: "one too many", config: func(cfg *Config) { cfg.MaxClients = 1 }, code: 503, part: "the server has its limit of 1 clients (MAX_CLIENTS)"},
		{name: "draining", before: func(s *server) { s.Drain(t.Context(), 0) }, code: 503, part: "the server is shutting down"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var configs []func(*Config)
			if c.config != nil {
				configs = append(configs, c.config)
			}
			s := start(t, configs...)
			host := "http://other"
			if s.cfg.Hosts != nil {
				host = s.cfg.Hosts[0] + "=http://other"
			}
			if s.cfg.Table == nil {
				host = fmt.Sprintf("%d=other:1", freeport.New(t))
			}
			s.connect(t, epoch(hello("taken", host), 5), echo)
			if c.before != nil {
				c.before(s)
			}
			if c.hello.Version == "" {
				c.hello = hello("a", host)
			}
			if c.method == "" {
				c.method = http.MethodGet
			}
			h := header(t, c.hello)
			for name, value := range map[string]string{
				"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13",
				"Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-Websocket-Protocol": tunnel.Subprotocol,
			} {
				h.Set(name, value)
			}
			if c.header != nil {
				c.header(h)
			}
			resp, body := s.ask(t, c.method, h)
			if resp.StatusCode != c.code || !strings.Contains(body, c.part) || len(body) > 1000 {
				t.Errorf("got %d %s, want %d %s", resp.StatusCode, body, c.code, c.part)
			}
			if got := resp.Header.Get("Retry-After") != ""; got != (c.code == 503 || c.code == 429) {
				t.Errorf("Retry-After: %q", resp.Header.Get("Retry-After"))
			}
			if got := resp.Header.Get("Upgrade"); (got == "websocket") != (c.code == 426) {
				t.Errorf("Upgrade: %q", got)
			}
			if got := resp.Header.Get("Content-Type"); c.code != 431 && c.method != "HEAD" && got != "text/plain; charset=utf-8" {
				t.Errorf("Content-Type: %q", got)
			}
			// The other client is as it was, and nothing is left of the one refused.
			if doc := s.Document(); len(doc.Clients) != 1 || doc.Clients[0].ClientID != "taken" {
				t.Errorf("connected: %+v", doc.Clients)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.joining != 0 {
				t.Errorf("%d clients are still joining", s.joining)
			}
			if strings.Contains(s.log.String(), token) {
				t.Error("the token is in the log")
			}
		})
	}
}

func withAccess(h tunnel.Hello, doc string) tunnel.Hello {
	h.Access = json.RawMessage(doc)
	return h
}

// ask sends a handshake as it is.
func (s *server) ask(t testing.TB, method string, h http.Header) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	var text strings.Builder
	fmt.Fprintf(&text, "%s /connect HTTP/1.1\r\nHost: %s\r\n", method, s.addr)
	must(t, h.Write(&text))
	text.WriteString("\r\n")
	go func() { _, _ = io.WriteString(conn, text.String()) }() // the head may be refused before its end
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	must(t, err)
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp, string(body)
}

// TestOwnPort is about the ports of the server itself, which clients could take over
// otherwise as soon as it is bound to another address.
func TestOwnPort(t *testing.T) {
	s := start(t)
	_, port, _ := net.SplitHostPort(s.addr)
	text := s.refused(t, hello("a", port+"=localhost:22"), http.StatusForbidden)
	if want := "port " + port + " is not allowed: the server uses it itself"; !strings.Contains(text, want) {
		t.Errorf("got %s, want %s", text, want)
	}
}

// TestAllOrNothing has a client ask for a port that it gets and one that it does not.
func TestAllOrNothing(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	s.refused(t, hello("a", strconv.Itoa(port)+"=localhost:22", "22=localhost:22"), http.StatusForbidden)
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	must(t, err)
	l.Close()
}

// TestBrokenUpgrade has the handshake break off after the port was reserved.
func TestBrokenUpgrade(t *testing.T) {
	s := start(t)
	port := freeport.New(t)
	h := header(t, hello("a", strconv.Itoa(port)+"=localhost:22"))
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13",
		"Sec-Websocket-Key": "short", "Sec-Websocket-Protocol": tunnel.Subprotocol,
	} {
		h.Set(name, value)
	}
	if resp, body := s.ask(t, http.MethodGet, h); resp.StatusCode != 400 || !strings.Contains(body, "Sec-WebSocket-Key") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	s.log.await(t, "websocket handshake broke off")
	s.log.await(t, "port closed", "port", strconv.Itoa(port))
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	must(t, err)
	l.Close()
	s.connect(t, hello("a", strconv.Itoa(port)+"=localhost:22"), echo)
}
