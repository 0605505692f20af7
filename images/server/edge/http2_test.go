package edge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

func withH2C(cfg *Config) { cfg.H2C = true }

// h2cSite is a site that speaks HTTP/2 without TLS, with one upstream under every host.
func h2cSite(tb testing.TB, upstream string, change ...func(*Config)) *site {
	tb.Helper()
	s := newSite(tb, append(change, withH2C)...)
	s.client(upstream)
	return s
}

// visitorHTTP2 returns an http.Client that speaks HTTP/2 and nothing else, over TLS or not.
func (s *site) visitorHTTP2() *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.addr)
		},
		TLSClientConfig:    trusting.Clone(),
		DisableCompression: true, ExpectContinueTimeout: patience,
		Protocols: new(http.Protocols),
	}
	transport.Protocols.SetHTTP2(true)
	transport.Protocols.SetUnencryptedHTTP2(true)
	s.tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// TestHTTP2Visitor is about what an upstream of HTTP/1.1 gets from a visitor of HTTP/2.
func TestHTTP2Visitor(t *testing.T) {
	heads := make(chan string, 1)
	s := tlsSite(t, rawUpstream(t, func(_ int, c *wire) {
		for head := c.head(); head != ""; head = c.head() {
			heads <- head
			c.send(hello)
		}
	}))
	req, _ := http.NewRequest("GET", "https://a.example/x?y", nil)
	req.Header = http.Header{"Te": {"trailers"}, "Cookie": {"a=1; b=2"}, "X-Forwarded-For": {"6.6.6.6"}, "X": {"1", "2"}}
	resp, err := s.visitorHTTP2().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if body := readAll(t, resp); resp.ProtoMajor != 2 || resp.StatusCode != 200 || body != "hello" {
		t.Errorf("response is %s %d %q", resp.Proto, resp.StatusCode, body)
	}
	head := <-heads
	if !strings.HasPrefix(head, "GET /x?y HTTP/1.1\r\nHost: a.example\r\n") {
		t.Errorf("head is %q", head)
	}
	wantFields(t, head, map[string][]string{
		"Host": {"a.example"}, "TE": {"trailers"}, "Connection": {"TE"}, "Cookie": {"a=1; b=2"}, "X": {"1", "2"},
		"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"https"}, "Forwarded": {`for=127.0.0.1;host="a.example";proto=https`},
	})
	s.wantCount(1, "200", "*", "GET")
}

// TestHTTP2Choice is about who gets HTTP/2.
func TestHTTP2Choice(t *testing.T) {
	plain := webSite(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%v", r.Header["Upgrade"]) })
	clear := h2cSite(t, "http://"+httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%v%v", r.Header["Upgrade"], r.Header["Http2-Settings"])
	}))
	secure := tlsSite(t, httpUpstream(t, func(http.ResponseWriter, *http.Request) {}))
	dial := func(s *site) net.Conn { return s.dial().Conn }
	const upgrade = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for _, test := range []struct {
		name string
		conn net.Conn
		send string
		want string // what the answer begins with; "" is the end of the connection
	}{
		{"without TLS", dial(plain), preface + settings, "HTTP/1.1 505 "},
		{"without TLS, upgrade", dial(plain), upgrade, "HTTP/1.1 200 "},
		{"h2c", dial(clear), preface + settings, "\x00\x00"},
		{"h2c, upgrade", dial(clear), upgrade, "HTTP/1.1 200 "},
		{"h2c, HTTP/1.1", dial(clear), get, "HTTP/1.1 200 "},
		{"h2c, nearly", dial(clear), "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "HTTP/1.1 505 "},
		{"h2c, guarded", dial(clear), "GET / HTTP/1.1\nHost: a.example\r\n\r\n", "HTTP/1.1 400 "},
		{"TLS", secure.dialALPN("h2", "http/1.1"), preface + settings, "\x00\x00"},
		{"TLS, HTTP/1.1", secure.dialALPN("http/1.1"), get, "HTTP/1.1 200 "},
		{"TLS, nothing chosen", secure.dialALPN(), get, "HTTP/1.1 200 "},
		{"TLS, not chosen", secure.dialALPN("http/1.1"), preface + settings, "HTTP/1.1 400 "},
		{"TLS, not offered", secure.dialALPN(), preface + settings, "HTTP/1.1 400 "},
		{"TLS, chosen in vain", secure.dialALPN("h2"), get, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_ = test.conn.SetDeadline(soon())
			if _, err := io.WriteString(test.conn, test.send); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, max(1, len(test.want)))
			n, err := io.ReadFull(test.conn, got)
			if string(got[:n]) != test.want || test.want == "" && err == nil {
				t.Fatalf("answer begins with %q, %v, want %q", got[:n], err, test.want)
			}
			if !strings.Contains(test.want, " 200 ") {
				return
			}
			resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(test.want), test.conn)), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body := readAll(t, resp); strings.Contains(body, "h2c") || strings.Contains(body, "AAMA") {
				t.Errorf("the upstream got %s", body)
			}
		})
	}
}

