package edge

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/config"
)

const visitorToken = "0123456789abcdef-of-a-visitor"

func basic(pair string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))
}

func networks(t testing.TB, text string) config.CIDRs {
	t.Helper()
	var c config.CIDRs
	if err := c.Decode(text); err != nil {
		t.Fatal(err)
	}
	return c
}

func rules(t testing.TB, text string) (r access.Rules) {
	t.Helper()
	if err := r.Decode(text); err != nil {
		t.Fatal(err)
	}
	return r
}

// guardedSite is a site with a policy for all, nil for none, and a client whose upstream has
// its own and notes which requests it gets.
func guardedSite(t *testing.T, all, own *access.Policy, trusted string, change ...func(*Config)) (*site, *seen) {
	t.Helper()
	up := new(seen)
	s := newSite(t, append(change, func(cfg *Config) {
		cfg.Door = access.NewDoor(all, cfg.Metrics.TurnedAway, cfg.Log)
		if trusted != "" {
			if err := cfg.Trusted.Decode(trusted); err != nil {
				t.Fatal(err)
			}
		}
	})...)
	s.access = own
	s.client("http://" + httpUpstream(t, up.serve))
	return s, up
}

// seen is an upstream that notes what it gets.
type seen struct {
	count atomic.Int32
	last  atomic.Pointer[http.Header]
}

func (u *seen) serve(w http.ResponseWriter, r *http.Request) {
	u.count.Add(1)
	u.last.Store(&r.Header)
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(w, "in")
}

// refusals returns how many requests were counted as refused for the reason.
func (s *site) refusals(reason string) float64 {
	return testutil.ToFloat64(s.edge.metrics.refused.WithLabelValues(reason))
}

