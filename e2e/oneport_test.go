//go:build unix

package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// startOnePort starts a server whose clients and visitors share a port.
func startOnePort(t testing.TB, env ...string) *server {
	t.Helper()
	s := &server{token: newToken()}
	s.program = start(t, "server", environment(append([]string{"CONTROL_PORT=PORT", "TOKEN=" + s.token}, env...)...)...)
	s.data, s.metrics = s.addr("data plane"), s.addr("metrics")
	s.control = s.data
	return s
}

// nosy is a private service that says what it was asked for, and notes whether it ever got a token.
type nosy struct {
	addr  string
	token atomic.Bool
}

func newNosy(t testing.TB) *nosy {
	n := &nosy{}
	n.addr = upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Authorization"), "Bearer") {
			n.token.Store(true)
		}
		fmt.Fprintf(w, "app: %s by %s for %s\n", r.URL.Path, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Real-Ip"))
	})
	return n
}

// want fails the test unless url is answered with the code and part in the body.
func want(t testing.TB, url string, code int, part string, header ...string) {
	t.Helper()
	got, body, err := get(url, "", header...)
	if err != nil || got != code || !strings.Contains(body, part) {
		t.Errorf("%s: %d %q %v, want %d %q", url, got, body, err, code, part)
	}
}

// TestOnePort has clients, visitors and operators come by the same port.
func TestOnePort(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	_, cert, key := ca.issue(t, "127.0.0.1", "localhost")
	own := []string{"TLS_CERT=" + cert, "TLS_KEY=" + key}
	for _, c := range []struct {
		name           string
		server, client []string
		url            string // the client's, but for host and port
		path           string // the control plane's
		plain, secure  bool   // what visitors may speak
	}{
		{"ws", []string{"AUTO_TLS=false"}, []string{"AUTO_TLS=false"}, "ws://%s", "/_adit", true, false},
		{"ws, by its path", []string{"AUTO_TLS=false", "CONTROL_PATH=/tunnel/of.mine"}, []string{"AUTO_TLS=false"}, "ws://%s/tunnel/of.mine", "/tunnel/of.mine", true, false},
		{"auto-TLS", nil, nil, "wss://%s", "/_adit", true, true},
		{"auto-TLS, by its path", nil, nil, "wss://%s/_adit", "/_adit", true, true},
		{"TLS_CERT", own, []string{"TLS_CA=" + ca.pem}, "wss://%s", "/_adit", true, true},
		{"HTTPS_PORT", nil, []string{"TLS_CA=" + ca.pem}, "wss://%s", "/_adit", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var s *server
			if !c.plain {
				n := fmt.Sprint(freeport.New(t))
				s = &server{token: newToken()}
				s.program = start(t, "server", environment(slices.Concat(own, []string{"TOKEN=" + s.token, "CONTROL_PORT=" + n, "HTTPS_PORT=" + n})...)...)
				s.data, s.metrics = s.addr("data plane TLS"), s.addr("metrics")
				s.control = s.data
			} else {
				s = startOnePort(t, c.server...)
			}
			app := newNosy(t)
			client := connect(t, s, "http://"+app.addr, append(slices.Clone(c.client), "URL="+fmt.Sprintf(c.url, s.control))...)
			schemes := map[string]bool{"http": c.plain, "https": c.secure}
			for scheme, serves := range schemes {
				if !serves {
					continue
				}
				base := scheme + "://" + s.data
				for _, path := range []string{"/", "/status", "/metrics", "/connect", "/healthz", "/readyz", "/.well-known/ca.crt", "/_adit2/status"} {
					want(t, base+path, 200, "app: "+path+" by "+scheme)
				}
				want(t, base+c.path+"/healthz", 200, "ok")
				want(t, base+c.path+"/readyz?clients=1", 200, "ready")
				if scheme == "http" && c.secure {
					want(t, base+c.path+"/status", 403, "speaks TLS only", s.bearer()...)
					want(t, base+c.path, 403, "speaks TLS only")
					continue
				}
				want(t, base+c.path+"/status", 401, "")
				want(t, base+c.path+"/status", 200, `"upstreams":["*=http://`+app.addr, s.bearer()...)
				want(t, base+c.path+"/metrics", 401, "")
				want(t, base+c.path+"/metrics", 200, "http_controlplane_connected_gauge 1", s.bearer()...)
				want(t, base+"/x/.."+c.path+"/nothing", 404, "control plane")
				want(t, base+c.path, 404, "control plane")
			}
			here := s.here()
			if !c.plain {
				here = append(here, "PORT=0", "HTTPS_PORT="+port(s.data))
			}
			for name, env := range map[string][]string{"server": here, "client": client.env} {
				if r := command(t, name, "status", env...); r.code != 0 || !strings.Contains(r.stdout, "*=http://"+app.addr) {
					t.Errorf("%s status: %+v", name, r)
				}
			}
			for _, args := range []string{"healthcheck", "healthcheck --ready"} {
				for _, env := range [][]string{here, append(slices.Clone(here), "METRICS_PORT=off")} {
					if r := command(t, "server", args, env...); r.code != 0 {
						t.Errorf("%s: %+v", args, r)
					}
				}
			}
			if app.token.Load() {
				t.Error("the upstream got a token")
			}
		})
	}
}

