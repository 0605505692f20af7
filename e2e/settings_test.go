//go:build unix

package e2e

import (
	"encoding/json"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestFaults starts programs with settings that are wrong: every fault is told at once, by the name of its variable,
// and the exit code is 2.
func TestFaults(t *testing.T) {
	t.Parallel()
	token, up := newToken(), "UPSTREAMS=http://127.0.0.1:1"
	blank := write(t, "blank", " \n")
	good := write(t, "token", token+"\n")
	_, cert, key := newAuthority(t).issue(t, "127.0.0.1")
	_, _, otherKey := newAuthority(t).issue(t, "127.0.0.1")
	for _, c := range []struct {
		name, program string
		env           []string
		faults        map[string]string // by variable, a part of what is said
	}{
		{"nothing set", "server", nil, map[string]string{"TOKEN": "set TOKEN_FILE to the path"}},
		{"nothing set", "client", nil, map[string]string{"TOKEN": "is required", "URL": "is required", "UPSTREAMS": "is not set, and neither is FORWARDS"}},
		{"everything at once", "server", []string{"TOKEN=easy-guess", "MODE=https", "PORT=tcp://10.0.0.1:80", "CONTROL_PORT=123456", "AUTO_TLS=yes",
			"TLS_CERT=" + cert, "DRAIN_TIMEOUT=25", "LOG_LEVEL=loud", "METRICS_PORT=none", "OPEN_TIMEOUT=1ms", "TRUSTED_PROXIES=lan"},
			map[string]string{
				"TOKEN": "has 10 bytes, fewer than 16", "MODE": `unknown mode "https"`, "PORT": "put enableServiceLinks: false into the pod's spec",
				"CONTROL_PORT": `"123456" is not a port`, "AUTO_TLS": "neither true nor false", "TLS_KEY": "is not set, but TLS_CERT is",
				"DRAIN_TIMEOUT": "a number with a unit", "LOG_LEVEL": "is not a level", "METRICS_PORT": "or off", "OPEN_TIMEOUT": "too short",
				"TRUSTED_PROXIES": `"lan" is not`,
			}},
		{"everything at once", "client", []string{"TOKEN=easy-guess", "URL=ws://example.com", "UPSTREAMS=http://app/path,ftp://app,example.com=db:5432,http://a,http://b",
			"CLIENT_ID=a/b", "METRICS_PORT=tcp://10.0.0.1:8125", "PING_INTERVAL=0s", "TLS_CA=hello"},
			map[string]string{
				"TOKEN": "has 10 bytes", "URL": "", "UPSTREAMS": "", "CLIENT_ID": "letters, digits",
				"METRICS_PORT": "Kubernetes service link", "PING_INTERVAL": "too short", "TLS_CA": "no certificate in PEM form",
			}},
		{"everything at once", "fileserver", []string{"WEBROOT=/nowhere", "BASIC_AUTH=somebody", "PORT=tcp://10.0.0.1:80", "BROWSE=ja", "ALLOW_IPS=lan"},
			map[string]string{
				"WEBROOT": "does not exist", "BASIC_AUTH": "user:password", "PORT": "Kubernetes service link",
				"BROWSE": "neither true nor false", "ALLOW_IPS": `"lan" is not`,
			}},
		{"blank token", "server", []string{"TOKEN=   "}, map[string]string{"TOKEN": "is blank"}},
		{"empty token counts as none", "server", []string{"TOKEN="}, map[string]string{"TOKEN": "is required"}},
		{"blank file", "server", []string{"TOKEN_FILE=" + blank}, map[string]string{"TOKEN_FILE": "is blank"}},
		{"file that is missing", "client", []string{"TOKEN_FILE=/nowhere", "URL=wss://example.com", up}, map[string]string{"TOKEN_FILE": "no such file"}},
		{"value and file", "server", []string{"TOKEN=" + token, "TOKEN_FILE=" + good}, map[string]string{"TOKEN": "both TOKEN and TOKEN_FILE are set"}},
		{"one token of several is short", "server", []string{"TOKEN=" + token + ",easy-guess"}, map[string]string{"TOKEN": "token 2 has 10 bytes"}},
		{"key without a certificate", "server", []string{"TOKEN=" + token, "TLS_KEY=" + key}, map[string]string{"TLS_CERT": "is not set, but TLS_KEY is"}},
		{"key of another certificate", "server", []string{"TOKEN=" + token, "TLS_CERT=" + cert, "TLS_KEY=" + otherKey, "HTTPS_PORT=0", "PORT=0", "CONTROL_PORT=0", "METRICS_PORT=0"},
			map[string]string{"TLS_CERT": "does not match"}},
		{"ports that collide", "server", []string{"TOKEN=" + token, "PORT=8123", "METRICS_PORT=8123", "CONTROL_ADDR=127.0.0.1"}, map[string]string{"CONTROL_PORT": "8123 is PORT too", "METRICS_PORT": "8123 is"}},
		{"ws with auto-TLS", "client", []string{"TOKEN=" + token, "URL=ws://example.com:8123", up}, map[string]string{"URL": "write wss://example.com:8123, or set AUTO_TLS=false"}},
		{"ws with TLS_CA", "client", []string{"TOKEN=" + token, "URL=ws://example.com", up, "AUTO_TLS=false", "TLS_CA=" + cert}, map[string]string{"URL": "but TLS_CA is set"}},
		{"URL of another kind", "client", []string{"TOKEN=" + token, "URL=ftp://example.com", up}, map[string]string{"URL": "use wss://"}},
		{"token in URL", "client", []string{"TOKEN=" + token, "URL=wss://" + token + "@example.com", up}, map[string]string{"URL": "the token goes into TOKEN"}},
		{"same upstream route twice", "client", []string{"TOKEN=" + token, "URL=wss://example.com", "UPSTREAMS=http://a,http://b"}, map[string]string{"UPSTREAMS": "the route * is there twice"}},
		{"unknown option", "client", []string{"TOKEN=" + token, "URL=wss://example.com", "UPSTREAMS=http://a?insicure=true"}, map[string]string{"UPSTREAMS": `unknown option "insicure"`}},
	} {
		t.Run(c.program+"/"+c.name, func(t *testing.T) {
			r := command(t, c.program, "", c.env...)
			got := map[string]string{}
			for line := range strings.Lines(r.stderr) {
				var e struct{ Level, Variable, Error, Message string }
				if err := json.Unmarshal([]byte(line), &e); err != nil || e.Level != "error" || e.Message != "bad configuration" {
					t.Errorf("%v: %s", err, line)
				}
				got[e.Variable] += e.Error
			}
			if r.code != 2 || r.stdout != "" {
				t.Errorf("exit code %d, want 2, stdout %q", r.code, r.stdout)
			}
			if g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(c.faults)); !slices.Equal(g, w) {
				t.Errorf("faults of %v, want %v", g, w)
			}
			for name, part := range c.faults {
				if !strings.Contains(got[name], part) {
					t.Errorf("%s: %q, want %q", name, got[name], part)
				}
			}
			if strings.Contains(r.stderr, "easy-guess") || strings.Contains(r.stderr, token) {
				t.Errorf("a token is printed:\n%s", r.stderr)
			}
		})
	}
	t.Run("for people", func(t *testing.T) {
		r := command(t, "server", "", "LOG_FORMAT=console")
		if r.code != 2 || !strings.Contains(r.stderr, "ERR bad configuration error=\"is required") || !strings.Contains(r.stderr, "variable=TOKEN") {
			t.Errorf("got %+v", r)
		}
	})
}

