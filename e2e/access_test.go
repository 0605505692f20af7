//go:build unix

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	wire "github.com/adit-tunnel/adit/shared/tunnel"
)

const (
	askBasic  = `Basic realm="adit", charset="UTF-8"`
	askBearer = `Bearer realm="adit"`
)

// curious is a private service that tells which credentials it gets, and counts requests.
func curious(t testing.TB) (addr string, count *atomic.Int32) {
	t.Helper()
	count = new(atomic.Int32)
	return upstream(t, func(w http.ResponseWriter, r *http.Request) {
		count.Add(1)
		w.Header().Set("X-Powered-By", "secret/1.0")
		fmt.Fprintf(w, "in, with %q, env %q", r.Header.Get("Authorization"), r.Header.Get("X-Env"))
	}), count
}

// TestAccess has a client say who may visit each of its upstreams.
func TestAccess(t *testing.T) {
	t.Parallel()
	app, count := curious(t)
	shut, open := freeport.New(t), freeport.New(t)
	bearer := newToken()
	upstreams := strings.Join([]string{
		"basic.test=http://" + app,
		"either.test=http://" + app + "?pass_auth=true",
		"lan.test=http://" + app + "?allow=10.0.0.0/8&allow=2001:db8::/32",
		"here.test=http://" + app + "?allow=127.0.0.0/8",
		fmt.Sprintf("%d=%s?allow=10.0.0.0/8", shut, app),
		fmt.Sprintf("%d=%s?allow=127.0.0.1", open, app),
	}, ",")
	s := startServer(t, "MODE=http,tcp")
	connect(t, s, upstreams, "BASIC_AUTH_1=ann:password one\nbob:two,password:2", "BASIC_AUTH_2=cat:password-three", "BEARER_TOKEN_2="+bearer,
		"REQUEST_HEADERS=X-Env: prod", "RESPONSE_HEADERS_1=-X-Powered-By, X-Frame-Options: DENY")
	visit := func(host string, args ...string) reply {
		t.Helper()
		return curl(t, append(args, "-H", "Host: "+host, s.url("/"))...)
	}
	const none = `in, with "", env "prod"`
	for _, c := range []struct {
		name, host string
		args       []string
		code       int
		body       string
		ask        []string
	}{
		{"user", "basic.test", []string{"-u", "ann:password one"}, 200, none, nil},
		{"another user", "basic.test", []string{"-u", "bob:two,password:2"}, 200, none, nil},
		{"wrong", "basic.test", []string{"-u", "ann:password two"}, 401, "401 Unauthorized", []string{askBasic}},
		{"none", "basic.test", nil, 401, "401 Unauthorized", []string{askBasic}},
		{"preflight", "basic.test", []string{"-X", "OPTIONS", "-H", "Origin: http://x", "-H", "Access-Control-Request-Method: PUT"}, 401, "", []string{askBasic}},
		{"upload", "basic.test", []string{"-d", "hello"}, 401, "", []string{askBasic}},
		{"curl asks first", "basic.test", []string{"--anyauth", "-u", "ann:password one"}, 200, none, nil},
		{"either: user", "either.test", []string{"-u", "cat:password-three"}, 200, "in, with \"Basic ", nil},
		{"either: token", "either.test", []string{"-H", "Authorization: Bearer " + bearer}, 200, "in, with \"Bearer " + bearer, nil},
		{"either: none", "either.test", nil, 401, "", []string{askBasic, askBearer}},
		{"either: that of another", "either.test", []string{"-u", "ann:password one"}, 401, "", []string{askBasic, askBearer}},
		{"from elsewhere", "lan.test", nil, 403, "403 Forbidden: this address may not visit", nil},
		{"from elsewhere, whatever he says", "lan.test", []string{"-H", "X-Forwarded-For: 10.0.0.1"}, 403, "", nil},
		{"from here", "here.test", []string{"-H", "Authorization: Bearer theirs"}, 200, `in, with "Bearer theirs"`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := count.Load()
			r := visit(c.host, c.args...)
			r.want(t, c.code, c.body)
			if !slices.Equal(r.header["Www-Authenticate"], c.ask) {
				t.Errorf("asked %q, want %q", r.header["Www-Authenticate"], c.ask)
			}
			if got := count.Load() - before; (got == 0) != (c.code != 200) {
				t.Errorf("the service got %d requests", got)
			}
			if c.code == 200 && (r.header["X-Powered-By"] == nil) != (c.host == "basic.test") {
				t.Errorf("head %v", r.header)
			}
		})
	}
	t.Run("ports", func(t *testing.T) {
		before := count.Load()
		if body, _, err := say(net.JoinHostPort("127.0.0.1", strconv.Itoa(shut)), "GET / HTTP/1.0\r\n\r\n"); err == nil {
			t.Errorf("who may not gets %q", body)
		}
		if count.Load() != before {
			t.Error("the service heard of it")
		}
		if body, _, err := say(net.JoinHostPort("127.0.0.1", strconv.Itoa(open)), "GET / HTTP/1.0\r\n\r\n"); !strings.HasPrefix(body, "in") {
			t.Errorf("who may gets %q %v", body, err)
		}
	})
	t.Run("websocket", func(t *testing.T) { guardedWebsocket(t) })
	for series, least := range map[string]int{
		`adit_http_refused_requests_total{reason="missing"}`: 4, `adit_http_refused_requests_total{reason="wrong"}`: 2,
		`adit_http_refused_requests_total{reason="address"}`: 2, `adit_tcp_refused_connections_total{reason="address"}`: 1,
	} {
		_, body, err := get("http://"+s.metrics+"/metrics", "")
		_, after, found := strings.Cut(body, "\n"+series+" ")
		value, _, _ := strings.Cut(after, "\n")
		if n, _ := strconv.Atoi(value); !found || n < least {
			t.Errorf("%s is %q %v, want %d", series, value, err, least)
		}
	}
	s.await("visitor refused", "route", "basic.test", "reason", "wrong", "visitor", "127.0.0.1")
	// What operators may look at tells nothing.
	_, doc, err := get("https://"+s.control+"/status", "", s.bearer()...)
	if err != nil || strings.Contains(doc, "password") || strings.Contains(doc, bearer) || strings.Contains(doc, "salt") {
		t.Errorf("status says %s %v", doc, err)
	}
	if strings.Contains(s.log.String(), "password") {
		t.Error("a password is in the server's log")
	}
}

