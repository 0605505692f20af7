package oneport

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// who answers with its name and the path that it was asked for.
func who(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", name, r.URL.EscapedPath(), r.RemoteAddr)
	})
}

func TestHandler(t *testing.T) {
	handshake := func(protocol string) []string {
		return []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-Websocket-Protocol: " + protocol}
	}
	for _, c := range []struct {
		name   string
		target string
		header []string
		want   string // who answers, and for which path
		open   string // the same where only health may be asked for; "" for no difference
	}{
		{"front page", "/", nil, "data /", ""},
		{"an upstream's status", "/status", nil, "data /status", ""},
		{"an upstream's metrics", "/metrics", nil, "data /metrics", ""},
		{"an upstream's health", "/healthz", nil, "data /healthz", ""},
		{"an upstream's connect", "/connect", nil, "data /connect", ""},
		{"an upstream's websocket", "/connect", handshake("chat"), "data /connect", ""},
		{"the subprotocol without a websocket", "/connect", []string{"Sec-Websocket-Protocol: adit.v1"}, "data /connect", ""},
		{"the subprotocol elsewhere", "/app", handshake("adit.v1"), "data /app", ""},
		{"an upstream's well-known", "/.well-known/ca.crt", nil, "data /.well-known/ca.crt", ""},
		{"a longer name", "/_adit2/status", nil, "data /_adit2/status", ""},
		{"a shorter name", "/_adi", nil, "data /_adi", ""},
		{"further down", "/app/_adit/status", nil, "data /app/_adit/status", ""},
		{"other letters", "/_ADIT/status", nil, "data /_ADIT/status", ""},
		{"a token is nobody's business", "/status", []string{"Authorization: Bearer 0123456789abcdef"}, "data /status", ""},

		{"a client", "/connect", handshake("adit.v1"), "control /connect", "403"},
		{"a newer client", "/connect", handshake("adit.v2, adit.v1"), "control /connect", "403"},
		{"a client that was told the path", "/_adit/connect", handshake("adit.v1"), "control /connect", "403"},
		{"a client's question", "/.well-known/ca.crt?nonce=1", []string{"Adit-Ca-Proof: x"}, "control /.well-known/ca.crt", "404"},
		{"a client's question below the path", "/_adit/.well-known/ca.crt?nonce=1", nil, "control /.well-known/ca.crt", "404"},
		{"an operator's command", "/status", []string{"Adit-Status: 1"}, "control /status", "403"},
		{"status", "/_adit/status", nil, "control /status", "403"},
		{"health", "/_adit/healthz", nil, "control /healthz", "control /healthz"},
		{"readiness", "/_adit/readyz?clients=2", nil, "control /readyz", "control /readyz"},
		{"the path alone", "/_adit", nil, "control /", "403"},
		{"the path and a slash", "/_adit/", nil, "control /", "403"},
		{"nothing there", "/_adit/nothing", nil, "control /nothing", "403"},
		{"escaped", "/%5Fadit%2Fstatus", nil, "control /status", "403"},
		{"dots", "/x/../_adit/status", nil, "control /status", "403"},
		{"dots that leave it", "/_adit/../x", nil, "data /_adit/../x", ""},
		{"slashes", "//_adit//status", nil, "control /status", "403"},
		{"absolute form", "http://example.com/_adit/status", nil, "control /status", "403"},
	} {
		for _, open := range []bool{false, true} {
			want := c.want
			if open && c.open != "" {
				want = c.open
			}
			t.Run(fmt.Sprintf("%s/%t", c.name, open), func(t *testing.T) {
				h := Handler(Config{
					Path: "/_adit", Control: who("control"), Data: who("data"), Open: open,
					Address: func(r *http.Request) string { return "192.0.2.9:1" },
				})
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				var err error
				if r.URL, err = r.URL.Parse(c.target); err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(c.target, "/") { // as the server reads it: no host, whatever the slashes
					r.URL.Scheme, r.URL.Host = "", ""
					path, query, _ := strings.Cut(c.target, "?")
					r.URL.RawQuery = query
					if r.URL.Path, r.URL.RawPath = path, ""; strings.Contains(path, "%") {
						r.URL.Path, r.URL.RawPath = strings.NewReplacer("%5F", "_", "%2F", "/").Replace(path), path
					}
				}
				for _, line := range c.header {
					name, value, _ := strings.Cut(line, ": ")
					r.Header.Set(name, value)
				}
				clean := r.URL.Path
				if strings.Contains(clean, "//") || strings.Contains(clean, "/.") {
					clean = path.Clean(clean)
				}
				if strings.HasPrefix(c.want, "control") && !Reserved("/_adit", clean) {
					t.Errorf("%s is not reserved", clean)
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				got := w.Body.String()
				if w.Code != http.StatusOK {
					got = fmt.Sprint(w.Code)
					if !strings.Contains(w.Body.String(), "TLS only") {
						t.Errorf("%d says %q", w.Code, w.Body)
					}
				}
				if addr := " 192.0.2.1:1234"; strings.HasPrefix(want, "data") {
					want += addr
				} else if strings.HasPrefix(want, "control") {
					want += " 192.0.2.9:1"
				}
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

func TestConnectMethod(t *testing.T) {
	h := Handler(Config{Path: "/_adit", Control: who("control"), Data: who("data")})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodConnect, "/_adit/status", nil))
	if !strings.HasPrefix(w.Body.String(), "data") {
		t.Errorf("CONNECT was answered with %q", w.Body)
	}
}

// Even a prefix that is the path of something else takes nothing away from clients.
func TestAwkwardPrefix(t *testing.T) {
	for _, prefix := range []string{"/connect", "/status", "/.well-known"} {
		h := Handler(Config{Path: prefix, Control: who("control"), Data: who("data"), Address: func(*http.Request) string { return "" }})
		for path, header := range map[string][2]string{"/connect": {"Sec-Websocket-Protocol", "adit.v1"}, "/status": {"Adit-Status", "1"}, "/.well-known/ca.crt": {"Adit-Ca-Proof", "x"}} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "websocket")
			r.Header.Set(header[0], header[1])
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if got := strings.TrimSpace(w.Body.String()); got != "control "+path {
				t.Errorf("with %s, %s is answered by %q", prefix, path, got)
			}
		}
	}
}

// Old clients and adit's constants must agree on what a client is told by.
func TestSubprotocol(t *testing.T) {
	if tunnel.Subprotocol != "adit.v1" {
		t.Errorf("the subprotocol is %s", tunnel.Subprotocol)
	}
}

// deadlines is a ResponseWriter that shows when it must be done.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = t; return nil }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = t; return nil }

// A request of the control plane has its time, and what comes on the connection behind it has none of that.
func TestDeadlines(t *testing.T) {
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	control := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if w.read.IsZero() || w.write.IsZero() || time.Until(w.write) > limit {
			t.Errorf("deadlines are %v and %v", w.read, w.write)
		}
	})
	data := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if !w.write.IsZero() {
			t.Errorf("the deadline of a visitor is %v", w.write)
		}
	})
	h := Handler(Config{Path: "/_adit", Control: control, Data: data, Address: func(*http.Request) string { return "" }})
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/_adit/status", nil))
	if w.read.IsZero() {
		t.Error("the control plane was not asked")
	}
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
}