// TestOnePortReserved refuses upstreams that ask for the path of the control plane, and says so on both sides.
func TestOnePortReserved(t *testing.T) {
	t.Parallel()
	s := startOnePort(t, "AUTO_TLS=false", "CONTROL_PATH=/_ctl")
	for _, path := range []string{"/_ctl", "/_ctl/status"} {
		client := startClient(t, s, "*"+path+"=http://127.0.0.1:1", "URL=ws://"+s.control, "AUTO_TLS=false")
		client.await("cannot connect", "level", "error", "error", "below which this server has its control plane: give the upstream another path")
		s.await("client refused", "code", "403", "reason", path)
	}
	app := newNosy(t)
	connect(t, s, "*/_adit=http://"+app.addr, "URL=ws://"+s.control, "AUTO_TLS=false") // free here
	want(t, s.url("/_adit/status"), 200, "app: /_adit/status")

	two := startServer(t, "AUTO_TLS=false") // where it is in nobody's way
	connect(t, two, "*/_adit=http://"+app.addr, "URL=ws://"+two.control, "AUTO_TLS=false")
	want(t, two.url("/_adit/status"), 200, "app: /_adit/status")
}

// TestOnePortWrongTLS says what to do on the client where the two sides do not agree on TLS.
func TestOnePortWrongTLS(t *testing.T) {
	t.Parallel()
	secure, plain := startOnePort(t), startOnePort(t, "AUTO_TLS=false")
	up := "http://127.0.0.1:1"
	startClient(t, secure, up, "URL=ws://"+secure.control, "AUTO_TLS=false").await("cannot connect", "error", "speaks TLS only: use wss://")
	startClient(t, plain, up, "URL=wss://"+plain.control).await("cannot connect", "error", "speaks plain http on this port")
	// The server's TLS is ended by something in front of it, as a platform does.
	ca := newAuthority(t)
	_, cert, key := ca.issue(t, "127.0.0.1")
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	front := func(s *server) string {
		return newRelay(t, func(r *relay, conn net.Conn) {
			if to, err := net.Dial("tcp", s.data); err == nil {
				r.join(tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}}), to, nil)
			}
		}).addr()
	}
	startClient(t, secure, up, "URL=wss://"+front(secure)).await("cannot connect", "error", "set AUTO_TLS=false")
	startClient(t, secure, up, "URL=wss://"+front(secure), "TLS_CA="+ca.pem).await("cannot connect", "error", "if TLS ends in front of the server, set AUTO_TLS=false there")
	app := says(t, "hello")
	connect(t, plain, "http://"+app, "URL=wss://"+front(plain), "TLS_CA="+ca.pem)
	must(t, answers(plain.url("/"), "hello"))
}

// TestOnePortGuard has the requests that two servers could read in two ways refused, whomever they are for.
func TestOnePortGuard(t *testing.T) {
	t.Parallel()
	s := startOnePort(t)
	app := newNosy(t)
	connect(t, s, "http://"+app.addr)
	for _, secure := range []bool{false, true} {
		for _, head := range []string{
			"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			"GET /_adit/healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
			"GET /_adit/healthz HTTP/1.1\nHost: a\n\n",
			"GET /connect HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol:\r\n adit.v1\r\n\r\n",
		} {
			conn, err := net.Dial("tcp", s.data)
			must(t, err)
			if secure {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			}
			must(t, conn.SetDeadline(time.Now().Add(patience)))
			_, err = io.WriteString(conn, head)
			must(t, err)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			must(t, err)
			if resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%q: %s", head, resp.Status)
			}
			resp.Body.Close()
			conn.Close()
		}
	}
	// One behind the other on one connection, each to where it belongs.
	conn, err := net.Dial("tcp", s.data)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, strings.Repeat("GET /_adit/healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 2))
	must(t, err)
	br := bufio.NewReader(conn)
	for _, part := range []string{"ok", "app: /healthz", "ok", "app: /healthz"} {
		resp, err := http.ReadResponse(br, nil)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		if !strings.HasPrefix(string(body), part) {
			t.Errorf("got %q, want %q", body, part)
		}
	}
}

