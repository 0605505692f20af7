package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/images/client/agent"
	"github.com/adit-tunnel/adit/shared/config"
)

const token = "verysecret-0123456789"

// environment sets the variables of a client and no others.
func environment(t testing.TB, variables ...string) {
	t.Helper()
	for _, name := range config.Names(&settings{}) {
		t.Setenv(name, "")
	}
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

func TestSettings(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprintf("host-%d.example.com=http://app-%[1]d:8080", i)
	}
	good := []string{"URL=wss://host:8123", "TOKEN=" + token, "UPSTREAMS=http://app"}
	for _, c := range []struct {
		name      string
		variables []string // beside good ones
		faults    []string // how each begins
	}{
		{"the least", nil, nil},
		{"all", []string{"URL=wss://a:8123, https://b/path\nws://c", "AUTO_TLS=false", "CLIENT_ID=edge-7.a_B", "DIAL_TIMEOUT=1s", "PING_INTERVAL=100ms", "METRICS_PORT=off", "METRICS_ADDR=::1", "DRAIN_TIMEOUT=0s"}, nil},
		{"wait for a connection", []string{"WAIT_UPSTREAM=tcp", "WAIT_INTERVAL=100ms"}, nil},
		{"wait for an answer", []string{"WAIT_UPSTREAM=/healthz=200-299", "UPSTREAMS=http://app?wait=off,a.test=http://b?wait=/up"}, nil},
		{"wait for something", []string{"WAIT_UPSTREAM=http"}, []string{`WAIT_UPSTREAM: "http" is no way to wait: write tcp, a path such as /healthz`}},
		{"wait for one's something", []string{"UPSTREAMS=http://app?wait=/up=ok"}, []string{`UPSTREAMS: "http://app?wait=/up=ok": wait="/up=ok": "ok" is neither a status`}},
		{"wait in a hurry", []string{"WAIT_INTERVAL=1ms"}, []string{"WAIT_INTERVAL: 1ms is too short"}},
		{"nothing but forwards", []string{"UPSTREAMS=", "FORWARDS=3000:10.0.0.2:3000"}, nil},
		{"upstreams and forwards", []string{"FORWARDS=0:db:5432, [::1]:3000:[fd00::2]:3000\n0.0.0.0:80:web.internal:80"}, nil},
		{"bad forwards", []string{"FORWARDS=3000,80:10.0.0.2:80"}, []string{`FORWARDS: "3000" is not a forward: write port:host:port`}},
		{"own CA", []string{"TLS_CA=" + certificate(t)}, nil},
		{"files", []string{"TOKEN=", "TOKEN_FILE=" + file("token", token+"\n"), "TLS_CA_FILE=" + file("ca", certificate(t))}, nil},
		{"several tokens", []string{"TOKEN=# new\n" + token + ",older-0123456789012"}, nil},

		{"nothing", []string{"URL=", "TOKEN=", "UPSTREAMS="}, []string{
			"URL: is required but not set", "TOKEN: is required but not set", "UPSTREAMS: is not set, and neither is FORWARDS"}},
		{"no URL in the list", []string{"URL= , "}, []string{"URL: holds no URL: write wss://host:8123"}},
		{"no URL", []string{"URL=host"}, []string{"URL: is no URL of a server: write wss://host:8123"}},
		{"several bad URLs", []string{"URL=ftp://a,wss://verysecret@b,wss://c?verysecret,wss://d"}, []string{"URL: ftp://a has a scheme", "b has a user in it", "c has a query"}},
		{"the same server twice", []string{"URL=wss://Host:8123,wss://host:8123/"}, []string{"URL: host:8123 is there twice"}},
		{"clear text", []string{"URL=ws://host"}, []string{"URL: ws://host sends the token in clear text: write wss://host, or set AUTO_TLS=false"}},
		{"clear text, but a CA", []string{"URL=ws://host", "TLS_CA=" + certificate(t)}, []string{"URL: ws://host uses no TLS, but TLS_CA is set"}},
		{"short token", []string{"TOKEN=verysecret"}, []string{"TOKEN: token 1 has 10 bytes, fewer than 16"}},
		{"blank token", []string{"TOKEN=  "}, []string{"TOKEN: is blank"}},
		{"token with a space", []string{"TOKEN=verysecret 0123456789"}, []string{"TOKEN: token 1 contains a space"}},
		{"no token in the file", []string{"TOKEN=", "TOKEN_FILE=" + file("none", "# verysecret\n")}, []string{"TOKEN: holds no token"}},
		{"token twice", []string{"TOKEN_FILE=" + file("other", token)}, []string{"TOKEN: both TOKEN and TOKEN_FILE are set"}},
		{"no token file", []string{"TOKEN=", "TOKEN_FILE=/nope"}, []string{"TOKEN_FILE: open /nope"}},
		{"bad upstreams", []string{"UPSTREAMS=ftp://a,http://b,http://c"}, []string{`UPSTREAMS: "ftp://a": unknown scheme`, `"http://c": the route * is there twice`}},
		{"too many upstreams", []string{"UPSTREAMS=" + strings.Join(many, ",")}, []string{"UPSTREAMS: hello of "}},
		{"no certificate", []string{"TLS_CA=verysecret"}, []string{"TLS_CA: holds no certificate in PEM form"}},
		{"bad id", []string{"CLIENT_ID=a b"}, []string{`CLIENT_ID: "a b" is not 1 to 64 letters`}},
		{"long id", []string{"CLIENT_ID=" + strings.Repeat("a", 65)}, []string{"CLIENT_ID: "}},
		{"short times", []string{"DIAL_TIMEOUT=10ms", "PING_INTERVAL=0s"}, []string{"DIAL_TIMEOUT: 10ms is too short", "PING_INTERVAL: 0s is too short"}},
		{"times without a unit", []string{"DIAL_TIMEOUT=10", "PING_INTERVAL=15", "DRAIN_TIMEOUT=25"}, []string{"DRAIN_TIMEOUT: ", "DIAL_TIMEOUT: ", "PING_INTERVAL: "}},
		{"negative drain", []string{"DRAIN_TIMEOUT=-1s"}, []string{"DRAIN_TIMEOUT: -1s is negative"}},
		{"service link", []string{"METRICS_PORT=tcp://10.0.0.1:80"}, []string{"METRICS_PORT: "}},
		{"a word", []string{"AUTO_TLS=yes", "LOG_LEVEL=loud", "LOG_FORMAT=xml", "METRICS_PORT=none"}, []string{"LOG_LEVEL: ", "LOG_FORMAT: ", "AUTO_TLS: ", "METRICS_PORT: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			environment(t, append(good[:len(good):len(good)], c.variables...)...)
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

// certificate returns one in PEM form.
func certificate(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestTLSMode(t *testing.T) {
	for _, c := range []struct {
		variables []string
		want      agent.TLSMode
	}{
		{nil, agent.TLSAuto},
		{[]string{"AUTO_TLS=false"}, agent.TLSPublic},
		{[]string{"TLS_CA=" + certificate(t)}, agent.TLSCustom},
		{[]string{"AUTO_TLS=false", "TLS_CA=" + certificate(t)}, agent.TLSCustom},
	} {
		environment(t, append([]string{"URL=wss://host", "TOKEN=" + token, "UPSTREAMS=http://app"}, c.variables...)...)
		var cfg settings
		must(t, config.Load(&cfg))
		if got := cfg.tlsMode(); got != c.want {
			t.Errorf("%q: mode %d, want %d", c.variables, got, c.want)
		}
	}
}

// TestCA reads the file of TLS_CA again, unless there is nothing to be read.
func TestCA(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca")
	first, second := certificate(t), certificate(t)
	must(t, os.WriteFile(path, []byte(first), 0o600))
	environment(t, "URL=wss://host", "TOKEN="+token, "UPSTREAMS=http://app", "TLS_CA_FILE="+path)
	var cfg settings
	must(t, config.Load(&cfg))
	want := func(what, ca string) {
		t.Helper()
		if got := cfg.ca(); strings.TrimSpace(got) != strings.TrimSpace(ca) {
			t.Errorf("%s: got %s", what, got)
		}
	}
	want("at first", first)
	must(t, os.WriteFile(path, []byte(second), 0o600))
	want("changed", second)
	must(t, os.WriteFile(path, []byte("\n"), 0o600))
	want("blank", first)
	must(t, os.Remove(path))
	want("gone", first)
}

func TestString(t *testing.T) {
	var s servers
	must(t, s.Decode("https://B.Test/x ws://a"))
	if got := s.String(); got != "wss://b.test/x,ws://a" {
		t.Errorf("got %s", got)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A service under systemd needs a privilege for a local port below 1024.
func TestNeedsOfForwards(t *testing.T) {
	environment(t, "URL=wss://host:8123", "TOKEN="+token, "FORWARDS=80:web.internal:80,8080:web.internal:80", "METRICS_PORT=off")
	s := &settings{}
	must(t, config.Load(s))
	n, err := needs(s)
	if err != nil || !slices.Equal(n.Ports, []int{80, 8080}) {
		t.Errorf("needs %v, %v", n.Ports, err)
	}
}