// TestHTTP2Malformed is about requests of which net/http makes something, and which
// two servers could read in two ways.
func TestHTTP2Malformed(t *testing.T) {
	s := h2cSite(t, "http://"+httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Seen", r.Method+" "+r.RequestURI+" "+r.Host)
	}))
	with := func(fields ...string) []string { return slices.Concat(getFields, fields) }
	target := func(method, path string, fields ...string) []string {
		return append([]string{":method", method, ":scheme", "http", ":authority", "a.example", ":path", path}, fields...)
	}
	protocolError := http2.ErrCodeProtocol.String()
	for _, test := range []struct {
		name   string
		fields []string
		body   string // and the end is in HEADERS without one
		want   string
	}{
		{"plain", getFields, "", "200"},
		{"same host", with("host", "a.example"), "", "200"},
		{"other host", with("host", "b.example"), "", "400"},
		{"same host and another", with("host", "a.example", "host", "b.example"), "", "400"},
		{"only host", []string{":method", "GET", ":scheme", "http", ":path", "/", "host", "a.example"}, "", "200"},
		{"no host", []string{":method", "GET", ":scheme", "http", ":path", "/"}, "", "400"},
		{"user in authority", []string{":method", "GET", ":scheme", "http", ":authority", "a@a.example", ":path", "/"}, "", protocolError},
		{"space in path", target("GET", "/ HTTP/1.1"), "", "400"},
		{"tab in path", target("GET", "/\tx"), "", protocolError},
		{"absolute path", target("GET", "http://b.example/"), "", "400"},
		{"no slash", target("GET", "x"), "", protocolError},
		{"asterisk", target("OPTIONS", "*"), "", "200"},
		{"asterisk with GET", target("GET", "*"), "", "400"},
		{"space in method", target("GET /x", "/"), "", "400"},
		{"connect", []string{":method", "CONNECT", ":authority", "a.example:443"}, "", "405"},
		{"websocket", target("CONNECT", "/", ":protocol", "websocket"), "", protocolError},
		{"preface's method", target("PRI", "*"), "", "505"},
		{"connection", with("connection", "close"), "", "400"},
		{"transfer coding", with("transfer-encoding", "chunked"), "", "400"},
		{"upgrade", with("upgrade", "h2c"), "", "400"},
		{"te", with("te", "gzip"), "", "400"},
		{"line break", with("x", "a\r\nb: c"), "", protocolError},
		{"length", target("POST", "/", "content-length", "5"), "hello", "200"},
		{"length twice", target("POST", "/", "content-length", "5", "content-length", "5"), "hello", "400"},
		{"length with sign", target("POST", "/", "content-length", "+0"), "", "400"},
		{"length without body", target("POST", "/", "content-length", "5"), "", "400"},
		{"too little", target("POST", "/", "content-length", "6"), "hello", "400"},
		{"too much", target("POST", "/", "content-length", "4"), "hello", protocolError},
		{"expectation", target("POST", "/", "expect", "miracles"), "hello", "417"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := s.dialFrames()
			if err := f.request(1, test.body == "", test.fields...); err != nil {
				t.Fatal(err)
			}
			if test.body != "" {
				_ = f.WriteData(1, true, []byte(test.body))
			}
			if got := f.status(); got != test.want {
				t.Errorf("answer is %s, want %s", got, test.want)
			}
		})
	}
}