func TestAccess(t *testing.T) {
	users := func() *access.Policy {
		return &access.Policy{Creds: access.NewCredentials([]string{"ann:one", "bob:two"}, nil)}
	}
	passing := users()
	passing.Pass = true
	tokens := &access.Policy{Creds: access.NewCredentials(nil, []string{visitorToken})}
	both := &access.Policy{Creds: access.NewCredentials([]string{"ann:one"}, []string{visitorToken})}
	here := &access.Policy{Allow: networks(t, "127.0.0.1")}
	away := &access.Policy{Allow: networks(t, "10.0.0.0/8,2001:db8::/32")}
	const askBasic, askBearer = `Basic realm="adit", charset="UTF-8"`, `Bearer realm="adit"`
	none := "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	with := func(lines ...string) string {
		return "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
	}
	ann, bearer := "Authorization: "+basic("ann:one"), "Authorization: Bearer "+visitorToken
	for _, c := range []struct {
		name     string
		all, own *access.Policy
		trusted  string
		request  string
		code     int
		ask      []string
		reason   string // counted
		passed   string // Authorization that the upstream gets
	}{
		{name: "nothing asked for", request: with("Authorization: Bearer theirs"), code: 200, passed: "Bearer theirs"},
		{name: "addresses only: theirs passes", own: here, request: with("Authorization: Bearer theirs"), code: 200, passed: "Bearer theirs"},
		{name: "user", own: users(), request: with(ann), code: 200},
		{name: "second user", own: users(), request: with("AUTHORIZATION: " + basic("bob:two")), code: 200},
		{name: "passed on", own: passing, request: with(ann), code: 200, passed: basic("ann:one")},
		{name: "none", own: users(), request: none, code: 401, ask: []string{askBasic}, reason: access.Missing},
		{name: "wrong", own: users(), request: with("Authorization: " + basic("ann:two")), code: 401, ask: []string{askBasic}, reason: access.Wrong},
		{name: "malformed", own: users(), request: with("Authorization: Basic !"), code: 401, ask: []string{askBasic}, reason: access.Malformed},
		{name: "twice", own: users(), request: with(ann, ann), code: 401, ask: []string{askBasic}, reason: access.Malformed},
		{name: "Connection names it", own: users(), request: with(ann, "Connection: Authorization"), code: 200},
		{name: "token", own: tokens, request: with(bearer), code: 200},
		{name: "no token", own: tokens, request: none, code: 401, ask: []string{askBearer}, reason: access.Missing},
		{name: "either: user", own: both, request: with(ann), code: 200},
		{name: "either: token", own: both, request: with(bearer), code: 200},
		{name: "either: none", own: both, request: none, code: 401, ask: []string{askBasic, askBearer}, reason: access.Missing},
		{name: "preflight is no exception", own: users(), request: "OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nAccess-Control-Request-Method: PUT\r\n\r\n", code: 401, ask: []string{askBasic}, reason: access.Missing},
		{name: "nor is a body", own: users(), request: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", code: 401, ask: []string{askBasic}, reason: access.Missing},
		{name: "nor an upgrade", own: users(), request: with("Connection: Upgrade", "Upgrade: websocket"), code: 401, ask: []string{askBasic}, reason: access.Missing},
		{name: "nor a path", own: users(), request: "GET http://a//x/../y HTTP/1.1\r\nHost: a\r\n\r\n", code: 401, ask: []string{askBasic}, reason: access.Missing},
		{name: "nor HTTP/1.0", own: users(), request: "GET / HTTP/1.0\r\n\r\n", code: 401, ask: []string{askBasic}, reason: access.Missing},
		{name: "a token in the query is none", own: tokens, request: "GET /?access_token=" + visitorToken + " HTTP/1.1\r\nHost: a\r\n\r\n", code: 401, ask: []string{askBearer}, reason: access.Missing},

		{name: "here", own: here, request: none, code: 200},
		{name: "not here", own: away, request: none, code: 403, reason: access.Address},
		{name: "whoever says so", own: away, request: with("X-Forwarded-For: 10.0.0.1", "X-Real-Ip: 10.0.0.1", "Forwarded: for=10.0.0.1"), code: 403, reason: access.Address},
		{name: "a trusted proxy says so", own: away, trusted: "127.0.0.1", request: with("X-Forwarded-For: 11.0.0.1, 10.0.0.1"), code: 200},
		{name: "a trusted proxy says so, IPv6", own: away, trusted: "127.0.0.1", request: with("X-Forwarded-For: 2001:db8::7"), code: 200},
		{name: "a trusted proxy says so, IPv4 in IPv6", own: away, trusted: "127.0.0.1", request: with("X-Forwarded-For: ::ffff:10.0.0.1"), code: 200},
		{name: "a trusted proxy says no", own: here, trusted: "127.0.0.1", request: with("X-Forwarded-For: 127.0.0.1, 11.0.0.1"), code: 403, reason: access.Address},

		{name: "for all: user", all: users(), request: with(ann), code: 200},
		{name: "for all: none", all: users(), request: none, code: 401, ask: []string{askBasic}, reason: access.Missing},
		{name: "for all: passed on", all: passing, request: with(ann), code: 200, passed: basic("ann:one")},
		{name: "for all: address", all: away, request: none, code: 403, reason: access.Address},
		{name: "for all, and own: both", all: users(), own: both, request: with(ann), code: 200},
		{name: "for all, and own: only that of all", all: users(), own: both, request: with("Authorization: " + basic("bob:two")), code: 401, ask: []string{askBasic, askBearer}, reason: access.Wrong},
		{name: "for all, and own: only its own", all: users(), own: both, request: with(bearer), code: 401, ask: []string{askBasic}, reason: access.Wrong},
		{name: "for all addresses, own user", all: here, own: users(), request: with(ann), code: 200},
		{name: "one of two passes it on", all: users(), own: passing, request: with(ann), code: 200},
		{name: "both pass it on", all: passing, own: passing, request: with(ann), code: 200, passed: basic("ann:one")},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, up := guardedSite(t, c.all, c.own, c.trusted)
			// Twice on one connection: the second may take the fast path.
			conn := s.dial()
			method, _, _ := strings.Cut(c.request, " ")
			times := 2
			if strings.Contains(c.request, "HTTP/1.0") {
				times = 1
			}
			for range times {
				conn.send(c.request)
				resp, body := conn.response(method)
				if resp.StatusCode != c.code || !slices.Equal(resp.Header["Www-Authenticate"], c.ask) {
					t.Fatalf("got %d %q asking %q, want %d asking %q", resp.StatusCode, body, resp.Header["Www-Authenticate"], c.code, c.ask)
				}
			}
			if c.code != 200 {
				if n := up.count.Load(); n != 0 {
					t.Errorf("the upstream got %d requests", n)
				}
				if n := s.refusals(c.reason); n != float64(times) {
					t.Errorf("%v counted as %s", n, c.reason)
				}
				return
			}
			if got := up.last.Load().Get("Authorization"); got != c.passed {
				t.Errorf("the upstream gets %q, want %q", got, c.passed)
			}
		})
	}
}