// TestOnePortIdleVisitors keeps more visitors' connections open than may be nobody's: they are somebody's, and stay.
func TestOnePortIdleVisitors(t *testing.T) {
	t.Parallel()
	s := startOnePort(t, "AUTO_TLS=false")
	connect(t, s, "http://"+says(t, "hello"), "URL=ws://"+s.control, "AUTO_TLS=false")
	begin := func() (*bufio.ReadWriter, error) {
		conn, err := net.Dial("tcp", s.data)
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		must(t, conn.SetDeadline(time.Now().Add(2*patience)))
		rw := bufio.NewReadWriter(bufio.NewReaderSize(conn, 512), bufio.NewWriterSize(conn, 512))
		return rw, hello(rw)
	}
	var idle []*bufio.ReadWriter
	more := func(n int) {
		for range n {
			rw, err := begin()
			must(t, err)
			idle = append(idle, rw)
		}
	}
	more(1100)
	for opened := time.Now(); time.Since(opened) < 1500*time.Millisecond; { // too young to be dropped, and then not
		must(t, hello(idle[len(idle)-1]))
	}
	more(1)
	for i, rw := range idle {
		if err := hello(rw); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if n := metric(t, s.metrics, "adit_dropped_handshakes_total"); n != 0 {
		t.Errorf("%v connections were dropped", n)
	}
}

// hello makes a request over a connection that stays open.
func hello(rw *bufio.ReadWriter) error {
	if _, err := rw.WriteString("GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		return err
	}
	if err := rw.Flush(); err != nil {
		return err
	}
	resp, err := http.ReadResponse(rw.Reader, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hello" {
		return fmt.Errorf("%d %q %w", resp.StatusCode, body, err)
	}
	return nil
}

// TestOnePortProxyProtocol has a load balancer in front that passes on bare connections of clients and visitors.
func TestOnePortProxyProtocol(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, auto, scheme string }{{"ws", "AUTO_TLS=false", "ws://"}, {"auto-TLS", "AUTO_TLS=true", "wss://"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startOnePort(t, c.auto, "PROXY_PROTOCOL=true", "TRUSTED_PROXIES=127.0.0.1")
			balancer := newRelay(t, func(r *relay, conn net.Conn) {
				to, err := net.Dial("tcp", s.data)
				if err != nil {
					return
				}
				_, _ = io.WriteString(to, "PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n")
				r.join(conn, to, nil)
			})
			app := newNosy(t)
			client := connect(t, s, "http://"+app.addr, c.auto, "URL="+c.scheme+balancer.addr())
			want(t, "http://"+balancer.addr()+"/", 200, "app: / by http for 203.0.113.7")
			for name, env := range map[string][]string{"server": s.here(), "client": client.env} {
				if r := command(t, name, "status", env...); r.code != 0 || !strings.Contains(r.stdout, "203.0.113.7:4711") {
					t.Errorf("%s status: %+v", name, r)
				}
			}
			if r := command(t, "server", "healthcheck", append(s.here(), "METRICS_PORT=off")...); r.code != 0 {
				t.Errorf("healthcheck: %+v", r)
			}
		})
	}
}

// TestOnePortDrain stops a server with a request under way.
func TestOnePortDrain(t *testing.T) {
	t.Parallel()
	s := startOnePort(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	connect(t, s, "http://"+upstream(t, func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		fmt.Fprint(w, "hello")
	}))
	done := make(chan error, 1)
	go func() { done <- answers("https://"+s.data, "hello") }()
	receive(t, arrived)
	s.signal(syscall.SIGTERM)
	s.await("draining", "server", "data plane TLS")
	close(release)
	must(t, receive(t, done))
	if state := s.wait(); state.ExitCode() != 0 {
		t.Errorf("exit: %v", state)
	}
}

// TestThrottleBehindProxy guesses tokens through a platform's router: whoever guesses is slowed down by his own address,
// his neighbours behind the same router are not, and nobody who knows the token, even at the same address.
func TestThrottleBehindProxy(t *testing.T) {
	t.Parallel()
	env := []string{"AUTO_TLS=false", "TRUSTED_PROXIES=127.0.0.1"}
	t.Run("shared port", func(t *testing.T) {
		t.Parallel()
		s := startOnePort(t, env...)
		guess(t, s, "http://"+s.data+"/_adit/status")
	})
	t.Run("own port", func(t *testing.T) {
		t.Parallel()
		s := startServer(t, env...)
		guess(t, s, "http://"+s.control+"/status")
	})
}

func guess(t *testing.T, s *server, url string) {
	ask := func(token, from string) int {
		t.Helper()
		code, _, err := get(url, "", "Authorization", "Bearer "+token, "X-Forwarded-For", "198.51.100.1, "+from)
		must(t, err)
		return code
	}
	guesses, most := 0, 100 // a slow machine is allowed more meanwhile
	for code := 401; code == 401 && guesses < most; guesses++ {
		code = ask(newToken(), "203.0.113.7")
	}
	if guesses < 5 || guesses == most {
		t.Errorf("slowed down after %d guesses", guesses)
	}
	s.await("authentication failed", "remote_addr", "203.0.113.7:", "reason", "wrong")
	for _, c := range []struct {
		token, from string
		code        int
	}{{newToken(), "203.0.113.8", 401}, {s.token, "203.0.113.7", 200}} {
		if code := ask(c.token, c.from); code != c.code {
			t.Errorf("%s: %d, want %d", c.from, code, c.code)
		}
	}
	if n := metric(t, s.metrics, `adit_auth_failures_total{reason="throttled"}`); n < 1 {
		t.Errorf("%v failures were throttled", n)
	}
	connect(t, s, "http://"+says(t, "hello"), "AUTO_TLS=false", "URL=ws://"+s.control)
}
