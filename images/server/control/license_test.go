package control

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/license"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// vendor is a server that needs licences, and who issues them.
type vendor struct {
	*server
	key  license.PrivateKey
	keys *atomic.Pointer[license.Keys]
}

func startVendor(t testing.TB, change ...func(*Config)) *vendor {
	t.Helper()
	v := &vendor{key: license.NewPrivateKey(), keys: new(atomic.Pointer[license.Keys])}
	v.trust(t, v.key)
	v.server = start(t, append([]func(*Config){func(cfg *Config) { cfg.Keys, cfg.Drain = v.keys, patience }}, change...)...)
	return v
}

// trust replaces the keys of the server.
func (v *vendor) trust(t testing.TB, list ...license.PrivateKey) {
	t.Helper()
	var text []string
	for _, key := range list {
		text = append(text, key.Public())
	}
	keys, err := license.ParseKeys(strings.Join(text, ","))
	must(t, err)
	v.keys.Store(&keys)
}

func (v *vendor) issue(t testing.TB, change ...func(*license.License)) string {
	t.Helper()
	l := license.License{Subject: "acme", Expires: time.Now().Add(time.Hour).Truncate(time.Second)}
	for _, f := range change {
		f(&l)
	}
	text, err := license.Issue(v.key, l)
	must(t, err)
	return text
}

// dialWith makes the handshake of a client with a licence.
func (v *vendor) dialWith(t testing.TB, h tunnel.Hello, licences ...string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	head := header(t, h)
	for _, l := range licences {
		head.Add(license.Header, l)
	}
	dialer := websocket.Dialer{
		Subprotocols: []string{tunnel.Subprotocol}, HandshakeTimeout: patience,
		WriteBufferSize: tunnel.WriteBufferSize, WriteBufferPool: tunnel.WriteBufferPool,
	}
	return dialer.Dial("ws://"+v.addr+"/connect", head)
}

func (v *vendor) refusedWith(t testing.TB, h tunnel.Hello, want string, licences ...string) {
	t.Helper()
	conn, resp, err := v.dialWith(t, h, licences...)
	if err == nil {
		conn.Close()
		t.Fatalf("%s was not refused", h.ClientID)
	}
	if resp == nil {
		t.Fatal(err)
	}
	body := make([]byte, 2000)
	n, _ := resp.Body.Read(body)
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body[:n]), want) {
		t.Errorf("refused with %d %s, want %s", resp.StatusCode, body[:n], want)
	}
	v.log.await(t, "client refused", "reason", want)
}

func (v *vendor) admitted(t testing.TB, h tunnel.Hello, licence string) *peer {
	t.Helper()
	conn, resp, err := v.dialWith(t, h, licence)
	if err != nil {
		body := make([]byte, 2000)
		n, _ := resp.Body.Read(body)
		t.Fatalf("%v: %s", err, body[:n])
	}
	p := &peer{goAway: make(chan tunnel.GoAway, 1)}
	p.Session = tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{
		Client: true, PingInterval: patience, Handle: echo, GoAway: func(g tunnel.GoAway) { p.goAway <- g },
	})
	t.Cleanup(func() { p.Close() })
	v.log.await(t, "client connected", "client_id", h.ClientID)
	return p
}

func TestLicenseNeeded(t *testing.T) {
	v := startVendor(t)
	other := license.NewPrivateKey()
	foreign, err := license.Issue(other, license.License{Subject: "acme", Expires: time.Now().Add(time.Hour)})
	must(t, err)
	shop := v.issue(t, func(l *license.License) {
		l.Hosts, l.Ports = []string{"shop.example.com", "*.example.org"}, []license.Ports{{First: 2222, Last: 2222}, {First: 30000, Last: 39999}}
	})
	v.refusedWith(t, hello("a", "http://a"), "only clients with a licence: set LICENSE or LICENSE_FILE")
	v.refusedWith(t, hello("a", "http://a"), "more than one licence", shop, shop)
	v.refusedWith(t, hello("a", "http://a"), "a key that this server does not have", foreign)
	v.refusedWith(t, hello("a", "http://a"), "(exp): the licence of acme expired at", v.issue(t, func(l *license.License) { l.Expires = time.Now().Add(-time.Hour) }))
	v.refusedWith(t, hello("a", "http://a"), "does not cover every host (*), which the upstream *=http://a:80 asks for (hosts: shop.example.com, *.example.org)", shop)
	v.refusedWith(t, hello("a", "shop.example.com=http://a", "example.org=http://a"), "does not cover the host example.org", shop)
	v.refusedWith(t, hello("a", "22=a:22"), "does not cover port 22, which the upstream 22=a:22 asks for (ports: 2222, 30000-39999)", shop)
	v.refusedWith(t, hello("a", "*=http://a"), "(hosts: none)", v.issue(t, func(l *license.License) { l.Hosts = []string{} }))
	for claim, want := range map[string]string{"missing": "1", "format": "1", "signature": "1", "exp": "1", "hosts": "3", "ports": "1"} {
		if got := v.metric(t, `adit_license_refusals_total{claim="`+claim+`"}`); got != want {
			t.Errorf("%s refusals for %s, want %s", got, claim, want)
		}
	}
	if got := v.metric(t, "adit_license_expiry_timestamp_seconds"); got != "" {
		t.Errorf("nobody is there, and the licence expires at %s", got)
	}
	v.admitted(t, hello("a", "shop.example.com/api=http://a", "*.b.example.org=http://a"), shop)
	unlimited := v.issue(t, func(l *license.License) { l.Subject, l.Expires = "other", l.Expires.Add(time.Hour) })
	v.admitted(t, hello("b", "http://a"), unlimited)
	doc := v.Document()
	if l := doc.Clients[0].License; l == nil || l.Subject != "acme" || doc.Clients[1].License.Subject != "other" {
		t.Errorf("got %+v", doc.Clients)
	}
	if got, want := v.metric(t, "adit_license_expiry_timestamp_seconds"), fmt.Sprint(float64(doc.Clients[0].License.Expires.Unix())); got != want {
		t.Errorf("the first expires at %s, want %s", got, want)
	}
	for _, licence := range []string{shop, foreign, unlimited} {
		if text := v.log.String(); strings.Contains(text, licence) || strings.Contains(text, licence[len(licence)-40:]) {
			t.Error("a licence is in the log")
		}
	}
}