// TestAccessUnknownRoute holds that who may not visit does not learn what there is.
func TestAccessUnknownRoute(t *testing.T) {
	s := newSite(t, func(cfg *Config) {
		cfg.Door = access.NewDoor(&access.Policy{Creds: access.NewCredentials([]string{"ann:one"}, nil)}, cfg.Metrics.TurnedAway, cfg.Log)
	})
	c := s.dial()
	c.send(get)
	c.want("GET", 401, "401 Unauthorized: credentials are needed that are accepted here\n")
	c.send("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: " + basic("ann:one") + "\r\n\r\n")
	c.want("GET", 404, "404 Not Found: nothing is exposed under this host and path\n")
}

// TestAccessDiffers has two clients of one route that say different things: each visitor gets
// to those that admit him, whosever turn it is.
func TestAccessDiffers(t *testing.T) {
	s := newSite(t)
	for _, who := range []string{"ann", "bob"} {
		s.access = &access.Policy{Creds: access.NewCredentials([]string{who + ":secret"}, nil)}
		s.client("http://" + named(t, who))
	}
	c := s.dial()
	for range 3 {
		for _, who := range []string{"ann", "bob"} {
			c.send("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: " + basic(who+":secret") + "\r\n\r\n")
			c.want("GET", 200, who)
		}
		c.send("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: " + basic("eve:secret") + "\r\n\r\n")
		c.want("GET", 401, "401 Unauthorized: credentials are needed that are accepted here\n")
		c.send(get)
		c.want("GET", 401, "401 Unauthorized: credentials are needed that are accepted here\n")
	}
	if n := s.refusals(access.Wrong); n != 3 {
		t.Errorf("%v requests counted as refused, want 3: once each", n)
	}
}

// TestAccessRetry has the upstream that admits break off: the request does not go to the one
// that does not.
func TestAccessRetry(t *testing.T) {
	var dropped atomic.Int32
	up := new(seen)
	s := newSite(t)
	s.access = &access.Policy{Creds: access.NewCredentials([]string{"ann:one"}, nil)}
	s.client("http://" + dropping(t, 0, &dropped))
	s.access = &access.Policy{Creds: access.NewCredentials([]string{"bob:two"}, nil)}
	s.client("http://" + httpUpstream(t, up.serve))
	for range 4 {
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: " + basic("ann:one") + "\r\n\r\n")
		if resp, _ := c.response("GET"); resp.StatusCode != 502 {
			t.Errorf("got %d", resp.StatusCode)
		}
	}
	if n := up.count.Load(); n != 0 {
		t.Errorf("the other upstream got %d requests", n)
	}
}

// TestAccessMixed has an open client and a guarded one on a route: the fast path takes
// requests to the open one alone.
func TestAccessMixed(t *testing.T) {
	up := new(seen)
	s := newSite(t)
	s.client("http://" + named(t, "open"))
	s.access = &access.Policy{Allow: networks(t, "10.0.0.0/8")}
	s.client("http://" + httpUpstream(t, up.serve))
	c := s.dial()
	for range 20 {
		c.send(get)
		c.want("GET", 200, "open")
	}
	if n := up.count.Load(); n != 0 {
		t.Errorf("the guarded upstream got %d requests", n)
	}
}

