//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSystemd has systemd's own tools judge the units that the programs print: nothing in them is unknown to it, and
// the services may do little.
func TestSystemd(t *testing.T) {
	t.Parallel()
	secret := newToken()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	client := []string{"URL=wss://tunnel.example.com:8123", "UPSTREAMS=http://127.0.0.1:8080"}
	for _, c := range []struct {
		name, program string
		env           []string
		want          []string // lines of the unit
	}{
		{"server", "server", []string{"TOKEN=" + secret}, []string{"TimeoutStopSec=35s", "CapabilityBoundingSet="}},
		{"server on low ports", "server", []string{"TOKEN=" + secret, "MODE=http,tcp", "PORT=80", "DRAIN_DELAY=5s", "DRAIN_TIMEOUT=1m", "AUTO_TLS_DIR=/var/lib/adit"},
			[]string{"TimeoutStopSec=75s", "AmbientCapabilities=CAP_NET_BIND_SERVICE", "StateDirectory=adit", `Environment="MODE=http,tcp"`}},
		{"server with low TCP ports", "server", []string{"TOKEN=" + secret, "MODE=tcp", "ALLOW_PORTS=2000-3000,22"}, []string{"AmbientCapabilities=CAP_NET_BIND_SERVICE"}},
		{"server with certificates", "server", []string{"TOKEN=" + secret, "LETSENCRYPT_DOMAINS=example.com,on-demand", "NO_PROXY=localhost"},
			[]string{"AmbientCapabilities=CAP_NET_BIND_SERVICE", "StateDirectory=adit", `Environment="LETSENCRYPT_DOMAINS=example.com,on-demand"`, `Environment="NO_PROXY=localhost"`}},
		{"client", "client", append(client, "TOKEN="+secret), []string{`Environment="URL=wss://tunnel.example.com:8123"`, "EnvironmentFile=/etc/adit/client.env"}},
		{"client with files", "client", append(client, "TOKEN_FILE="+file, "NO_PROXY=localhost"),
			[]string{"LoadCredential=TOKEN_FILE:" + file, `Environment="TOKEN_FILE=%d/TOKEN_FILE"`, `Environment="NO_PROXY=localhost"`}},
		{"client through a proxy", "client", append(client, "TOKEN="+secret, "HTTPS_PROXY=http://me:"+secret+"@proxy:3128"), []string{"EnvironmentFile=/etc/adit/client.env"}},
		{"client of a socket", "client", []string{"URL=wss://tunnel.example.com:8123", "UPSTREAMS=unix:///run/app.sock", "TOKEN=" + secret}, []string{"RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX"}},
		{"fileserver", "fileserver", []string{"WEBROOT=/usr/share", "BASIC_AUTH=me:" + secret}, []string{"BindReadOnlyPaths=/usr/share", `Environment="WEBROOT=/usr/share"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := command(t, c.program, "systemd", c.env...)
			if r.code != 0 || r.stderr != "" {
				t.Fatalf("got %+v", r)
			}
			lines := strings.Split(r.stdout, "\n")
			for _, want := range append(c.want, "DynamicUser=yes", "ExecStart=/usr/local/bin/adit-"+c.program) {
				if !slices.Contains(lines, want) {
					t.Errorf("%s is missing in\n%s", want, r.stdout)
				}
			}
			if strings.Contains(r.stdout, secret) {
				t.Error("the unit holds the secret")
			}
			judge(t, "adit-"+c.program+".service", strings.Replace(r.stdout, "ExecStart=/usr/local/bin/adit-"+c.program+"\n", "ExecStart="+binary(t, c.program)+"\n", 1))
		})
	}
}

// judge has systemd judge a unit.
func judge(t *testing.T, name, unit string) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is absent (Debian: systemd)")
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	// What it does not know it only warns of.
	if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("verify: %v\n%s\n%s", err, out, unit)
	}
	// The scale is from 0, locked up, to 100.
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", path).CombinedOutput()
	if err != nil {
		t.Errorf("security: %v\n%s", err, out)
	}
	_, level, _ := strings.Cut(string(out), "Overall exposure level for ")
	t.Log(strings.TrimSpace(level))
}

// TestSystemdSecrets holds that the file with the secrets has them, and nothing else.
func TestSystemdSecrets(t *testing.T) {
	t.Parallel()
	token := newToken()
	r := command(t, "client", "systemd --secrets", "URL=wss://tunnel.example.com:8123", "UPSTREAMS=http://127.0.0.1:8080", "TOKEN="+token, "HTTPS_PROXY=http://me:you@proxy:3128")
	if want := "TOKEN=\"" + token + "\"\nHTTPS_PROXY=\"http://me:you@proxy:3128\"\n"; r.code != 0 || r.stdout != want {
		t.Errorf("got %+v, want %s", r, want)
	}
}

// TestSystemdFaults holds that there is no unit for settings that would not work.
func TestSystemdFaults(t *testing.T) {
	t.Parallel()
	token := "TOKEN=" + newToken()
	for _, c := range []struct {
		name, program string
		env           []string
		want          string
	}{
		{"no token", "server", nil, "TOKEN: is required"},
		{"state elsewhere", "server", []string{token, "AUTO_TLS_DIR=/srv/ca"}, `AUTO_TLS_DIR: "/srv/ca" is not in /var/lib`},
		{"certificates elsewhere", "server", []string{token, "LETSENCRYPT_DOMAINS=on-demand", "LETSENCRYPT_DIR=/srv/ca"}, `LETSENCRYPT_DIR: "/srv/ca" is not in /var/lib`},
		{"hidden socket", "client", []string{token, "URL=wss://a.example", "UPSTREAMS=unix:///tmp/app.sock"}, "UPSTREAMS: the socket /tmp/app.sock is in a folder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if r := command(t, c.program, "systemd", c.env...); r.code != 2 || r.stdout != "" || !strings.Contains(r.stderr, c.want) {
				t.Errorf("got %+v, want %s", r, c.want)
			}
		})
	}
}
