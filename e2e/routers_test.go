//go:build unix

package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// idleCut is after which silence the routers of these tests cut a connection, where those of platforms do after 55 s
// or more; between is the time between pings, which is 15 s there.
const (
	idleCut = 5 * time.Second
	between = 3 * idleCut / 8
	// silence is how long one kind of websocket may be silent, which shows how time goes by.
	silence = 7 * idleCut / 4
)

// routerConfig is nginx as the router of a platform: TLS ends there, the app gets HTTP/1.1 over connections that are
// kept for the next request, with fields that say who the visitor is behind what was there before.
const routerConfig = `daemon off;
pid %[1]s/pid;
error_log stderr error;
%[2]s
events { worker_connections 512; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	ssl_certificate %[1]s/cert;
	ssl_certificate_key %[1]s/key;
	map $http_upgrade $connection_upgrade {
		default upgrade;
		"" "";
	}
	upstream app {
		server %[3]s;
		keepalive 16;
	}
	server {
		%[4]s
		location / {
			proxy_pass http://app;
			proxy_http_version 1.1;
			proxy_next_upstream off;
			proxy_request_buffering off;
			proxy_buffering off;
			proxy_read_timeout %[5]dms;
			proxy_send_timeout %[5]dms;
			proxy_set_header Host $http_host;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $connection_upgrade;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
			proxy_set_header X-Forwarded-Proto $scheme;
			proxy_set_header X-Forwarded-Port $server_port;
		}
		location /ws/silent {
			proxy_pass http://app;
			proxy_http_version 1.1;
			proxy_read_timeout %[6]dms;
			proxy_send_timeout %[6]dms;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $connection_upgrade;
		}
	}
}
`

// startRouter starts a router in front of app and returns where it listens. listen has the listen directives, with
// %[1]s for the address for TLS and %[2]s for that without.
func startRouter(t testing.TB, cert, key, listen, app string) (secure, plain string) {
	t.Helper()
	nginx := needProgram(t, "nginx", "nginx-light")
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "cert"), []byte(cert), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "key"), []byte(key), 0o600))
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	secure, plain = fmt.Sprint("127.0.0.1:", freeport.New(t)), fmt.Sprint("127.0.0.1:", freeport.New(t))
	config := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(config, fmt.Appendf(nil, routerConfig, dir, user, app, fmt.Sprintf(listen, secure, plain), idleCut.Milliseconds(), silence.Milliseconds()), 0o600))
	serve(t, syscall.SIGTERM, secure, nginx, "-e", "stderr", "-p", dir, "-c", config)
	return secure, plain
}

// counting is a relay to a server that counts its connections.
func counting(t testing.TB, s *server) (addr string, count *atomic.Int64) {
	t.Helper()
	count = new(atomic.Int64)
	r := newRelay(t, func(r *relay, conn net.Conn) {
		count.Add(1)
		if to, err := net.Dial("tcp", s.data); err == nil {
			r.join(conn, to, nil)
		}
	})
	return r.addr(), count
}