// reading is a connection that something else reads along with, which must not see what follows a handshake.
type reading struct {
	net.Conn
	t        *testing.T
	upgraded *atomic.Bool
}

func (c *reading) Read(p []byte) (int, error) {
	if c.upgraded.Load() {
		c.t.Error("read along with a websocket")
	}
	return c.Conn.Read(p)
}

func (c *reading) NetConn() net.Conn { return c.Conn }

type readingListener struct {
	net.Listener
	t        *testing.T
	upgraded *atomic.Bool
}

func (l readingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &reading{c, l.t, l.upgraded}, nil
}

// A websocket of the control plane has the bare connection.
func TestHijack(t *testing.T) {
	var upgraded atomic.Bool
	upgrader := websocket.Upgrader{}
	control := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		upgraded.Store(true)
		defer c.Close()
		for {
			typ, p, err := c.ReadMessage()
			if err != nil || c.WriteMessage(typ, p) != nil {
				return
			}
		}
	})
	srv := httptest.NewUnstartedServer(Handler(Config{
		Path: "/_adit", Control: control, Data: who("data"), Address: func(r *http.Request) string { return r.RemoteAddr },
	}))
	srv.Listener = readingListener{srv.Listener, t, &upgraded}
	srv.Start()
	defer srv.Close()
	conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(srv.URL, "http")+"/_adit/connect", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, text := range []string{"GET / HTTP/1.1\nbare line feeds", "\x00\x00"} {
		if err := conn.WriteMessage(websocket.BinaryMessage, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, p, err := conn.ReadMessage(); err != nil || string(p) != text {
			t.Errorf("got %q, %v", p, err)
		}
	}
}
