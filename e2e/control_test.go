//go:build unix

package e2e

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestControlPlane(t *testing.T) {
	t.Parallel()
	needProgram(t, "curl", "curl")
	tun := newTunnel(t, "http://"+says(t, "hello"))
	base := "https://" + tun.control
	good, bad := "Authorization: Bearer "+tun.token, "Authorization: Bearer "+newToken()
	for _, c := range []struct {
		name, path string
		args       []string
		code       int
		part       string
	}{
		{"health", "/healthz", nil, 200, "ok"},
		{"readiness", "/readyz", nil, 200, "ready"},
		{"status", "/status", []string{"-H", good}, 200, `{"info":{`},
		{"status without a token", "/status", nil, 401, "a token is needed"},
		{"status with a wrong token", "/status", []string{"-H", bad}, 401, "the token is not one of the server's"},
		{"status with a password", "/status", []string{"-u", "a:" + tun.token}, 401, "the Authorization header is not understood"},
		{"status by POST", "/status", []string{"-H", good, "-X", "POST"}, 405, "use GET"},
		{"metrics", "/metrics", []string{"-H", good}, 200, "\nhttp_controlplane_connected_gauge 1\n"},
		{"metrics without a token", "/metrics", nil, 401, "a token is needed"},
		{"metrics with a wrong token", "/metrics", []string{"-H", bad}, 401, "the token is not one of the server's"},
		{"connect, not a client", "/connect", []string{"-H", good}, 426, "speaks the websocket subprotocol adit.v1"},
		{"connect without a token", "/connect", nil, 401, "a token is needed"},
		{"CA", "/.well-known/ca.crt", nil, 200, "-----BEGIN CERTIFICATE-----"},
		{"CA with a nonce that is none", "/.well-known/ca.crt?nonce=00", nil, 400, "64 hexadecimal digits"},
		{"CA without a proof", "/.well-known/ca.crt?nonce=" + strings.Repeat("0", 64), nil, 403, "the proof belongs to none"},
		{"elsewhere", "/", nil, 404, "this is the control plane"},
		{"elsewhere with a token", "/favicon.ico", []string{"-H", good}, 404, "this is the control plane"},
		{"below a path", "/status/", []string{"-H", good}, 404, "this is the control plane"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := curl(t, append(c.args, "-k", base+c.path)...)
			r.want(t, c.code, c.part)
			for name, want := range map[int]map[string]string{
				401: {"Www-Authenticate": `Bearer realm="adit"`},
				405: {"Allow": "GET, HEAD"},
				426: {"Upgrade": "websocket"},
			}[c.code] {
				if got := r.header.Get(name); got != want {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
		})
	}
	t.Run("plain HTTP", func(t *testing.T) {
		curl(t, "http://"+tun.control+"/status", "-H", good).want(t, 400, "HTTPS server")
	})
	t.Run("not on the data plane", func(t *testing.T) {
		for _, path := range []string{"/status", "/metrics", "/healthz", "/connect", "/.well-known/ca.crt"} {
			curl(t, tun.url(path), "-H", good).want(t, 200, "hello") // the upstream's
		}
	})
	t.Run("not on the metrics port", func(t *testing.T) {
		curl(t, "http://"+tun.metrics+"/status", "-H", good).want(t, 404, "")
	})
	t.Run("logged", func(t *testing.T) {
		tun.await("authentication failed", "reason", "wrong", "path", "/status", "remote_addr", "127.0.0.1:")
		tun.await("authentication failed", "reason", "missing", "path", "/connect")
	})
}

// TestMetricsPort asks each program for what it answers inside its network, without a token.
func TestMetricsPort(t *testing.T) {
	t.Parallel()
	files := start(t, "fileserver", environment("WEBROOT="+t.TempDir())...)
	tun := newTunnel(t, "http://"+files.addr("data plane"))
	for image, addr := range map[string]string{
		"server": tun.metrics, "client": tun.client.addr("metrics"), "fileserver": files.addr("metrics"),
	} {
		t.Run(image, func(t *testing.T) {
			curl(t, "http://"+addr+"/healthz").want(t, 200, "ok")
			curl(t, "http://"+addr+"/readyz").want(t, 200, "ready")
			curl(t, "http://"+addr+"/elsewhere").want(t, 404, "")
			r := curl(t, "http://"+addr+"/metrics")
			r.want(t, 200, `image="`+image+`",sha="`+testSHA+`",version="`+testVersion+`"} 1`)
			if os.PathSeparator == '/' && !strings.Contains(r.body, "\ngo_goroutines ") {
				t.Error("no metrics of the Go runtime")
			}
		})
	}
	t.Run("the client is not ready without a server", func(t *testing.T) {
		mark := tun.client.mark()
		tun.stop()
		tun.client.awaitFrom(mark, "cannot connect")
		addr := tun.client.addr("metrics")
		curl(t, "http://"+addr+"/readyz").want(t, 503, "not connected to any server")
		curl(t, "http://"+addr+"/healthz").want(t, 200, "ok")
	})
}

// TestStatusDocument looks at what programs read: names must stay as they are.
func TestStatusDocument(t *testing.T) {
	t.Parallel()
	before := time.Now().Add(-time.Second)
	s := startServer(t)
	fetch := func() (text string, doc map[string]any) {
		r := curl(t, "-ks", "https://127.0.0.1:"+port(s.control)+"/status", "-H", "Authorization: Bearer "+s.token)
		r.want(t, 200, "")
		if got := r.header.Get("Content-Type"); got != "application/json" {
			t.Errorf("Content-Type %q", got)
		}
		must(t, json.Unmarshal([]byte(r.body), &doc))
		return r.body, doc
	}
	if text, _ := fetch(); !strings.Contains(text, `"clients":[]`) {
		t.Errorf("without clients: %s", text)
	}

	up := says(t, "hello")
	connect(t, s, "http://"+up+",b.test/api=https://"+up+"?insecure=true")
	connect(t, s, "a.test=http://"+up, "CLIENT_ID=edge-7")
	_, doc := fetch()
	info := doc["info"].(map[string]any)
	hostname, err := os.Hostname()
	must(t, err)
	for name, want := range map[string]any{"version": testVersion, "sha": testSHA, "mode": "http", "hostname": hostname} {
		if info[name] != want {
			t.Errorf("info.%s: %v, want %v", name, info[name], want)
		}
	}
	recent(t, info["startTime"], before)
	clients := doc["clients"].([]any)
	if len(clients) != 2 {
		t.Fatalf("got %v", clients)
	}
	first, second := clients[0].(map[string]any), clients[1].(map[string]any)
	if id, _ := first["clientID"].(string); !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) || second["clientID"] != "edge-7" {
		t.Errorf("client ids %v and %v", first["clientID"], second["clientID"])
	}
	for i, c := range []map[string]any{first, second} {
		if addr, _ := c["remoteAddr"].(string); !strings.HasPrefix(addr, "127.0.0.1:") {
			t.Errorf("remoteAddr %v", c["remoteAddr"])
		}
		recent(t, c["since"], before)
		want := []string{`["*=http://` + up + `","b.test/api=https://` + up + `?insecure=true"]`, `["a.test=http://` + up + `"]`}[i]
		if got, _ := json.Marshal(c["upstreams"]); string(got) != want {
			t.Errorf("upstreams %s, want %s", got, want)
		}
	}
}

