package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/shared/autotls"
	"github.com/adit-tunnel/adit/shared/config"
)

const secretToken = "verysecret-0123456789"

func TestSettings(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name      string
		variables []string // beside a good TOKEN
		faults    []string // how each begins
	}{
		{"the least", nil, nil},
		{"all", []string{"MODE=http,tcp", "PORT=0", "DATA_ADDR=127.0.0.1", "CONTROL_PORT=0", "CONTROL_ADDR=::1", "AUTO_TLS_SAN=a.test, 10.0.0.1, ::1",
			"ALLOW_PORTS=22,8000-8999", "ALLOW_HOSTS=a.test,*.b.test", "TRUSTED_PROXIES=fly,cloudflare,10.0.0.0/8,::1", "PROXY_PROTOCOL=true", "RESPONSE_TIMEOUT=0s", "DRAIN_DELAY=1s",
			"MAX_CLIENTS=1", "MAX_STREAMS=1", "MAX_LANES=1", "LANES=false", "MAX_CONNECTIONS=1", "METRICS_PORT=off", "OPEN_TIMEOUT=100ms", "PING_INTERVAL=100ms"}, nil},
		{"own certificate", []string{"TLS_CERT_FILE=" + file("cert", "x"), "TLS_KEY_FILE=" + file("key", "x")}, nil},
		{"modes", []string{"MODE= TCP , HTTP "}, nil},
		{"several tokens", []string{"TOKEN=" + secretToken + "\n# old\nanother-0123456789"}, nil},
		{"operators", []string{"OPERATOR_TOKEN=another-0123456789"}, nil},
		{"same port, other addresses", []string{"PORT=8123", "DATA_ADDR=127.0.0.1", "CONTROL_ADDR=127.0.0.2"}, nil},
		{"same port, but not used", []string{"MODE=tcp", "PORT=8123"}, nil},
		{"free ports", []string{"PORT=0", "CONTROL_PORT=0", "METRICS_PORT=0"}, nil},

		{"no token", []string{"TOKEN="}, []string{"TOKEN: is required but not set: set TOKEN, or set TOKEN_FILE"}},
		{"short token", []string{"TOKEN=verysecret"}, []string{"TOKEN: token 1 has 10 bytes, fewer than 16"}},
		{"one of them short", []string{"TOKEN=" + secretToken + ",verysecret"}, []string{"TOKEN: token 2 has 10 bytes"}},
		{"blank token", []string{"TOKEN= "}, []string{"TOKEN: is blank"}},
		{"blank token file", []string{"TOKEN=", "TOKEN_FILE=" + file("blank", " \n")}, []string{"TOKEN_FILE: file " + filepath.Join(dir, "blank") + " is blank"}},
		{"short token of operators", []string{"OPERATOR_TOKEN=verysecret"}, []string{"OPERATOR_TOKEN: token 1 has 10 bytes"}},
		{"operators and clients share one", []string{"OPERATOR_TOKEN=another-0123456789," + secretToken}, []string{"OPERATOR_TOKEN: holds one that TOKEN holds, too"}},
		{"unknown mode", []string{"MODE=udp"}, []string{`MODE: unknown mode "udp"`}},
		{"half a mode", []string{"MODE=http,"}, []string{"MODE: "}},
		{"certificate without a key", []string{"TLS_CERT=verysecret"}, []string{"TLS_KEY: is not set, but TLS_CERT is"}},
		{"key without a certificate", []string{"TLS_KEY=verysecret"}, []string{"TLS_CERT: is not set, but TLS_KEY is"}},
		{"keys of licences", []string{"LICENSE_PUBLIC_KEY=# old\n11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="}, nil},
		{"keys that are none", []string{"LICENSE_PUBLIC_KEY=verysecret"}, []string{"LICENSE_PUBLIC_KEY: key 1 is neither"}},
		{"private key", []string{"LICENSE_PUBLIC_KEY=-----BEGIN PRIVATE KEY-----\nverysecret"}, []string{"LICENSE_PUBLIC_KEY: holds a private key"}},
		{"bad hosts", []string{"ALLOW_HOSTS=a.test,a.test/b,*.*.test"}, []string{`ALLOW_HOSTS: "a.test/b" is not a host`, `"*.*.test" is not a host`}},
		{"forwards", []string{"FORWARD_ALLOW=10.0.0.2:3000, *.internal:443\n[fd00::/8]:1-9 localhost:*"}, nil},
		{"bad forwards", []string{"FORWARD_ALLOW=db,127.0.0.0/8:80"}, []string{`FORWARD_ALLOW: "db" has no port: write host:port`, `"127.0.0.0/8:80" is a network of addresses that have to be named one by one`}},
		{"access log", []string{"ACCESS_LOG=json"}, []string{"ACCESS_LOG: "}},
		{"bad ports", []string{"ALLOW_PORTS=22,all,9-8"}, []string{`ALLOW_PORTS: "all" is neither`, `"9-8" is neither`}},
		{"bad networks", []string{"TRUSTED_PROXIES=everyone"}, []string{`TRUSTED_PROXIES: "everyone" is not a network`}},
		{"proxies that cannot be told apart", []string{"TRUSTED_PROXIES=fly,private"}, []string{`TRUSTED_PROXIES: fly stands for 172.16.0.0/12`}},
		{"PROXY protocol from nobody", []string{"PROXY_PROTOCOL=true"}, []string{"PROXY_PROTOCOL: is true, but TRUSTED_PROXIES is not set"}},
		{"short times", []string{"OPEN_TIMEOUT=1ms", "PING_INTERVAL=0s"}, []string{"OPEN_TIMEOUT: 1ms is too short", "PING_INTERVAL: 0s is too short"}},
		{"negative times", []string{"RESPONSE_TIMEOUT=-1s", "DRAIN_DELAY=-1s", "DRAIN_TIMEOUT=-1s"}, []string{"RESPONSE_TIMEOUT: -1s is negative", "DRAIN_DELAY: -1s is negative", "DRAIN_TIMEOUT: -1s is negative"}},
		{"negative limits", []string{"MAX_CLIENTS=-1", "MAX_CONNECTIONS=-1", "MAX_STREAMS=0", "MAX_LANES=-1"}, []string{"MAX_CLIENTS: -1 is negative", "MAX_LANES: -1 is negative", "MAX_CONNECTIONS: -1 is negative", "MAX_STREAMS: 0 is too few"}},
		{"no numbers", []string{"MAX_CLIENTS=many", "OPEN_TIMEOUT=3"}, []string{"OPEN_TIMEOUT: ", "MAX_CLIENTS: "}},
		{"bad names", []string{"AUTO_TLS_SAN=good.test,https://bad.test,bad.test:8123"}, []string{`AUTO_TLS_SAN: "https://bad.test" is neither a name nor an address`, `AUTO_TLS_SAN: "bad.test:8123" is neither`}},
		{"words", []string{"AUTO_TLS=yes", "PROXY_PROTOCOL=on"}, []string{"AUTO_TLS: ", "PROXY_PROTOCOL: "}},
		{"service links", []string{"PORT=tcp://10.0.0.1:80", "CONTROL_PORT=tcp://10.0.0.1:80"}, []string{`PORT: "tcp://10.0.0.1:80" is a Kubernetes service link`, "CONTROL_PORT: "}},
		{"visitors", []string{"BASIC_AUTH=ann:one\nbob:two", "BEARER_TOKEN=" + secretToken, "ALLOW_IPS=10.0.0.0/8,2001:db8::/32", "PASS_AUTHORIZATION=true", "MODE=http,tcp"}, nil},
		{"bad visitors", []string{"BASIC_AUTH=verysecret", "BEARER_TOKEN=verysecret", "ALLOW_IPS=, "}, []string{
			"ALLOW_IPS: holds no network", "BASIC_AUTH: is not of the form user:password", "BEARER_TOKEN: token 1 has 10 bytes"}},
		{"visitors of ports", []string{"MODE=tcp", "BASIC_AUTH=ann:one", "ALLOW_IPS=::1"}, []string{"BASIC_AUTH: is for hosts, but MODE=tcp"}},

		{"hosts with certificates", []string{"LETSENCRYPT_DOMAINS=Example.com, www.example.com.,on-demand,", "LETSENCRYPT_EMAIL=a@example.com", "LETSENCRYPT_ISSUER=staging", "LETSENCRYPT_DIR=/x"}, nil},
		{"a directory of one's own", []string{"LETSENCRYPT_DOMAINS=localhost", "LETSENCRYPT_ISSUER=https://ca.internal:14000/dir", "ACME_CA=" + certificate(t)}, nil},
		{"hosts that are none", []string{"LETSENCRYPT_DOMAINS=https://example.com"}, []string{`LETSENCRYPT_DOMAINS: "https://example.com" is not the name of a host`}},
		{"a port", []string{"LETSENCRYPT_DOMAINS=example.com:443"}, []string{`LETSENCRYPT_DOMAINS: "example.com:443" is not the name of a host`}},
		{"an international name", []string{"LETSENCRYPT_DOMAINS=bücher.example"}, []string{`LETSENCRYPT_DOMAINS: "bücher.example" is not the name of a host`}},
		{"a wildcard", []string{"LETSENCRYPT_DOMAINS=example.com,*.example.com"}, []string{`LETSENCRYPT_DOMAINS: "*.example.com": a certificate for a wildcard`}},
		{"an address", []string{"LETSENCRYPT_DOMAINS=10.0.0.1"}, []string{`LETSENCRYPT_DOMAINS: "10.0.0.1" is an address`}},
		{"an address of IPv6", []string{"LETSENCRYPT_DOMAINS=[::1]"}, []string{`LETSENCRYPT_DOMAINS: "[::1]" is an address`}},
		{"names that are not public", []string{"LETSENCRYPT_DOMAINS=app.internal,localhost,nas"}, []string{`LETSENCRYPT_DOMAINS: "app.internal" is not a public name`, `LETSENCRYPT_DOMAINS: "localhost" is not`, `LETSENCRYPT_DOMAINS: "nas" is not`}},
		{"certificates for TCP", []string{"LETSENCRYPT_DOMAINS=on-demand", "MODE=tcp"}, []string{"LETSENCRYPT_DOMAINS: is set, but MODE is tcp"}},
		{"unknown directories", []string{"LETSENCRYPT_DOMAINS=example.com", "LETSENCRYPT_ISSUER=production"}, []string{`LETSENCRYPT_ISSUER: "production" is neither prod nor staging`}},
		{"a directory without TLS", []string{"LETSENCRYPT_DOMAINS=example.com", "LETSENCRYPT_ISSUER=http://ca.test/dir"}, []string{`LETSENCRYPT_ISSUER: "http://ca.test/dir" is neither`}},
		{"no address of e-mail", []string{"LETSENCRYPT_DOMAINS=example.com", "LETSENCRYPT_EMAIL=Admin <a@example.com>"}, []string{"LETSENCRYPT_EMAIL: "}},
		{"an authority that is none", []string{"LETSENCRYPT_DOMAINS=example.com", "ACME_CA=verysecret"}, []string{"ACME_CA: holds no certificate in PEM form"}},
		{"all but the hosts", []string{"LETSENCRYPT_EMAIL=a@example.com"}, []string{"LETSENCRYPT_DOMAINS: is not set, but LETSENCRYPT_EMAIL is"}},
		{"visitors are sent to HTTPS", []string{"LETSENCRYPT_DOMAINS=example.com", "HTTPS_REDIRECT=false", "HSTS=max-age=31536000; includeSubDomains; preload"}, nil},
		{"visitors are sent to the platform's HTTPS", []string{"TRUSTED_PROXIES=heroku", "HTTPS_REDIRECT=true", "HSTS=8760h"}, nil},
		{"visitors are sent nowhere", []string{"HTTPS_REDIRECT=true", "HSTS=8760h"}, []string{"HTTPS_REDIRECT: is set, but there is no HTTPS", "HSTS: is set, but there is no HTTPS"}},
		{"HSTS that is none", []string{"TRUSTED_PROXIES=heroku", "HSTS=yes"}, []string{`HSTS: "yes" is neither a time such as 8760h nor a value`}},
		{"HSTS with a line", []string{"TRUSTED_PROXIES=heroku", "HSTS=max-age=1\nX: y"}, []string{`HSTS: "max-age=1`}},
		{"HSTS in the past", []string{"TRUSTED_PROXIES=heroku", "HSTS=-1h"}, []string{`HSTS: "-1h" is neither`}},
		{"HTTPS and control with certificates", []string{"LETSENCRYPT_DOMAINS=example.com", "CONTROL_PORT=443"}, nil},
		{"certificates are on 80 and 443", []string{"LETSENCRYPT_DOMAINS=example.com", "METRICS_PORT=443"}, []string{"METRICS_PORT: 443 is HTTPS_PORT too"}},

		{"one port", []string{"PORT=8123"}, nil},
		{"one port by its name", []string{"PORT=5000", "CONTROL_PORT=$PORT", "CONTROL_PATH=/a/b.c"}, nil},
		{"one port on one address", []string{"PORT=8123", "DATA_ADDR=127.0.0.1", "CONTROL_ADDR=127.0.0.1"}, nil},
		{"HTTPS and control", []string{"TLS_CERT=x", "TLS_KEY=x", "CONTROL_PORT=443"}, nil},
		{"HTTP with TLS is on 80", []string{"TLS_CERT=x", "TLS_KEY=x", "CONTROL_PORT=80"}, nil},
		{"one port for HTTPS, too", []string{"TLS_CERT=x", "TLS_KEY=x", "PORT=443", "CONTROL_PORT=443", "HTTPS_PORT=443"}, nil},
		{"one port on other addresses", []string{"PORT=8123", "DATA_ADDR=0.0.0.0", "CONTROL_ADDR=10.0.0.1"}, []string{"CONTROL_PORT: 8123 is PORT too: set one of them to another, or DATA_ADDR and CONTROL_ADDR to the same for clients and visitors to share it"}},
		{"neither a number nor PORT", []string{"CONTROL_PORT=$HTTP_PORT"}, []string{`CONTROL_PORT: "$HTTP_PORT" is not a port`}},
		{"control path that is none", []string{"CONTROL_PATH=_adit"}, []string{`CONTROL_PATH: "_adit" is not a path`}},
		{"control path that is everything", []string{"CONTROL_PATH=/"}, []string{`CONTROL_PATH: "/" is not a path`}},
		{"control path with dots", []string{"CONTROL_PATH=/a/../b"}, []string{`CONTROL_PATH: "/a/../b" is not a path`}},
		{"control path with an end", []string{"CONTROL_PATH=/_adit/"}, []string{`CONTROL_PATH: "/_adit/" is not a path`}},
		{"control path that is escaped", []string{"CONTROL_PATH=/%61"}, []string{`CONTROL_PATH: "/%61" is not a path`}},
		{"control and metrics", []string{"METRICS_PORT=8123"}, []string{"METRICS_PORT: 8123 is CONTROL_PORT too: set one of them to another, or METRICS_PORT to off"}},
		{"all on one", []string{"PORT=80", "CONTROL_PORT=80", "METRICS_PORT=80"}, []string{"METRICS_PORT: 80 is PORT too"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range config.Names(&settings{}) {
				t.Setenv(name, "")
			}
			for _, v := range append([]string{"TOKEN=" + secretToken}, c.variables...) {
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

func certificate(t testing.TB) string {
	t.Helper()
	ca, err := autotls.New("", nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(ca.CertificatePEM())
}

func TestMode(t *testing.T) {
	for text, want := range map[string]string{"http": "http", "TCP": "tcp", "tcp,http": "http,tcp", "http, http": "http"} {
		var m mode
		if err := m.Decode(text); err != nil || m.String() != want {
			t.Errorf("%s: got %s %v, want %s", text, m, err, want)
		}
	}
}

// Which port clients share with visitors, and whether HTTPS_PORT is open beside it.
func TestShared(t *testing.T) {
	for _, c := range []struct {
		name      string
		variables []string
		shared    string
		https     bool
	}{
		{"the least", nil, "", false},
		{"free ports", []string{"PORT=0", "CONTROL_PORT=0"}, "", false},
		{"the same number", []string{"PORT=5000", "CONTROL_PORT=5000"}, "PORT", false},
		{"the word", []string{"PORT=5000", "CONTROL_PORT=PORT"}, "PORT", false},
		{"as in a shell", []string{"PORT=5000", "CONTROL_PORT=${PORT}"}, "PORT", false},
		{"as in Kubernetes", []string{"PORT=5000", "CONTROL_PORT=$(PORT)"}, "PORT", false},
		{"the same free port", []string{"PORT=0", "CONTROL_PORT=PORT"}, "PORT", false},
		{"nobody else there", []string{"MODE=tcp", "CONTROL_PORT=PORT"}, "", false},
		{"two addresses", []string{"PORT=5000", "CONTROL_PORT=5000", "DATA_ADDR=127.0.0.1", "CONTROL_ADDR=127.0.0.2"}, "", false},
		{"every address", []string{"PORT=5000", "CONTROL_PORT=5000", "DATA_ADDR=0.0.0.0"}, "PORT", false},
		{"own certificate", []string{"TLS_CERT=x"}, "", true},
		{"certificates by ACME, HTTPS", []string{"LETSENCRYPT_DOMAINS=example.com", "CONTROL_PORT=443"}, "HTTPS_PORT", true},
		{"own certificate, HTTPS", []string{"TLS_CERT=x", "CONTROL_PORT=443"}, "HTTPS_PORT", true},
		{"own certificate, HTTP", []string{"TLS_CERT=x", "CONTROL_PORT=PORT"}, "PORT", false},
		{"own certificate, HTTPS beside it", []string{"TLS_CERT=x", "CONTROL_PORT=PORT", "HTTPS_PORT=8443"}, "PORT", true},
		{"own certificate, all on one", []string{"TLS_CERT=x", "CONTROL_PORT=PORT", "PORT=8443", "HTTPS_PORT=8443"}, "PORT", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range config.Names(&settings{}) {
				t.Setenv(name, "")
			}
			for _, v := range c.variables {
				name, value, _ := strings.Cut(v, "=")
				t.Setenv(name, value)
			}
			var s settings
			_ = config.Load(&s)
			if s.shared() != c.shared || s.https() != c.https {
				t.Errorf("shared %q, HTTPS_PORT open: %t, want %q, %t", s.shared(), s.https(), c.shared, c.https)
			}
		})
	}
}
