package control

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
	"github.com/adit-tunnel/adit/shared/version"
)

func TestStatus(t *testing.T) {
	before := time.Now()
	s := start(t)
	if code, body := s.get(t, "/status", ""); code != http.StatusUnauthorized {
		t.Errorf("without a token: %d %s", code, body)
	}
	_, body := s.get(t, "/status", token)
	if !strings.Contains(body, `"clients":[]`) {
		t.Errorf("without clients: %s", body)
	}
	port := freeport.New(t)
	s.connect(t, hello("b", "HTTP://App:8080"), echo) // written otherwise than we write it
	s.connect(t, hello("a", "example.com=http://a:1?host=x&insecure=false", fmt.Sprintf("%d=db:5432", port)), echo)
	code, body := s.get(t, "/status", token)
	var doc struct {
		Info    map[string]string
		Clients []map[string]any
	}
	must(t, json.Unmarshal([]byte(body), &doc))
	if code != 200 || doc.Info["mode"] != "http,tcp" || doc.Info["version"] != version.Version || doc.Info["sha"] != version.SHA || doc.Info["hostname"] != s.hostname {
		t.Errorf("got %d %s", code, body)
	}
	var got []string
	for _, c := range doc.Clients { // in the order in which they came
		got = append(got, fmt.Sprint(c["clientID"], c["upstreams"]))
		since, err := time.Parse(time.RFC3339Nano, c["since"].(string))
		if err != nil || since.Before(before) || since.After(time.Now()) || !strings.HasPrefix(c["remoteAddr"].(string), "127.0.0.1:") {
			t.Errorf("got %v", c)
		}
	}
	want := []string{"b[*=http://app:8080]", fmt.Sprintf("a[example.com=http://a:1?host=x %d=db:5432]", port)}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if strings.Contains(body, token) || strings.Contains(s.log.String(), token) {
		t.Error("the token is told")
	}
}

// TestEnough asks for readiness as a load balancer does that wants the clients back first.
func TestEnough(t *testing.T) {
	s := start(t)
	s.connect(t, hello("a", "http://app:8080"), echo)
	for _, c := range []struct {
		query string
		code  int
		body  string
	}{
		{"", 200, "ready"},
		{"?clients=0", 200, "ready"},
		{"?clients=1", 200, "ready"},
		{"?clients=2", 503, "2 clients are needed, 1 are connected"},
		{"?clients=-1", 400, "is not a number"},
		{"?clients=two", 400, "is not a number"},
	} {
		if code, body := s.get(t, "/readyz"+c.query, ""); code != c.code || !strings.Contains(body, c.body) {
			t.Errorf("/readyz%s: %d %q, want %d %q", c.query, code, body, c.code, c.body)
		}
	}
}

// TestReturnOver sees the time over which clients are to come back grow with their number.
func TestReturnOver(t *testing.T) {
	for clients, want := range map[int]time.Duration{0: time.Second, 100: time.Second, 1000: 10 * time.Second, 100_000: 30 * time.Second} {
		if got := returnOver(clients); got != want {
			t.Errorf("%d clients: %s, want %s", clients, got, want)
		}
	}
	s := start(t)
	p := s.connect(t, hello("a", "http://app:8080"), echo)
	if p.hello.ReturnOver != 1000 {
		t.Errorf("the server's hello says %d ms, want 1000", p.hello.ReturnOver)
	}
}

// TestHello looks at what server and client say of themselves.
func TestHello(t *testing.T) {
	for _, c := range []struct {
		name                 string
		server, client, want int // streams
	}{
		{"nothing said", 0, 0, 0},
		{"the server's limit", 100, 0, 100},
		{"the client's limit", 100, 50, 50},
		{"the client takes more", 100, 500, 100},
		{"the client's limit only", 0, 50, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, func(cfg *Config) { cfg.MaxStreams = c.server })
			h := hello("a", "http://a")
			h.MaxStreams = c.client
			h.Version, h.Hostname = strings.Repeat("v", 500), strings.Repeat("h", 500)
			p := s.connect(t, h, echo)
			if p.hello.Version != version.Version || p.hello.Hostname != s.hostname || p.hello.MaxStreams != c.server {
				t.Errorf("the server says %+v", p.hello)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if got := s.maxStreams(s.clients[name{client: "a"}]); got != c.want {
				t.Errorf("%d streams, want %d", got, c.want)
			}
			if len(s.log.String()) > 1500 {
				t.Errorf("what the client says is logged as it is: %s", s.log)
			}
		})
	}
}