func recent(t *testing.T, value any, after time.Time) {
	t.Helper()
	text, _ := value.(string)
	if at, err := time.Parse(time.RFC3339, text); err != nil || at.Before(after) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("time %v: %v", value, err)
	}
}

// TestThrottle guesses tokens: that gets slower, but never for those who know one.
func TestThrottle(t *testing.T) {
	t.Parallel()
	s := startServer(t, "AUTO_TLS=false")
	url := "http://" + s.control + "/status"
	code := 0
	for range 20 {
		var err error
		if code, _, err = get(url, "", "Authorization", "Bearer "+newToken()); err != nil {
			t.Fatal(err)
		}
		if code == 429 {
			break
		}
	}
	if code != 429 {
		t.Fatalf("never slowed down: %d", code)
	}
	must(t, answers(url, "clients", s.bearer()...))
	connect(t, s, "http://"+says(t, "hello"), "AUTO_TLS=false", "URL=ws://"+s.control)
}

// TestOperatorToken keeps from clients what the server tells of them.
func TestOperatorToken(t *testing.T) {
	t.Parallel()
	first, second := newToken(), newToken()
	file := write(t, "operators", first)
	s := startServer(t, "OPERATOR_TOKEN_FILE="+file)
	c := connect(t, s, "http://"+says(t, "hello"))
	must(t, answers(s.url("/"), "hello"))
	ask := func(token string, want int) {
		t.Helper()
		for _, path := range []string{"/status", "/metrics"} {
			if code, body, err := get("https://"+s.control+path, "", "Authorization", "Bearer "+token); err != nil || code != want {
				t.Errorf("%s: %d %s %v, want %d", path, code, body, err, want)
			}
		}
	}
	ask(s.token, 401)
	ask(first, 200)
	if r := command(t, "server", "status", s.here()...); r.code != 0 || !strings.Contains(r.stdout, "*=http://") {
		t.Errorf("got %+v", r)
	}
	if r := command(t, "client", "status", c.env...); r.code != 1 || !strings.Contains(r.stderr, "one with OPERATOR_TOKEN tells its status to nobody else") {
		t.Errorf("got %+v", r)
	}
	thief := startClient(t, s, "http://127.0.0.1:1", "TOKEN="+first)
	thief.await("cannot connect", "error", "TOKEN")
	must(t, os.WriteFile(file, []byte(second), 0o600))
	s.await("took up changed tokens", "file", file)
	ask(first, 401)
	ask(second, 200)
}