// guardedWebsocket talks over a websocket as a program does that has a password.
func guardedWebsocket(t *testing.T) {
	tun := newTunnel(t, "http://"+upstream(t, newService(t).ServeHTTP), "BASIC_AUTH=ann:password-one")
	dialer := websocket.Dialer{HandshakeTimeout: patience}
	if _, resp, err := dialer.Dial("ws://"+tun.data+"/echo", nil); err == nil || resp == nil || resp.StatusCode != 401 {
		t.Errorf("without a password: %v", err)
	}
	conn, _, err := dialer.Dial("ws://"+tun.data+"/echo", http.Header{"Authorization": {"Basic YW5uOnBhc3N3b3JkLW9uZQ=="}})
	must(t, err)
	defer conn.Close()
	must(t, conn.WriteMessage(websocket.TextMessage, []byte("hello")))
	if _, got, err := conn.ReadMessage(); string(got) != "hello" {
		t.Errorf("got %q %v", got, err)
	}
}

// TestAccessForAll has a server say who may visit, over IPv4 and IPv6, and a client that says something, too.
func TestAccessForAll(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, addr, in, out string }{
		{"IPv4", "127.0.0.1", "127.0.0.0/8", "10.0.0.0/8"},
		{"IPv6", "::1", "2001:db8::/32,::1", "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if l, err := net.Listen("tcp", net.JoinHostPort(c.addr, "0")); err != nil {
				t.Skipf("%s is no address of this machine", c.addr)
			} else {
				l.Close()
			}
			app, count := curious(t)
			s := startServer(t, "DATA_ADDR="+c.addr, "BASIC_AUTH=ann:password-one\nbob:password-two", "ALLOW_IPS="+c.in)
			connect(t, s, "http://"+app+",own.test=http://"+app+",away.test=http://"+app+"?allow="+c.out, "BASIC_AUTH_2=bob:password-two")
			for _, v := range []struct {
				host, user string
				code       int
			}{
				{"any.test", "ann:password-one", 200}, {"any.test", "ann:password-two", 401},
				{"own.test", "ann:password-one", 401}, {"own.test", "bob:password-two", 200},
				{"away.test", "ann:password-one", 403},
			} {
				before := count.Load()
				r := curl(t, "-g", "-u", v.user, "-H", "Host: "+v.host, s.url("/"))
				r.want(t, v.code, "")
				if got := count.Load() - before; got != 0 && v.code != 200 || v.code == 200 && !strings.Contains(r.body, `in, with ""`) {
					t.Errorf("%s %s: the service got %d requests, and says %q", v.host, v.user, got, r.body)
				}
			}
			shut := startServer(t, "DATA_ADDR="+c.addr, "ALLOW_IPS="+c.out)
			connect(t, shut, "http://"+app)
			curl(t, "-g", shut.url("/")).want(t, 403, "this address may not visit")
			curl(t, "-g", "-H", "Host: unknown.test", shut.url("/")).want(t, 403, "")
		})
	}
}