// TestAccessFast has one connection ask for hosts with different policies in turn, in plain
// requests: nothing of one is left for the next, and who has none of the credentials gets
// nowhere on a stream that others have left open.
func TestAccessFast(t *testing.T) {
	s := newSite(t)
	ups := map[string]*seen{}
	for host, p := range map[string]*access.Policy{
		"open.test": nil, "guarded.test": {Creds: access.NewCredentials([]string{"ann:one"}, nil)},
		"ruled.test": {Request: rules(t, "X-Env: prod"), Response: rules(t, "X-By: adit")},
	} {
		ups[host] = new(seen)
		s.access = p
		s.client(host + "=http://" + httpUpstream(t, ups[host].serve))
	}
	c := s.dial()
	for range 4 {
		for _, v := range []struct {
			host, authorization string
			code                int
			passed              string
		}{
			{"guarded.test", basic("ann:one"), 200, ""},
			{"open.test", "Bearer theirs", 200, "Bearer theirs"},
			{"guarded.test", basic("ann:two"), 401, ""},
			{"ruled.test", basic("ann:one"), 200, basic("ann:one")},
			{"guarded.test", "Bearer theirs", 401, ""},
		} {
			before := ups[v.host].count.Load()
			c.send("GET / HTTP/1.1\r\nHost: " + v.host + "\r\nAuthorization: " + v.authorization + "\r\n\r\n")
			resp, _ := c.response("GET")
			if resp.StatusCode != v.code || (resp.Header.Get("X-By") == "adit") != (v.host == "ruled.test") {
				t.Fatalf("%+v: got %d %v", v, resp.StatusCode, resp.Header)
			}
			if got := ups[v.host].count.Load() - before; (got == 1) != (v.code == 200) {
				t.Fatalf("%+v: the upstream got %d requests", v, got)
			}
			if h := *ups[v.host].last.Load(); v.code == 200 && (h.Get("Authorization") != v.passed || (h.Get("X-Env") == "prod") != (v.host == "ruled.test")) {
				t.Errorf("%+v: the upstream got %v", v, h)
			}
		}
	}
}

// TestAccessThrottle guesses until it has to wait; who knows gets in meanwhile.
func TestAccessThrottle(t *testing.T) {
	s, up := guardedSite(t, nil, &access.Policy{Creds: access.NewCredentials([]string{"ann:one", "bob:two"}, nil)}, "")
	c := s.dial()
	try := func(pair string, code int) *http.Response {
		t.Helper()
		c.send("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: " + basic(pair) + "\r\n\r\n")
		resp, body := c.response("GET")
		if resp.StatusCode != code {
			t.Fatalf("%s: got %d %q, want %d", pair, resp.StatusCode, body, code)
		}
		return resp
	}
	try("ann:one", 200)
	for i := range auth.FreeFailures {
		try(fmt.Sprint("ann:guess-", i), 401)
	}
	if resp := try("ann:guess-again", 429); resp.Header.Get("Retry-After") == "" || resp.Header["Www-Authenticate"] != nil {
		t.Errorf("got %v", resp.Header)
	}
	try("ann:one", 200)
	if n := up.count.Load(); n != 2 {
		t.Errorf("the upstream got %d requests", n)
	}
	for _, line := range s.log.all() {
		if strings.Contains(line, "guess") {
			t.Errorf("logged %s", line)
		}
	}
}