// TestRouters runs one port behind routers that imitate those of platforms.
func TestRouters(t *testing.T) {
	t.Parallel()
	needProgram(t, "curl", "curl")
	ca := newAuthority(t)
	_, cert, key := ca.issue(t, "127.0.0.1")
	caFile := write(t, "ca.pem", ca.pem)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca.pem))
	verified := &tls.Config{RootCAs: roots}
	for _, c := range []struct {
		name, listen, proto string
	}{
		{"Heroku", "listen %[1]s ssl; listen %[2]s;", "HTTP/1.1"},
		{"ALB", "listen %[1]s ssl http2; listen %[2]s;", "HTTP/2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ping := "PING_INTERVAL=" + between.String()
			// What such a platform sets is PORT.
			n := fmt.Sprint(freeport.New(t))
			s := startOnePort(t, "PORT="+n, "CONTROL_PORT=$PORT", "AUTO_TLS=false", "TRUSTED_PROXIES=127.0.0.1", ping)
			conns, count := counting(t, s)
			secure, plain := startRouter(t, cert, key, c.listen, conns)
			app := newNosy(t)
			pinging := newPinging(t)
			client := connect(t, s, fmt.Sprintf("http://%s,*/ws=http://%s", app.addr, pinging), "URL=wss://"+secure, "TLS_CA="+ca.pem, ping)
			mark := client.mark()

			// Visitors, from another address than the router's.
			r := curl(t, "--cacert", caFile, "--interface", "127.0.0.2", "-H", "X-Forwarded-For: 6.6.6.6", "https://"+secure+"/status")
			r.want(t, 200, "app: /status by https for 127.0.0.2")
			if r.proto != c.proto && r.proto+".0" != c.proto {
				t.Errorf("the visitor speaks %s, not %s", r.proto, c.proto)
			}
			curl(t, "--interface", "127.0.0.2", "http://"+plain+"/x").want(t, 200, "app: /x by http for 127.0.0.2")
			curl(t, "--interface", "127.0.0.2", "--cacert", caFile, "https://"+secure+"/_adit/status", "-H", "Authorization: Bearer wrong").want(t, 401, "")
			s.await("authentication failed", "remote_addr", "127.0.0.2:")

			// Operators.
			for name, env := range map[string][]string{"server": s.here(), "client": client.env} {
				if r := command(t, name, "status", env...); r.code != 0 || !strings.Contains(r.stdout, "*=http://"+app.addr) {
					t.Errorf("%s status: %+v", name, r)
				}
			}

			// A websocket that is silent is cut. While it is waited for nothing but pings passes through the tunnel, whose
			// own time for silence is shorter.
			dialer := websocket.Dialer{TLSClientConfig: verified, HandshakeTimeout: patience}
			dial := func(path string) *websocket.Conn {
				conn, _, err := dialer.Dial("wss://"+secure+path, nil)
				must(t, err)
				t.Cleanup(func() { conn.Close() })
				must(t, conn.SetReadDeadline(time.Now().Add(patience)))
				return conn
			}
			_, _, err := dial("/ws/silent").ReadMessage()
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Fatalf("a silent websocket is not cut: %v", err)
			}
			for _, e := range client.log.from(mark) {
				if e.is("connection lost") || e.is("connected") {
					t.Errorf("the tunnel did not stay up: %s", e.text)
				}
			}
			// One whose upstream says something from time to time is not.
			lively, begun := dial("/ws/lively"), time.Now()
			for time.Since(begun) < idleCut+between {
				if _, _, err := lively.ReadMessage(); err != nil {
					t.Fatalf("a lively websocket ended after %v with %v", time.Since(begun), err)
				}
			}
			lively.Close()

			// The router keeps its connections to us for the next request, of whatever method: no 502.
			visitors := &http.Client{Transport: &http.Transport{TLSClientConfig: verified.Clone(), ForceAttemptHTTP2: true}, Timeout: patience}
			defer visitors.CloseIdleConnections()
			first := count.Load()
			for i := range 100 {
				method := []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}[i%4]
				var body io.Reader
				if i%2 == 1 {
					body = strings.NewReader("posted")
				}
				path := []string{"/a", "/_adit/healthz", "/b"}[i%3]
				if path == "/_adit/healthz" {
					method, body = http.MethodGet, nil
				}
				req, err := http.NewRequest(method, "https://"+secure+path, body)
				must(t, err)
				resp, err := visitors.Do(req)
				must(t, err)
				got, err := io.ReadAll(resp.Body)
				must(t, err)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Fatalf("request %d, %s %s: %s %s", i, method, path, resp.Status, got)
				}
			}
			if more := count.Load() - first; more > 10 {
				t.Errorf("100 requests took %d connections from the router", more)
			}
			if app.token.Load() {
				t.Error("the upstream got a token")
			}
		})
	}
}

// newPinging is a private service that talks over websockets at /ws/lively and is silent elsewhere.
func newPinging(t testing.TB) (addr string) {
	t.Helper()
	done := make(chan struct{})
	var upgrader websocket.Upgrader
	addr = upstream(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		go func() {
			defer conn.Close()
			for r.URL.Path == "/ws/lively" {
				timer := time.NewTimer(between)
				select {
				case <-timer.C:
				case <-done:
					timer.Stop()
					return
				}
				if conn.WriteMessage(websocket.TextMessage, []byte("tick")) != nil {
					return
				}
			}
			<-done
		}()
		_, _, _ = conn.ReadMessage() // until the visitor is gone
	})
	t.Cleanup(func() { close(done) })
	return addr
}

// TestPingsAreFrequent has both sides ping well before any platform cuts an idle connection: Heroku after 55 s, an ALB
// after 60 s, and one ping may be lost.
func TestPingsAreFrequent(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"server", "client"} {
		r := command(t, name, "env")
		var interval time.Duration
		for lines := bufio.NewScanner(strings.NewReader(r.stdout)); lines.Scan(); {
			if m := regexp.MustCompile(`^PING_INTERVAL +(\S+)`).FindStringSubmatch(lines.Text()); m != nil {
				var err error
				interval, err = time.ParseDuration(m[1])
				must(t, err)
			}
		}
		if interval <= 0 || 2*interval >= 55*time.Second {
			t.Errorf("%s pings every %v", name, interval)
		}
	}
}