// TestAccessRotation changes the passwords of a client, and of a server, while somebody visits who knows one that
// stays: no request fails.
func TestAccessRotation(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			t.Parallel()
			app, _ := curious(t)
			file := newSecret(t, "ann:password-one\nold:password-old\n")
			var s *server
			var changed *program
			if setting := "BASIC_AUTH_FILE=" + file.path(); side == "client" {
				s = startServer(t)
				changed = connect(t, s, "http://"+app, setting)
			} else {
				s = startServer(t, setting)
				changed = s.program
				connect(t, s, "http://"+app)
			}
			as := func(user string) []string {
				req, _ := http.NewRequest("GET", "/", nil)
				name, password, _ := strings.Cut(user, ":")
				req.SetBasicAuth(name, password)
				return []string{"Authorization", req.Header.Get("Authorization")}
			}
			stop, done := make(chan struct{}), make(chan struct{})
			var visits atomic.Int64 // that were good
			goOn := func() {
				t.Helper()
				before := visits.Load()
				eventually(t, func() error {
					if n := visits.Load(); n < before+2 { // one may have begun before
						return fmt.Errorf("no visit since, after %d", n)
					}
					return nil
				})
			}
			go func() {
				defer close(done)
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := answers(s.url("/"), "in", as("ann:password-one")...); err != nil {
						t.Errorf("visit after %d: %v", visits.Load(), err)
						return
					}
					visits.Add(1)
				}
			}()
			must(t, answers(s.url("/"), "in", as("old:password-old")...))
			file.set(t, "nonsense")
			changed.await("the new credentials of visitors are not valid, the old ones stay")
			goOn()
			must(t, answers(s.url("/"), "in", as("old:password-old")...))
			file.set(t, "new:password-new\nann:password-one\n")
			changed.await("took up changed credentials of visitors")
			eventually(t, func() error { return answers(s.url("/"), "in", as("new:password-new")...) })
			if code, _, err := get(s.url("/"), "", as("old:password-old")...); code != 401 {
				t.Errorf("the old password: %d %v", code, err)
			}
			goOn()
			close(stop)
			<-done
		})
	}
}

// TestAccessOldServer has a client with a password meet a server that would let everybody in: it serves nobody.
func TestAccessOldServer(t *testing.T) {
	t.Parallel()
	app, count := curious(t)
	s := startServer(t, "AUTO_TLS=false")
	connected := make(chan struct{}, 16)
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.control})
	forward.ErrorLog = quiet
	forward.ModifyResponse = func(resp *http.Response) error { // an old server does not say what it is not capable of
		hello, err := wire.ParseHello(resp.Header.Values(wire.HelloHeader))
		if err != nil {
			return err
		}
		hello.Capabilities = slices.DeleteFunc(hello.Capabilities, func(c string) bool { return c == wire.CapabilityAccess })
		lines, err := hello.Header()
		resp.Header[wire.HelloHeader] = lines
		connected <- struct{}{}
		return err
	}
	old := upstream(t, forward.ServeHTTP)
	c := startClient(t, s, "http://"+app, "URL=ws://"+old, "AUTO_TLS=false", "BASIC_AUTH=ann:password-one")
	receive(t, connected)
	e := c.await("cannot connect", "level", "error", "error", "the server is too old to heed who may visit")
	if !strings.Contains(e.field("error"), "upgrade the server") || !strings.Contains(e.field("error"), testVersion) {
		t.Errorf("says %s", e.text)
	}
	c.never("connected")
	s.await("client disconnected")
	for range 5 {
		if code, body, err := get(s.url("/"), ""); code == 200 {
			t.Errorf("a visitor gets %q %v", body, err)
		}
	}
	if n := count.Load(); n != 0 {
		t.Errorf("the service got %d requests", n)
	}
	// Without a policy the old server will do.
	startClient(t, s, "http://"+app, "URL=ws://"+old, "AUTO_TLS=false").await("connected")
	eventually(t, func() error { return answers(s.url("/"), "in") })
}

// TestAccessSettings has every fault said by its variable, and secrets by none.
func TestAccessSettings(t *testing.T) {
	t.Parallel()
	r := command(t, "client", "env", "URL=wss://a", "TOKEN="+newToken(), "UPSTREAMS=http://a,22=b:22", "BASIC_AUTH=ann:password-one", "BASIC_AUTH_2=off",
		"BEARER_TOKEN_1="+newToken(), "BASIC_AUTH_3=bob:password-two", "REQUEST_HEADERS=Host: x", "ALLOW_IPS_ALL=::1")
	if r.code != 2 {
		t.Errorf("exit %d", r.code)
	}
	for _, part := range []string{"BASIC_AUTH_3: there is no upstream 3", "REQUEST_HEADERS: Host cannot be changed", "ALLOW_IPS_ALL: is no variable"} {
		if !strings.Contains(r.stderr, part) {
			t.Errorf("no %q in %s", part, r.stderr)
		}
	}
	if !strings.Contains(r.stdout, "BEARER_TOKEN_1*") || strings.Contains(r.stdout+r.stderr, "password-") {
		t.Errorf("printed %s", r.stdout)
	}
	unit := command(t, "client", "systemd", "URL=wss://a", "TOKEN="+newToken(), "UPSTREAMS=http://a", "BASIC_AUTH_1=ann:password-one")
	secrets := command(t, "client", "systemd --secrets", "URL=wss://a", "TOKEN="+newToken(), "UPSTREAMS=http://a", "BASIC_AUTH_1=ann:password-one")
	if unit.code != 0 || !strings.Contains(secrets.stdout, "BASIC_AUTH_1=") {
		t.Errorf("the unit would leave the password out: %+v %+v", unit, secrets)
	}
}