func TestAccessWebsocket(t *testing.T) {
	s := newSite(t)
	s.access = &access.Policy{
		Creds: access.NewCredentials([]string{"ann:one"}, nil), Request: rules(t, "X-Env: prod"), Response: rules(t, "-X-Upstream, X-By: adit"),
	}
	var got http.Header
	echo := echoSockets(t)
	s.client("http://" + httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		echo(w, r)
	}))
	dialer := websocket.Dialer{Subprotocols: []string{"echo"}}
	if _, resp, err := dialer.Dial("ws://"+s.addr+"/chat", nil); err == nil || resp.StatusCode != 401 {
		t.Fatalf("without credentials: %v", err)
	}
	conn, resp, err := dialer.Dial("ws://"+s.addr+"/chat", http.Header{"Authorization": {basic("ann:one")}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wantEcho(t, conn, []byte("hello"))
	if got.Get("Authorization") != "" || got.Get("X-Env") != "prod" || resp.Header.Get("X-Upstream") != "" || resp.Header.Get("X-By") != "adit" || conn.Subprotocol() != "echo" {
		t.Errorf("the upstream got %v, the visitor %v", got, resp.Header)
	}
}

// TestAccessHTTP2 asks visitors of HTTP/2 for the same.
func TestAccessHTTP2(t *testing.T) {
	s, up := guardedSite(t, nil, &access.Policy{
		Creds: access.NewCredentials([]string{"ann:one"}, nil), Request: rules(t, "X-Env: prod"), Response: rules(t, "-Date, X-By: adit"),
	}, "", withH2C)
	visitor := s.visitorHTTP2()
	for _, c := range []struct {
		authorization string
		code          int
	}{{"", 401}, {basic("ann:two"), 401}, {basic("ann:one"), 200}} {
		req, _ := http.NewRequest("GET", "http://a.example/", nil)
		if c.authorization != "" {
			req.Header.Set("Authorization", c.authorization)
		}
		resp, err := visitor.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body := readAll(t, resp)
		if resp.ProtoMajor != 2 || resp.StatusCode != c.code || (c.code == 401) != (resp.Header.Get("Www-Authenticate") != "") {
			t.Errorf("%q: got %s %d %v %q", c.authorization, resp.Proto, resp.StatusCode, resp.Header, body)
		}
		if c.code == 200 && (resp.Header["Date"] != nil || resp.Header.Get("X-By") != "adit") {
			t.Errorf("the visitor got %v", resp.Header)
		}
	}
	if h := *up.last.Load(); up.count.Load() != 1 || h.Get("Authorization") != "" || h.Get("X-Env") != "prod" {
		t.Errorf("the upstream got %d requests, the last with %v", up.count.Load(), h)
	}
}

// TestAccessHTTP2Upstream holds that a request goes no way past its policy to an upstream of
// HTTP/2 either.
func TestAccessHTTP2Upstream(t *testing.T) {
	up := new(seen)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "secret/1.0")
		up.serve(w, r)
		if r.ProtoMajor != 2 {
			t.Errorf("the upstream is asked with %s", r.Proto)
		}
	})}
	srv.Protocols.SetUnencryptedHTTP2(true)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		_ = srv.Close()
		wg.Wait()
	})
	s := newSite(t)
	s.access = &access.Policy{
		Creds:   access.NewCredentials([]string{"ann:one"}, nil),
		Request: rules(t, "X-Env: prod, -Cookie"), Response: rules(t, "-Server, X-By: adit"),
	}
	s.client("h2c://" + l.Addr().String())
	c := s.dial()
	for range 2 {
		c.send("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: " + basic("ann:two") + "\r\n\r\n")
		c.want("GET", 401, "401 Unauthorized: credentials are needed that are accepted here\n")
	}
	if n := up.count.Load(); n != 0 {
		t.Fatalf("the upstream got %d requests", n)
	}
	for range 2 {
		c.send("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: " + basic("ann:one") + "\r\nCookie: a=b\r\nX_Env: x\r\n\r\n")
		resp := c.want("GET", 200, "in")
		if h := *up.last.Load(); h["Authorization"] != nil || !slices.Equal(h["X-Env"], []string{"prod"}) || h["X_env"] != nil || h["Cookie"] != nil {
			t.Errorf("the upstream got %v", h)
		}
		if resp.Header["Server"] != nil || resp.Header.Get("X-By") != "adit" {
			t.Errorf("the visitor got %v", resp.Header)
		}
	}
}

