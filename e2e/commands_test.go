//go:build unix

package e2e

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestStatusCommand asks every program about the tunnel, whatever TLS it speaks.
func TestStatusCommand(t *testing.T) {
	t.Parallel()
	up := "http://" + says(t, "hello")
	ca := newAuthority(t)
	_, cert, key := ca.issue(t, "127.0.0.1")
	for _, c := range []struct {
		name           string
		server, client []string
		scheme         string
	}{
		{"auto-TLS", nil, nil, "wss://"},
		{"ws", []string{"AUTO_TLS=false"}, []string{"AUTO_TLS=false"}, "ws://"},
		{"TLS_CERT", []string{"TLS_CERT=" + cert, "TLS_KEY=" + key, "HTTPS_PORT=0"}, []string{"TLS_CA=" + ca.pem}, "wss://"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, c.server...)
			client := connect(t, s, up, append(c.client, "URL="+c.scheme+s.control)...)
			for name, env := range map[string][]string{"server": s.here(), "client": client.env} {
				t.Run(name, func(t *testing.T) {
					r := command(t, name, "status", env...)
					want := regexp.MustCompile(`^Hostname: \S+\n` +
						`Started:  (just now|\d+ seconds?)\n` +
						`Mode:     http\n` +
						`Version:  ` + regexp.QuoteMeta(testVersion) + `\n\n` +
						`Client ID {25}Remote Address +Connected   Upstreams\n` +
						`[0-9a-f]{32}  127\.0\.0\.1:\d+ +(just now|\d+ seconds?) +\*=` + regexp.QuoteMeta(up) + `\n$`)
					if r.code != 0 || r.stderr != "" || !want.MatchString(r.stdout) {
						t.Errorf("got %+v", r)
					}
					r = command(t, name, "status --json", env...)
					var doc struct {
						Clients []struct{ Upstreams []string }
					}
					if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil || r.code != 0 || len(doc.Clients) != 1 || !slices.Equal(doc.Clients[0].Upstreams, []string{"*=" + up}) {
						t.Errorf("--json: %v, %+v", err, r)
					}
				})
			}
			t.Run("wrong token", func(t *testing.T) {
				r := command(t, "server", "status", append(s.here(), "TOKEN="+newToken())...)
				if r.code != 1 || r.stdout != "" || !regexp.MustCompile(`(?i)token`).MatchString(r.stderr) {
					t.Errorf("got %+v", r)
				}
			})
		})
	}
	t.Run("no clients", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		if r := command(t, "server", "status", s.here()...); r.code != 0 || !strings.Contains(r.stdout, "\n\nNo clients are connected.\n") {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("no server", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		s.stop()
		for name, env := range map[string][]string{"server": s.here(), "client": {"URL=wss://" + s.control, "TOKEN=" + s.token, "UPSTREAMS=" + up}} {
			if r := command(t, name, "status", env...); r.code != 1 || r.stdout != "" || !strings.Contains(r.stderr, "refused") {
				t.Errorf("%s: got %+v", name, r)
			}
		}
	})
	t.Run("fileserver", func(t *testing.T) {
		t.Parallel()
		files := start(t, "fileserver", environment("WEBROOT="+t.TempDir())...)
		env := append(files.env, "METRICS_PORT="+port(files.addr("metrics")))
		if r := command(t, "fileserver", "status", env...); r.code != 0 || !strings.Contains(r.stdout, "\nMode:     fileserver\n") {
			t.Errorf("got %+v", r)
		}
	})
}

// TestHealthcheck runs what is an image's own health check.
func TestHealthcheck(t *testing.T) {
	t.Parallel()
	files := start(t, "fileserver", environment("WEBROOT="+t.TempDir())...)
	tun := newTunnel(t, "http://"+files.addr("data plane"))
	programs := map[string]*program{"server": tun.program, "client": tun.client, "fileserver": files}
	for name, p := range programs {
		env := append(p.env, "METRICS_PORT="+port(p.addr("metrics")))
		for _, args := range []string{"healthcheck", "healthcheck --ready"} {
			if r := command(t, name, args, env...); r != (result{}) {
				t.Errorf("%s %s: got %+v", name, args, r)
			}
		}
	}
	tun.stop()
	tun.client.await("cannot connect")
	env := append(tun.client.env, "METRICS_PORT="+port(tun.client.addr("metrics")))
	if r := command(t, "client", "healthcheck", env...); r.code != 0 {
		t.Errorf("client without a server: got %+v", r)
	}
	if r := command(t, "client", "healthcheck --ready", env...); r.code != 1 || !strings.Contains(r.stderr, "not connected to any server") {
		t.Errorf("client without a server, ready: got %+v", r)
	}
	if r := command(t, "server", "healthcheck", tun.here()...); r.code != 1 || !strings.Contains(r.stderr, "connection refused") {
		t.Errorf("server that is gone: got %+v", r)
	}
}

// TestEnv prints the settings of each program: all of them, and no secret.
func TestEnv(t *testing.T) {
	t.Parallel()
	token := newToken()
	for _, c := range []struct {
		name  string
		env   []string
		lines []string // regular expressions
	}{
		{"server", []string{"TOKEN=" + token, "PORT=81", "DRAIN_TIMEOUT=3s"},
			[]string{`TOKEN\* +\[redacted\] `, `PORT +81 +8000 `, `DRAIN_TIMEOUT +3s +25s `, `AUTO_TLS +true `}},
		{"client", []string{"TOKEN_FILE=" + write(t, "token", token), "URL=wss://example.com:8123", "UPSTREAMS=http://app"},
			[]string{`TOKEN\* +\(from /\S+/token\) `, `URL +wss://example\.com:8123 `, `UPSTREAMS +\S*http://app`}},
		{"fileserver", []string{"BASIC_AUTH=somebody:" + newToken()},
			[]string{`BASIC_AUTH\* +\[redacted\] `, `WEBROOT +\. `}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := command(t, c.name, "env", c.env...)
			if r.code != 0 || r.stderr != "" {
				t.Errorf("got %+v", r)
			}
			for _, line := range c.lines {
				if !regexp.MustCompile(`(?m)^` + line).MatchString(r.stdout) {
					t.Errorf("no line %s in\n%s", line, r.stdout)
				}
			}
		})
	}
	t.Run("with faults", func(t *testing.T) {
		r := command(t, "server", "env", "TOKEN="+token, "PORT=x")
		if r.code != 2 || !strings.Contains(r.stdout, "[redacted]") || !strings.Contains(r.stderr, `PORT: "x" is not a port`) {
			t.Errorf("got %+v", r)
		}
	})
}

func TestVersionAndUsage(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"server", "client", "fileserver"} {
		t.Run(name, func(t *testing.T) {
			if r := command(t, name, "version"); r != (result{stdout: "adit " + name + " " + testVersion + " (" + testSHA + ")\n"}) {
				t.Errorf("version: got %+v", r)
			}
			for _, args := range []string{"help", "-h", "--help"} {
				if r := command(t, name, args); r.code != 0 || r.stderr != "" || !strings.Contains(r.stdout, "\nUsage:\n  "+name+" ") {
					t.Errorf("%s: got %+v", args, r)
				}
			}
			for _, args := range []string{"run", "serve now", "--port=80", "status --yaml", "healthcheck now"} {
				if r := command(t, name, args); r.code != 2 || r.stdout != "" || !strings.Contains(r.stderr, "\nUsage:\n") {
					t.Errorf("%s: got %+v", args, r)
				}
			}
		})
	}
}