// TestFaultsOfTheMachine starts programs whose settings are right, but not here: exit code 1, and what to do.
func TestFaultsOfTheMachine(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	taken := port(l.Addr().String())
	for _, c := range []struct {
		name, program string
		env           []string
		part          string
	}{
		{"port in use", "server", []string{"TOKEN=" + newToken(), "PORT=" + taken}, "PORT: port " + taken + " is used by another program"},
		{"control port in use", "server", []string{"TOKEN=" + newToken(), "CONTROL_PORT=" + taken}, "CONTROL_PORT: port " + taken + " is used by another program"},
		{"metrics port in use", "client", []string{"TOKEN=" + newToken(), "URL=wss://127.0.0.1:1", "UPSTREAMS=http://a", "METRICS_PORT=" + taken},
			"METRICS_PORT: port " + taken + " is used by another program"},
		{"no address of this machine", "fileserver", []string{"WEBROOT=" + t.TempDir(), "DATA_ADDR=192.0.2.1"}, "PORT: 192.0.2.1 is not an address of this machine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r := command(t, c.program, "", environment(c.env...)...); r.code != 1 || !strings.Contains(r.stderr, c.part) {
				t.Errorf("got %+v", r)
			}
		})
	}
	t.Run("folder of the CA", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		must(t, os.WriteFile(file, nil, 0o600))
		r := command(t, "server", "", environment("TOKEN="+newToken(), "AUTO_TLS_DIR="+file)...)
		if r.code != 2 || !strings.Contains(r.stderr, `"variable":"AUTO_TLS_DIR"`) {
			t.Errorf("got %+v", r)
		}
	})
}
