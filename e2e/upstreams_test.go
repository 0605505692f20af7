//go:build unix

package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// secureUpstream is an HTTPS service with a certificate of the authority for names.
func secureUpstream(t testing.TB, ca *authority, names ...string) (addr string) {
	t.Helper()
	_, cert, key := ca.issue(t, names...)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "by TLS for %s", r.TLS.ServerName)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	srv.Config.ErrorLog = quiet
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// TestUpstreams reaches private services of every kind.
func TestUpstreams(t *testing.T) {
	t.Parallel()
	needProgram(t, "curl", "curl")
	echo := func(name string) string {
		return upstream(t, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s: host %s, path %s, X-Forwarded-Host %s", name, r.Host, r.RequestURI, r.Header.Get("X-Forwarded-Host"))
		})
	}
	ca, unknown := newAuthority(t), newAuthority(t)
	trusted, other := secureUpstream(t, ca, "localhost"), secureUpstream(t, ca, "elsewhere.test")
	private := secureUpstream(t, unknown, "127.0.0.1")

	// The path of a socket is short (about 100 bytes), that of t.TempDir need not be.
	dir, err := os.MkdirTemp("", "adit")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "app.sock")
	l, err := net.Listen("unix", socket)
	must(t, err)
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "by socket: host %s", r.Host)
	})}}
	srv.Start()
	t.Cleanup(srv.Close)

	tun := newTunnel(t, strings.Join([]string{
		"http://" + echo("default"),
		"exact.test=http://" + echo("exact"),
		"*.wild.test=http://" + echo("wild"),
		"*.deep.wild.test=http://" + echo("deep"),
		"exact.test/api=http://" + echo("api"),
		"exact.test/api/v2=http://" + echo("v2"),
		"host.test=http://" + echo("host") + "?host=internal.name",
		"socket.test=unix://" + socket,
		"nosocket.test=unix://" + filepath.Join(dir, "none.sock"),
		"trusted.test=https://localhost:" + port(trusted),
		"other.test=https://localhost:" + port(other),
		"private.test=https://" + private,
		"insecure.test=https://" + private + "?insecure=true",
		"notls.test=https://" + echo("notls"),
		"refused.test=http://127.0.0.1:1",
		"noname.test=http://upstream.invalid",
	}, ","), "SSL_CERT_FILE="+write(t, "ca.pem", ca.pem))
	for _, c := range []struct {
		name, host, path string
		code             int
		part             string
	}{
		{"default", "anything.test", "/a?b=c%2f", 200, "default: host anything.test, path /a?b=c%2f, X-Forwarded-Host anything.test"},
		{"exact host", "exact.test", "/", 200, "exact: host exact.test,"},
		{"exact host with port", "EXACT.test:8000", "/", 200, "exact: host EXACT.test:8000,"},
		{"wildcard", "a.wild.test", "/", 200, "wild: "},
		{"wildcard, more labels", "a.b.wild.test", "/", 200, "wild: "},
		{"longer wildcard", "a.deep.wild.test", "/", 200, "deep: "},
		{"wildcard is not its parent", "wild.test", "/", 200, "default: "},
		{"path", "exact.test", "/api", 200, "api: host exact.test, path /api,"},
		{"below the path", "exact.test", "/api/users", 200, "api: host exact.test, path /api/users,"},
		{"longer path", "exact.test", "/api/v2/users", 200, "v2: "},
		{"not the path", "exact.test", "/apiary", 200, "exact: "},
		{"path of another host", "other-host.test", "/api", 200, "default: "},
		{"?host=", "host.test", "/", 200, "host: host internal.name, path /, X-Forwarded-Host host.test"},
		{"unix socket", "socket.test", "/", 200, "by socket: host socket.test"},
		{"unix socket that is missing", "nosocket.test", "/", 502, "502 Bad Gateway: the upstream refused the connection"},
		{"https, verified", "trusted.test", "/", 200, "by TLS for localhost"},
		{"https, certificate of another name", "other.test", "/", 502, "502 Bad Gateway: the upstream's certificate, or its TLS, was not accepted"},
		{"https, own CA", "private.test", "/", 502, "502 Bad Gateway: the upstream's certificate, or its TLS, was not accepted"},
		{"https, own CA, ?insecure=true", "insecure.test", "/", 200, "by TLS for"},
		{"https, but it speaks HTTP", "notls.test", "/", 502, "502 Bad Gateway: "},
		{"refused", "refused.test", "/", 502, "502 Bad Gateway: the upstream refused the connection"},
		{"no such name", "noname.test", "/", 502, "502 Bad Gateway: the upstream cannot be reached"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := curl(t, tun.url(c.path), "-H", "Host: "+c.host)
			r.want(t, c.code, c.part)
			if c.code == 200 {
				return
			}
			if got := r.header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
				t.Errorf("Content-Type %q", got)
			}
			for _, inside := range []string{"127.0.0.1", "localhost", "x509", dir, "invalid"} {
				if strings.Contains(r.body, inside) {
					t.Errorf("the visitor learns of the private network: %s", r.body)
				}
			}
		})
	}
	t.Run("logged", func(t *testing.T) {
		tun.client.await("cannot reach upstream", "upstream", "private.test=https://", "error", "unknown authority", "level", "warn")
		tun.client.await("cannot reach upstream", "upstream", "refused.test=", "error", "connection refused")
		must(t, answers("http://"+tun.client.addr("metrics")+"/metrics", `adit_dial_errors_total{reason="tls"}`))
	})
}

// TestReasons tells apart why a visitor is not served.
func TestReasons(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	slow := upstream(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	silent := newRelay(t, func(r *relay, conn net.Conn) { // accepts, takes the request, and hangs up
		_, _ = conn.Read(make([]byte, 1))
	})
	rubbish := newRelay(t, func(r *relay, conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n"))
	})
	tun := newTunnel(t, "slow.test=http://"+slow+",refused.test=http://127.0.0.1:1,silent.test=http://"+silent.addr()+",rubbish.test=http://"+rubbish.addr(),
		"RESPONSE_TIMEOUT=300ms")
	gone := connect(t, tun.server, "gone.test=http://"+says(t, "hello"))
	must(t, func() error { _, _, err := get(tun.url("/"), "gone.test"); return err }())
	gone.stop()
	for _, c := range []struct {
		name, host string
		code       int
		text       string
	}{
		{"nobody asked for it", "elsewhere.test", 404, "404 Not Found: nothing is exposed under this host and path\n"},
		{"upstream refuses", "refused.test", 502, "502 Bad Gateway: the upstream refused the connection\n"},
		{"upstream breaks off", "silent.test", 502, "502 Bad Gateway: the upstream broke off before it answered\n"},
		{"upstream speaks no HTTP", "rubbish.test", 502, "502 Bad Gateway: the upstream's answer is malformed\n"},
		{"client is gone", "gone.test", 503, "503 Service Unavailable: the client that serves this host is not connected\n"},
		{"upstream is slow", "slow.test", 504, "504 Gateway Timeout: the upstream did not answer in time\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := curl(t, tun.url("/"), "-H", "Host: "+c.host)
			r.want(t, c.code, "")
			if r.body != c.text {
				t.Errorf("got %q, want %q", r.body, c.text)
			}
			if retry := r.header.Get("Retry-After"); (retry != "") != (c.code == 503) {
				t.Errorf("Retry-After %q", retry)
			}
		})
	}
}