// TestLicenseNotNeeded ignores what a client brings.
func TestLicenseNotNeeded(t *testing.T) {
	v := &vendor{server: start(t), key: license.NewPrivateKey()}
	v.admitted(t, hello("a", "http://a"), "nonsense")
	if doc := v.Document(); doc.Clients[0].License != nil {
		t.Errorf("got %+v", doc.Clients)
	}
}

func TestLicenseMaxClients(t *testing.T) {
	v := startVendor(t)
	two := v.issue(t, func(l *license.License) { l.MaxClients = 2 })
	v.admitted(t, hello("a", "http://a"), two)
	b := v.admitted(t, hello("b", "http://a"), two)
	v.refusedWith(t, hello("c", "http://a"), "the licence of acme is for 2 clients at once (max_clients)", two)
	// One that comes back takes over, whatever the count.
	b2 := v.admitted(t, epoch(hello("b", "http://a"), 2), two)
	v.refusedWith(t, hello("c", "http://a"), "max_clients", two)
	// Another customer is another matter, and so is a licence for more.
	v.admitted(t, hello("d", "http://a"), v.issue(t, func(l *license.License) { l.Subject, l.MaxClients = "other", 1 }))
	v.admitted(t, hello("c", "http://a"), v.issue(t, func(l *license.License) { l.MaxClients = 3 }))
	must(t, b.Close())
	must(t, b2.Close())
	eventually(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.seats["acme"]) == 2
	})
	v.refusedWith(t, hello("e", "http://a"), "max_clients", two)
	// A refused port gives the seat back.
	one := v.issue(t, func(l *license.License) { l.Subject, l.MaxClients = "third", 1 })
	conn, resp, err := v.dialWith(t, hello("f", "22=a:22"), one)
	if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("got %v %v %v", conn, resp, err)
	}
	v.admitted(t, hello("g", "http://a"), one)
}

// TestLicenseForeignID has a customer come with the client id of another and a higher
// epoch, which is how a connection is taken over: the two have nothing to do with each
// other.
func TestLicenseForeignID(t *testing.T) {
	v := startVendor(t)
	h := hello("a", "a.test=http://a")
	ours := v.admitted(t, h, v.issue(t, func(l *license.License) { l.Hosts = []string{"a.test"} }))
	st := v.open(t, "a.test")
	alive(t, st)
	thief := hello("a", "b.test=http://b")
	theirs := v.admitted(t, epoch(thief, 1<<62), v.issue(t, func(l *license.License) { l.Subject, l.Hosts = "thief", []string{"b.test"} }))
	if strings.Contains(v.log.String(), "took over") {
		t.Error("a session was taken over")
	}
	for _, host := range []string{"a.test", "b.test"} {
		alive(t, v.open(t, host))
	}
	alive(t, st)
	if doc := v.Document(); len(doc.Clients) != 2 {
		t.Errorf("connected: %+v", doc.Clients)
	}
	// The owner itself still takes over from its older connection, whatever the other's epoch.
	newer := v.admitted(t, epoch(h, 2), v.issue(t, func(l *license.License) { l.Hosts = []string{"a.test"} }))
	v.log.await(t, "client took over from its older connection")
	within(t, ours.goAway)
	alive(t, v.open(t, "a.test"))
	if newer.Err() != nil || theirs.Err() != nil {
		t.Errorf("ended: %v %v", newer.Err(), theirs.Err())
	}
}