// TestExchanges is about what passes between visitors and upstreams beside plain requests,
// whatever the two speak.
func TestExchanges(t *testing.T) {
	for _, to := range []string{"http", "h2c"} {
		for _, from := range []string{"HTTP/1.1", "HTTP/2"} {
			for _, test := range exchanges {
				t.Run(from+" to "+to+"/"+test.name, func(t *testing.T) {
					var s *site
					if to == "http" {
						s = h2cSite(t, "http://"+httpUpstream(t, test.upstream))
					} else {
						s = h2cSite(t, "h2c://"+http2Upstream(t, nil, test.upstream))
					}
					visitor := s.visitor()
					if from == "HTTP/2" {
						visitor = s.visitorHTTP2()
					}
					test.visit(t, visitor)
				})
			}
		}
	}
}

// exchanges are what has to work whatever the two sides speak.
var exchanges = []struct {
	name     string
	upstream http.HandlerFunc
	visit    func(t *testing.T, v *http.Client)
}{
	{"trailers", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "Announced")
		_, _ = w.Write(body)
		w.Header().Set("Announced", r.Trailer.Get("Checksum"))
		w.Header().Set(http.TrailerPrefix+"Late", "too")
	}, func(t *testing.T, v *http.Client) {
		req, _ := http.NewRequest("POST", "http://a.example/", io.NopCloser(strings.NewReader("hello")))
		req.Trailer = http.Header{"Checksum": {"5d41"}}
		resp, err := v.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(t, resp); body != "hello" || resp.Trailer.Get("Announced") != "5d41" || resp.Trailer.Get("Late") != "too" {
			t.Errorf("body is %q with trailers %v", body, resp.Trailer)
		}
	}},
	{"interim", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.WriteHeader(http.StatusNoContent)
	}, func(t *testing.T, v *http.Client) {
		var hints []string
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, h.Get("Link")))
			return nil
		}})
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://a.example/", nil)
		resp, err := v.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		if !slices.Equal(hints, []string{"103</a.css>"}) || resp.StatusCode != 204 || resp.Header["Link"] != nil {
			t.Errorf("interim responses are %q before %d with %v", hints, resp.StatusCode, resp.Header)
		}
	}},
	{"head", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "1234") }, func(t *testing.T, v *http.Client) {
		resp, err := v.Head("http://a.example/")
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(t, resp); body != "" || resp.ContentLength != 1234 {
			t.Errorf("response has %q of %d bytes", body, resp.ContentLength)
		}
	}},
	{"both ways at once", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		line := bufio.NewReader(r.Body)
		for {
			text, err := line.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, "re: "+text)
			_ = rc.Flush()
		}
	}, func(t *testing.T, v *http.Client) {
		body, to := io.Pipe()
		req, _ := http.NewRequest("POST", "http://a.example/", body)
		answers := make(chan *http.Response, 1)
		go func() {
			if resp, err := v.Do(req); err == nil {
				answers <- resp
			}
			close(answers)
		}()
		var from *bufio.Reader
		for i := range 3 {
			fmt.Fprintf(to, "%d\n", i)
			if from == nil {
				resp := <-answers
				if resp == nil {
					t.Fatal("no response")
				}
				defer resp.Body.Close()
				from = bufio.NewReader(resp.Body)
			}
			if line, err := from.ReadString('\n'); line != fmt.Sprintf("re: %d\n", i) {
				t.Fatalf("answer is %q, %v", line, err)
			}
		}
		_ = to.Close()
		if _, err := from.ReadByte(); err != io.EOF {
			t.Errorf("end is %v", err)
		}
	}},
	{"large both ways", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }, func(t *testing.T, v *http.Client) {
		sent := strings.Repeat("0123456789abcdef", 1<<18)
		resp, err := v.Post("http://a.example/", "text/plain", strings.NewReader(sent))
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, resp); got != sent {
			t.Errorf("%d bytes have come back of %d", len(got), len(sent))
		}
	}},
	{"refused early", func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // or an HTTP/1.1 server would first wait for the body
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = io.WriteString(w, "too much")
	}, func(t *testing.T, v *http.Client) {
		body, to := io.Pipe() // never ends
		defer to.Close()
		go func() { _, _ = to.Write([]byte("beginning")) }()
		resp, err := v.Post("http://a.example/", "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, resp); resp.StatusCode != 413 || got != "too much" {
			t.Errorf("response is %d %q", resp.StatusCode, got)
		}
	}},
	{"expectation", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }, func(t *testing.T, v *http.Client) {
		req, _ := http.NewRequest("PUT", "http://a.example/", strings.NewReader("hello"))
		req.Header.Set("Expect", "100-continue")
		resp, err := v.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, resp); got != "hello" {
			t.Errorf("response is %d %q", resp.StatusCode, got)
		}
	}},
	{"cut", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, func(t *testing.T, v *http.Client) {
		resp, err := v.Get("http://a.example/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); err == nil || string(got) != "part" {
			t.Errorf("body is %q, %v, want it cut", got, err)
		}
	}},
}