// TestMaxStreams opens more streams than the client takes.
func TestMaxStreams(t *testing.T) {
	s := start(t)
	h := hello("a", "http://a")
	h.MaxStreams = 2
	s.connect(t, h, echo)
	alive(t, s.open(t, "any"))
	alive(t, s.open(t, "any"))
	b := s.table.Match("any", "/").Backends()[0]
	if _, err := b.Opener.Open(t.Context(), tunnel.Target{}); err != tunnel.ErrTooManyStreams {
		t.Errorf("got %v", err)
	}
}

func TestMetrics(t *testing.T) {
	s := start(t)
	want := func(line, value string) {
		t.Helper()
		if got := s.metric(t, line); got != value {
			t.Errorf("%s is %q, want %q", line, got, value)
		}
	}
	want("http_controlplane_connected_gauge", "0")
	want("tcp_controlplane_connected_gauge", "0")
	if got := s.metric(t, `adit_session_rtt_seconds{of="nearest"}`); got != "" {
		t.Errorf("a round trip to nobody: %s", got)
	}
	s.connect(t, hello("a", "http://a"), echo)
	s.connect(t, hello("b", "http://b", fmt.Sprintf("%d=b:1", freeport.New(t))), echo)
	p := s.connect(t, hello("c", fmt.Sprintf("%d=c:1", freeport.New(t))), echo)
	want("http_controlplane_connected_gauge", "2")
	want("tcp_controlplane_connected_gauge", "2")

	st := s.open(t, "any")
	alive(t, st)
	want("adit_sent_bytes_total", "4") // while the stream is open
	want("adit_received_bytes_total", "4")
	want("adit_streams", "1")
	want("adit_streams_total", "1")
	for _, of := range []string{"nearest", "farthest"} {
		if got := s.metric(t, `adit_session_rtt_seconds{of="`+of+`"}`); got == "" || got == "0" {
			t.Errorf("round trip of the %s: %q", of, got)
		}
	}
	must(t, p.Close())
	s.log.await(t, "client disconnected", "client_id", "c")
	want("tcp_controlplane_connected_gauge", "1")
}

// TestCountedPaths wants a series for each path that is ours and one for all others.
func TestCountedPaths(t *testing.T) {
	s := start(t)
	for _, path := range []string{"/connect", "/status", "/metrics", "/healthz", "/readyz", "/.well-known/ca.crt", "/", "/status/", "/whatever/" + strings.Repeat("x", 100), "/%00"} {
		s.get(t, path, token)
	}
	s.get(t, "/status", "")
	s.connect(t, hello("a", "http://a"), echo)
	got := map[string]string{}
	_, body := s.get(t, "/metrics", token)
	for line := range strings.Lines(body) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && strings.HasPrefix(name, "tcp_controlplane_requests_total{") {
			got[strings.TrimPrefix(name, "tcp_controlplane_requests_total{")] = value
		}
	}
	want := map[string]string{
		`code="426",path="/connect"`: "1", `code="101",path="/connect"`: "1",
		`code="200",path="/status"`: "1", `code="401",path="/status"`: "1", `code="200",path="/metrics"`: "1",
		`code="200",path="/healthz"`: "1", `code="200",path="/readyz"`: "1",
		`code="404",path="/.well-known/ca.crt"`: "1", `code="404",path="other"`: "4",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got\n%v, want\n%v", got, want)
	}
	if got := s.metric(t, `http_controlplane_requests_total{code="404",path="other"}`); got != "4" {
		t.Errorf("the other mode has %s", got)
	}
	if got := s.metric(t, `adit_auth_failures_total{reason="missing"}`); got != "1" {
		t.Errorf("failures: %s", got)
	}
}

func TestPages(t *testing.T) {
	s := start(t)
	for _, c := range []struct {
		path, token string
		code        int
		part        string
	}{
		{"/healthz", "", 200, "ok"},
		{"/readyz", "", 200, "ready"},
		{"/metrics", "", 401, "a token is needed"},
		{"/metrics", token, 200, "adit_build_info"},
		{"/connect", token, 426, "adit.v1"},
		{"/.well-known/ca.crt", "", 404, "this server has no CA of its own"},
		{"/elsewhere", "", 404, "this is the control plane of an adit server"},
	} {
		t.Run(c.path, func(t *testing.T) {
			if code, body := s.get(t, c.path, c.token); code != c.code || !strings.Contains(body, c.part) {
				t.Errorf("got %d %s", code, body)
			}
		})
	}
}