// TestHeaderRulesEverywhere holds that what is to be removed from responses gets out neither
// ahead of them nor behind them.
func TestHeaderRulesEverywhere(t *testing.T) {
	s := newSite(t)
	s.access = &access.Policy{Response: rules(t, "-X-Internal")}
	s.client("http://" + httpUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["Trailer"] = []string{"X-Internal, X-Sum"}
		h["X-Internal"] = []string{"early"}
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "hello")
		h["X-Internal"], h["X-Sum"] = []string{"late"}, []string{"1"}
	}))
	c := s.dial()
	for range 2 {
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		hints, err := http.ReadResponse(c.r, nil)
		if err != nil || hints.StatusCode != http.StatusEarlyHints || hints.Header["X-Internal"] != nil {
			t.Fatalf("got %+v %v", hints, err)
		}
		resp := c.want("GET", 200, "hello")
		if resp.Header["X-Internal"] != nil || resp.Trailer["X-Internal"] != nil || resp.Trailer.Get("X-Sum") != "1" {
			t.Errorf("got %v and trailers %v", resp.Header, resp.Trailer)
		}
	}
}

// TestHeaderRules changes heads in both directions.
func TestHeaderRules(t *testing.T) {
	s := newSite(t, func(cfg *Config) { cfg.Log = zerolog.New(io.Discard) })
	s.access = &access.Policy{
		Request:  rules(t, "X-Env: prod, +X-Trace: 2, -Cookie, X-New: a\\, b"),
		Response: rules(t, "-Server, -Date, -Content-Type, X-Frame-Options: DENY, +Vary: Origin"),
	}
	var got http.Header
	var trailer http.Header
	s.client("http://" + httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got, trailer = r.Header, r.Trailer
		w.Header().Set("Server", "secret/1.0")
		w.Header().Set("Vary", "Cookie")
		w.Header()["X-Frame-Options"] = []string{"ALLOW", "TWICE"}
		_, _ = io.WriteString(w, "<html>")
	}))
	c := s.dial()
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\nx-env: a\r\nX_Env: b\r\nX-Trace: 1\r\nCookie: c=d\r\nConnection: X-Env, X-New\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Env, X-Sum\r\nX-Trace: 1\r\n\r\n0\r\nX-Env: b\r\nX-Sum: 1\r\n\r\n",
	} {
		c.send(request)
		method, _, _ := strings.Cut(request, " ")
		resp, _ := c.response(method)
		if !slices.Equal(got["X-Env"], []string{"prod"}) || got["X_env"] != nil || !slices.Equal(got["X-Trace"], []string{"1", "2"}) || got["Cookie"] != nil || got.Get("X-New") != "a, b" || trailer["X-Env"] != nil {
			t.Errorf("%s: the upstream got %v and %v", method, got, trailer)
		}
		h := resp.Header
		if h["Server"] != nil || h["Date"] != nil || h["Content-Type"] != nil || !slices.Equal(h["X-Frame-Options"], []string{"DENY"}) || !slices.Equal(h["Vary"], []string{"Cookie", "Origin"}) {
			t.Errorf("%s: the visitor got %v", method, h)
		}
	}
	if trailer.Get("X-Sum") != "1" {
		t.Errorf("trailers %v", trailer)
	}
	// What is ours is not the upstream's.
	s.access = &access.Policy{Response: rules(t, "X-By: adit")}
	s.client("down.test=http://127.0.0.1:1")
	c.send("GET / HTTP/1.1\r\nHost: down.test\r\n\r\n")
	if resp, _ := c.response("GET"); resp.StatusCode != 502 || resp.Header["X-By"] != nil {
		t.Errorf("got %d %v", resp.StatusCode, resp.Header)
	}
}