// TestLicenseExpires has a licence run out under a stream: it finishes, nothing new comes,
// and both sides know why.
func TestLicenseExpires(t *testing.T) {
	v := startVendor(t)
	h := hello("a", "http://a")
	old := v.admitted(t, h, v.issue(t))
	st := v.open(t, "any")
	alive(t, st)
	ends := v.clients[name{"acme", "a"}].license.Ends()
	v.expire(ends.Add(-time.Second))
	select {
	case g := <-old.goAway:
		t.Fatalf("sent away too early with %+v", g)
	default:
	}
	v.expire(ends)
	v.log.await(t, "client may not stay", "client_id", "a", "reason", "the licence of acme expired at")
	g := within(t, old.goAway)
	if g.Code != tunnel.CodeDenied || !strings.Contains(g.Reason, "put a new one into LICENSE or LICENSE_FILE") {
		t.Errorf("sent away with %+v", g)
	}
	eventually(t, func() bool { return len(v.Document().Clients) == 0 })
	alive(t, st)
	// It comes back with a new one, while the old connection finishes.
	newer := v.admitted(t, epoch(h, 2), v.issue(t, func(l *license.License) { l.Expires = time.Now().Add(48 * time.Hour) }))
	v.expire(ends)
	alive(t, st)
	alive(t, v.open(t, "any"))
	must(t, st.CloseWrite())
	v.log.await(t, "client disconnected", "reason", "the client may not stay")
	within(t, old.Done())
	if newer.Err() != nil || len(v.Document().Clients) != 1 {
		t.Errorf("the new connection: %v", newer.Err())
	}
}

// TestLicenseExpiresHanging cuts off what does not end.
func TestLicenseExpiresHanging(t *testing.T) {
	v := startVendor(t, func(cfg *Config) { cfg.Drain = 10 * time.Millisecond })
	p := v.admitted(t, hello("a", "http://a"), v.issue(t))
	alive(t, v.open(t, "any"))
	v.expire(time.Now().Add(2 * time.Hour))
	v.log.await(t, "drain cut off")
	within(t, p.Done())
}

// TestLicenseKeyRotation takes a key away.
func TestLicenseKeyRotation(t *testing.T) {
	v := startVendor(t)
	first, h := v.key, hello("a", "http://a")
	p := v.admitted(t, h, v.issue(t))
	next := license.NewPrivateKey()
	v.trust(t, first, next)
	v.Recheck()
	v.trust(t, next)
	v.Recheck()
	if g := within(t, p.goAway); g.Code != tunnel.CodeDenied || !strings.Contains(g.Reason, "no longer in LICENSE_PUBLIC_KEY") {
		t.Errorf("sent away with %+v", g)
	}
	v.refusedWith(t, epoch(h, 2), "a key that this server does not have", v.issue(t))
	v.key = next
	still := v.open(t, "any") // its routes are there
	alive(t, still)
	must(t, still.Close())
	v.admitted(t, epoch(h, 3), v.issue(t))
	within(t, p.Done())
	alive(t, v.open(t, "any"))
}

// TestTokenRemoved has who came with a token that is gone come back with another, and
// leaves the others alone.
func TestTokenRemoved(t *testing.T) {
	const second = "fedcba9876543210fedcba9876543210"
	tokens := auth.NewTokens([]string{token, second})
	s := start(t, func(cfg *Config) { cfg.Tokens, cfg.Drain = tokens, patience })
	dial := func(h tunnel.Hello, token string) *peer {
		t.Helper()
		head := header(t, h)
		head.Set("Authorization", "Bearer "+token)
		dialer := websocket.Dialer{
			Subprotocols: []string{tunnel.Subprotocol}, HandshakeTimeout: patience,
			WriteBufferSize: tunnel.WriteBufferSize, WriteBufferPool: tunnel.WriteBufferPool,
		}
		conn, _, err := dialer.Dial("ws://"+s.addr+"/connect", head)
		must(t, err)
		p := &peer{goAway: make(chan tunnel.GoAway, 1)}
		p.Session = tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{
			Client: true, PingInterval: patience, Handle: echo, GoAway: func(g tunnel.GoAway) { p.goAway <- g },
		})
		t.Cleanup(func() { p.Close() })
		s.log.await(t, "client connected", "client_id", h.ClientID)
		return p
	}
	a := dial(hello("a", "a.test=http://a"), token)
	b := dial(hello("b", "b.test=http://b"), second)
	tokens.Set([]string{second})
	s.Recheck()
	g := within(t, a.goAway)
	if g.Code != tunnel.CodeDenied || !strings.Contains(g.Reason, "the token of this connection is no longer one of the server's") {
		t.Errorf("sent away with %+v", g)
	}
	still := s.open(t, "a.test")
	alive(t, still)
	must(t, still.Close())
	dial(epoch(hello("a", "a.test=http://a"), 2), second)
	within(t, a.Done())
	alive(t, s.open(t, "a.test"))
	alive(t, s.open(t, "b.test"))
	select {
	case g := <-b.goAway:
		t.Errorf("the other was sent away with %+v", g)
	default:
	}
	text := s.log.String()
	if strings.Contains(text, token) || strings.Contains(text, second) {
		t.Error("a token is in the log")
	}
}