// TestHTTP2Cut wants a stream that broke to be reset.
func TestHTTP2Cut(t *testing.T) {
	s := h2cSite(t, "http://"+rawUpstream(t, func(_ int, c *wire) {
		c.head()
		c.send("HTTP/1.1 200 OK\r\n\r\nhello") // up to the end of the connection
		resetConn(c.Conn)
	}))
	f := s.dialFrames()
	f.must(nil, f.request(1, true, getFields...))
	for frame := f.next(); ; frame = f.next() {
		switch frame := frame.(type) {
		case nil:
			t.Fatal("the connection ended")
		case *http2.DataFrame:
			if frame.StreamEnded() {
				t.Fatal("the response ended cleanly")
			}
		case *http2.RSTStreamFrame:
			return
		}
	}
}

// TestHTTP2Cancel wants the upstream to hear of a visitor who leaves one request, while
// others on the same connection go on.
func TestHTTP2Cancel(t *testing.T) {
	arrived, left, finish := make(chan string, 2), make(chan string, 2), make(chan struct{})
	s := h2cSite(t, "http://"+httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.URL.Path
		select {
		case <-r.Context().Done():
			left <- r.URL.Path
		case <-finish:
		}
	}))
	f := s.dialFrames()
	f.must(nil, f.request(1, true, ":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/left"))
	f.must(nil, f.request(3, true, ":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/stays"))
	<-arrived
	<-arrived
	f.must(nil, f.WriteRSTStream(1, http2.ErrCodeCancel))
	if path := <-left; path != "/left" {
		t.Errorf("%s was cancelled", path)
	}
	s.wantCount(1, "499", "*", "GET")
	close(finish)
	if got := f.status(); got != "200" {
		t.Errorf("the other's answer is %s", got)
	}
}

// TestHTTP2Drain wants a server that shuts down to tell so, and to finish what is under way.
func TestHTTP2Drain(t *testing.T) {
	arrived, finish := make(chan struct{}), make(chan struct{})
	s := h2cSite(t, "http://"+httpUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-finish
		_, _ = io.WriteString(w, "hello")
	}))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := s.edge.Server(ctx, false)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(Listener(l)) }()
	s.addr = l.Addr().String()
	idle, f := s.dialFrames(), s.dialFrames()
	f.must(nil, f.request(1, true, getFields...))
	<-arrived
	f.must(nil, f.WritePing(false, [8]byte{1}))
	idle.must(nil, idle.WritePing(false, [8]byte{1}))
	for _, f := range []*frames{idle, f} { // both have begun
		for pong := false; !pong; {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			ping, ok := frame.(*http2.PingFrame)
			pong = ok && ping.IsAck()
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- srv.Shutdown(ctx) }()
	if got := idle.status(); got != "GOAWAY NO_ERROR" {
		t.Errorf("an idle visitor gets %s", got)
	}
	if got := f.status(); got != "GOAWAY NO_ERROR" {
		t.Errorf("a busy visitor gets %s", got)
	}
	close(finish)
	got := f.status()
	for strings.HasPrefix(got, "GOAWAY") {
		got = f.status()
	}
	if got != "200" {
		t.Errorf("what was under way ended with %s", got)
	}
	if err := <-closed; err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("serve: %v", err)
	}
}
