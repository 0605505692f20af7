package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/shared/config"
)

func TestSettings(t *testing.T) {
	dir := webroot(t)
	file := filepath.Join(dir, "a.txt")
	for _, c := range []struct {
		name, variables string
		faults          []string // how each begins
	}{
		{"defaults", "", nil},
		{"all", "WEBROOT=" + dir + " BROWSE=true PORT=0 DATA_ADDR=::1 BASIC_AUTH=a:b:c ALLOW_IPS=10.0.0.0/8,::1 METRICS_PORT=off", nil},
		{"no folder", "WEBROOT=" + dir + "/nope", []string{"WEBROOT: " + dir + "/nope does not exist: create or mount it"}},
		{"a file", "WEBROOT=" + file, []string{"WEBROOT: " + file + " is not a folder"}},
		{"below a file", "WEBROOT=" + file + "/x", []string{"WEBROOT: " + file + "/x is not a folder"}},
		{"no colon", "BASIC_AUTH=verysecret", []string{"BASIC_AUTH: is not of the form user:password"}},
		{"a hash", "BASIC_AUTH=verysecret:$2y$10$verysecret", []string{"BASIC_AUTH: has a hash"}},
		{"no network", "ALLOW_IPS=,", []string{"ALLOW_IPS: holds no network"}},
		{"no user", "BASIC_AUTH=:verysecret", []string{"BASIC_AUTH: is not of the form"}},
		{"no password", "BASIC_AUTH=verysecret:", []string{"BASIC_AUTH: is not of the form"}},
		{"same ports", "PORT=8126", []string{"METRICS_PORT: 8126 is PORT too"}},
		{"same ports, other addresses", "PORT=8126 DATA_ADDR=127.0.0.1 METRICS_ADDR=127.0.0.2", nil},
		{"several", "WEBROOT=/nope BASIC_AUTH=verysecret", []string{"WEBROOT: ", "BASIC_AUTH: "}},
		{"service link", "PORT=tcp://10.0.0.1:80", []string{"PORT: "}},
		{"networks", "ALLOW_IPS=everyone", []string{"ALLOW_IPS: "}},
		{"a word", "BROWSE=yes", []string{"BROWSE: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range config.Names(&settings{}) {
				t.Setenv(name, "")
			}
			for _, v := range strings.Fields(c.variables) {
				name, value, _ := strings.Cut(v, "=")
				t.Setenv(name, value)
			}
			err := config.Load(&settings{})
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(c.faults) {
				t.Fatalf("got %q, want %q", got, c.faults)
			}
			for i, want := range c.faults {
				if !strings.HasPrefix(got[i], want) || strings.Contains(got[i], "verysecret") {
					t.Errorf("got %s, want %s", got[i], want)
				}
			}
		})
	}
}

// TestClosedWebroot needs a user that permissions apply to.
func TestClosedWebroot(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may enter every folder")
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0))
	t.Setenv("WEBROOT", dir)
	if err := config.Load(&settings{}); err == nil || !strings.HasPrefix(err.Error(), "WEBROOT: ") {
		t.Errorf("got %v", err)
	}
}

func TestProbe(t *testing.T) {
	for _, c := range []struct{ addr, port, want string }{
		{"", "8126", "http://127.0.0.1:8126"},
		{"0.0.0.0", "1", "http://127.0.0.1:1"},
		{"::", "1", "http://[::1]:1"},
		{"10.0.0.1", "1", "http://10.0.0.1:1"},
		{"", "off", ""},
		{"", "0", ""},
	} {
		t.Run(c.addr+" "+c.port, func(t *testing.T) {
			var cfg settings
			cfg.MetricsAddr = c.addr
			must(t, cfg.MetricsPort.Decode(c.port))
			got, _, err := probe(&cfg)
			if got != c.want || (err != nil) != (c.want == "") {
				t.Errorf("got %s %v, want %s", got, err, c.want)
			}
		})
	}
}
