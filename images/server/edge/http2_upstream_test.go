package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// http2Upstream starts a server of HTTP/2 without TLS, which counts its connections, and
// returns its address.
func http2Upstream(tb testing.TB, conns *atomic.Int64, handler http.HandlerFunc, change ...func(*http.Server)) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	srv := &http.Server{Handler: handler, Protocols: new(http.Protocols), DisableGeneralOptionsHandler: true}
	srv.Protocols.SetUnencryptedHTTP2(true)
	if conns != nil {
		srv.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
			conns.Add(1)
			return ctx
		}
	}
	for _, f := range change {
		f(srv)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	tb.Cleanup(func() {
		_ = srv.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// frameUpstream starts a server whose frames are scripted: serve has the n-th connection,
// from 0, when the preface has come and SETTINGS were sent.
func frameUpstream(tb testing.TB, serve func(n int, f *frames)) string {
	tb.Helper()
	return rawUpstream(tb, func(n int, c *wire) {
		if got := c.bytes(len(preface)); got != preface {
			return
		}
		f := &frames{Conn: c.Conn, Framer: http2.NewFramer(c.Conn, c.r), tb: tb}
		f.start()
		_ = f.WriteSettings()
		serve(n, f)
	})
}

// TestHTTP2Upstream is about the head that an upstream of HTTP/2 gets.
func TestHTTP2Upstream(t *testing.T) {
	heads := make(chan *http.Request, 1)
	s := newSite(t, withH2C)
	s.client("a.example=h2c://"+http2Upstream(t, nil, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		heads <- r
	}), "b.example=h2c://"+http2Upstream(t, nil, func(w http.ResponseWriter, r *http.Request) { heads <- r })+"?host=inner")
	c := s.dial()
	for _, test := range []struct {
		name, send, target, host string
		length                   int64
		want, absent             string
	}{
		{name: "plain", send: "GET /x?y=%20 HTTP/1.1\r\nHost: a.example\r\nCookie: a=1; b=2\r\n\r\n", target: "/x?y=%20", host: "a.example",
			want: "Cookie: a=1; b=2", absent: "User-Agent:"},
		{name: "host rewritten", send: "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n", target: "/", host: "inner", want: "X-Forwarded-Host: b.example"},
		{name: "as written", send: "GET /a%2Fb/../c|?q=a|b#f HTTP/1.1\r\nHost: a.example\r\n\r\n", target: "/a%2Fb/../c|?q=a|b#f", host: "a.example"},
		{name: "two slashes", send: "GET //evil.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n", target: "//evil.example/x?y", host: "a.example"},
		{name: "absolute", send: "GET http://a.example/x HTTP/1.1\r\nHost: c.example\r\n\r\n", target: "/x", host: "a.example"},
		{name: "asterisk", send: "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", target: "*", host: "a.example"},
		{name: "hop by hop", send: "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: x-mine, te, upgrade\r\nX-Mine: 1\r\nTE: trailers, gzip\r\nKeep-Alive: 5\r\nUpgrade: websocket\r\nX-Other: 2\r\n\r\n",
			target: "/", host: "a.example", want: "X-Other: 2\r\nTe: trailers", absent: "X-Mine:"},
		{name: "forwarding", send: "GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\r\n", target: "/", host: "a.example",
			want: "X-Forwarded-For: 127.0.0.1\r\nX-Real-Ip: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nForwarded: for=127.0.0.1;host=\"a.example\";proto=http", absent: "6.6.6.6"},
		{name: "length", send: "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello", target: "/", host: "a.example", length: 5},
		{name: "no length", send: "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", target: "/", host: "a.example", length: -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.send(test.send)
			if resp, body := c.response("GET"); resp.StatusCode != 200 {
				t.Fatalf("response is %d %q", resp.StatusCode, body)
			}
			var got *http.Request
			select {
			case got = <-heads:
			case <-time.After(patience):
				t.Fatal("it does not arrive")
			}
			if got.ProtoMajor != 2 || got.RequestURI != test.target || got.Host != test.host || got.ContentLength != test.length {
				t.Errorf("request is %s %s of %s with %d bytes", got.Proto, got.RequestURI, got.Host, got.ContentLength)
			}
			var b bytes.Buffer
			_ = got.Header.Write(&b)
			for want := range strings.SplitSeq(test.want, "\r\n") {
				if !strings.Contains(b.String(), want) {
					t.Errorf("%q is not among\n%s", want, b.String())
				}
			}
			if test.absent != "" && strings.Contains(b.String(), test.absent) {
				t.Errorf("%q is among\n%s", test.absent, b.String())
			}
		})
	}
}

// TestHTTP2IsShared wants many requests to share a connection, and another one to be opened
// when the upstream takes no more on it.
func TestHTTP2IsShared(t *testing.T) {
	for _, test := range []struct {
		name              string
		requests, atOnce  int
		connections, most int64
	}{
		{"all on one", 200, 250, 1, 1},
		{"several", 200, 50, 4, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			var conns, under atomic.Int64
			all := make(chan struct{})
			s := h2cSite(t, "h2c://"+http2Upstream(t, &conns, func(w http.ResponseWriter, r *http.Request) {
				if under.Add(1) == int64(test.requests) {
					close(all)
				}
				<-all
			}, func(srv *http.Server) { srv.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: test.atOnce} }))
			v := s.visitorHTTP2()
			var work sync.WaitGroup
			for range test.requests {
				work.Go(func() {
					resp, err := v.Get("http://a.example/")
					if err != nil {
						t.Error(err)
						return
					}
					_ = resp.Body.Close()
				})
			}
			work.Wait()
			if n := conns.Load(); n < test.connections || n > test.most {
				t.Errorf("%d connections were made, want %d to %d", n, test.connections, test.most)
			}
		})
	}
}

// TestHTTP2Limit wants requests beyond MAX_STREAMS to be refused.
func TestHTTP2Limit(t *testing.T) {
	arrived, finish := make(chan struct{}, 2), make(chan struct{})
	s := h2cSite(t, "h2c://"+http2Upstream(t, nil, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-finish
	}), func(cfg *Config) { cfg.MaxStreams = 2 })
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() { s.get("http://a.example/") })
		<-arrived
	}
	if resp, body := s.get("http://a.example/"); resp.StatusCode != 503 || !strings.Contains(body, "too many requests") {
		t.Errorf("response is %d %q", resp.StatusCode, body)
	}
	close(finish)
	work.Wait()
	if resp, _ := s.get("http://a.example/"); resp.StatusCode != 200 {
		t.Errorf("response is %d when there is room again", resp.StatusCode)
	}
}

// answer answers a request with 200 and a body.
func (f *frames) answer(id uint32, body string) {
	_ = f.request(id, false, ":status", "200")
	_ = f.WriteData(id, true, []byte(body))
}

// TestHTTP2Retries is about requests with which an upstream says it did nothing: they are
// sent again, also if they must not be done twice.
func TestHTTP2Retries(t *testing.T) {
	post := func(body string) func() (*http.Request, error) {
		return func() (*http.Request, error) {
			return http.NewRequest("POST", "http://a.example/", strings.NewReader(body))
		}
	}
	get := func() (*http.Request, error) { return http.NewRequest("GET", "http://a.example/", nil) }
	refuse := func(f *frames, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeRefusedStream) }
	leave := func(f *frames, id uint32) { _ = f.WriteGoAway(id-2, http2.ErrCodeNo, nil) }
	fail := func(f *frames, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeInternal) }
	hangUp := func(f *frames, _ uint32) { resetConn(f.Conn) }
	for _, test := range []struct {
		name    string
		request func() (*http.Request, error)
		first   func(*frames, uint32) // what becomes of the first attempt
		code    int
		body    string
	}{
		{"refused", get, refuse, 200, "hello "},
		{"refused, with a body", post("a body"), refuse, 200, "hello a body"},
		{"refused, with a large body", post(strings.Repeat("x", 100<<10)), refuse, 502, "broke off before"},
		{"gone away", get, leave, 200, "hello "},
		{"gone away, with a body", post("a body"), leave, 200, "hello a body"},
		{"failed", get, fail, 200, "hello "},
		{"failed, with a body", post("a body"), fail, 502, "broke off before"},
		{"hung up", get, hangUp, 200, "hello "},
		{"hung up, with a body", post("a body"), hangUp, 502, "broke off before"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var requests atomic.Int64
			s := h2cSite(t, "h2c://"+frameUpstream(t, func(_ int, f *frames) {
				bodies := map[uint32]*bytes.Buffer{}
				for frame := f.next(); frame != nil; frame = f.next() {
					id := frame.Header().StreamID
					ended := frame.Header().Flags.Has(http2.FlagDataEndStream)
					switch frame := frame.(type) {
					case *http2.MetaHeadersFrame:
						bodies[id] = new(bytes.Buffer)
					case *http2.DataFrame:
						bodies[id].Write(frame.Data())
					default:
						continue
					}
					// The first request of the connection that all share is just to have it used.
					switch n := requests.Load(); {
					case n == 1 && (ended || bodies[id].Len() > maxHeld+1):
						requests.Add(1)
						test.first(f, id)
					case n != 1 && ended:
						requests.Add(1)
						f.answer(id, "hello "+bodies[id].String())
					}
				}
			}))
			if _, body := s.get("http://a.example/"); body != "hello " {
				t.Fatalf("the first answer is %q", body)
			}
			req, err := test.request()
			if err != nil {
				t.Fatal(err)
			}
			resp, err := s.visitorHTTP2().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if body := readAll(t, resp); resp.StatusCode != test.code || !strings.Contains(body, test.body) {
				t.Errorf("answer is %d %q", resp.StatusCode, body)
			}
		})
	}
}

// TestHTTP2NextBackend wants an upstream that refuses everything to be passed over.
func TestHTTP2NextBackend(t *testing.T) {
	s := newSite(t, withH2C)
	var refusals atomic.Int64
	s.client("h2c://" + frameUpstream(t, func(_ int, f *frames) {
		for frame := f.next(); frame != nil; frame = f.next() {
			if head, ok := frame.(*http2.MetaHeadersFrame); ok {
				refusals.Add(1)
				_ = f.WriteRSTStream(head.StreamID, http2.ErrCodeRefusedStream)
			}
		}
	}))
	s.client("h2c://" + http2Upstream(t, nil, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	for range 4 {
		resp, err := s.visitor().Post("http://a.example/", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(t, resp); resp.StatusCode != 200 || body != "hello" {
			t.Errorf("answer is %d %q", resp.StatusCode, body)
		}
	}
	if n := refusals.Load(); n == 0 || n > 2*maxSent {
		t.Errorf("there were %d refusals", n)
	}
}

// TestHTTP2Refused is about upstreams with which there is no HTTP/2.
func TestHTTP2Refused(t *testing.T) {
	for _, test := range []struct {
		name  string
		serve func(c *wire)
		code  int
		text  string
	}{
		{"HTTP/1.1", func(c *wire) {
			c.head()
			c.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			c.discard()
		}, 502, "does not speak HTTP/2"},
		{"hangs up", func(*wire) {}, 502, "broke off before"},
		{"says nothing", func(c *wire) { c.discard() }, 504, "did not accept the connection in time"},
		{"begins with something else", func(c *wire) {
			c.send("\x00\x00\x08\x06\x00\x00\x00\x00\x00abcdefgh")
			c.discard()
		}, 502, "does not speak HTTP/2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := h2cSite(t, "h2c://"+rawUpstream(t, func(_ int, c *wire) { test.serve(c) }), func(cfg *Config) {
				if test.code == 504 {
					cfg.OpenTimeout = 300 * time.Millisecond
				}
			})
			if resp, body := s.get("http://a.example/"); resp.StatusCode != test.code || !strings.Contains(body, test.text) {
				t.Errorf("answer is %d %q", resp.StatusCode, body)
			}
		})
	}
}

// awaitAck reads until the other end has acknowledged SETTINGS or a PING.
func (f *frames) awaitAck(kind http2.FrameType) {
	for {
		frame, err := f.ReadFrame()
		if err != nil || frame.Header().Type == kind && frame.Header().Flags.Has(http2.FlagPingAck) {
			return // FlagPingAck is the flag of SETTINGS too
		}
	}
}

// TestHTTP2NoRoom wants an upstream that takes no requests to be dialled once for each, not
// without end, and the visitor to be told.
func TestHTTP2NoRoom(t *testing.T) {
	settings := func(f *http2.Framer) { _ = f.WriteSettings() }
	leave := func(f *http2.Framer) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) }
	for _, test := range []struct {
		name        string
		first, then func(*http2.Framer) // then: when the dial is all but over
	}{
		{name: "takes none", first: func(f *http2.Framer) {
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
		}},
		{name: "leaves at once", first: func(f *http2.Framer) { settings(f); leave(f) }},
		{name: "leaves soon", first: settings, then: leave},
	} {
		t.Run(test.name, func(t *testing.T) {
			var conns atomic.Int64
			var s *site
			s = h2cSite(t, "h2c://"+rawUpstream(t, func(_ int, c *wire) {
				if c.bytes(len(preface)) != preface || conns.Add(1) > 10 {
					return // it is enough
				}
				var once bytes.Buffer // one write: it is read in one piece
				test.first(http2.NewFramer(&once, nil))
				if test.then == nil {
					_, _ = c.Write(once.Bytes())
					c.discard()
					return
				}
				s.edge.http2.mu.Lock() // who waits for the connection does not get to it
				_, _ = c.Write(once.Bytes())
				f := &frames{Conn: c.Conn, Framer: http2.NewFramer(c.Conn, c.r), tb: t}
				f.start()
				f.awaitAck(http2.FrameSettings)
				test.then(f.Framer)
				_ = f.WritePing(false, [8]byte{})
				f.awaitAck(http2.FramePing)
				s.edge.http2.mu.Unlock()
				c.discard()
			}))
			for range 2 {
				if resp, body := s.get("http://a.example/"); resp.StatusCode != 503 || !strings.Contains(body, "too many requests") {
					t.Errorf("answer is %d %q", resp.StatusCode, body)
				}
			}
			if n := conns.Load(); n != 2 {
				t.Errorf("there were %d connections for 2 requests", n)
			}
			s.edge.http2.mu.Lock()
			defer s.edge.http2.mu.Unlock()
			if n := len(s.edge.http2.backends); n > 0 && test.then == nil {
				t.Error("a connection without room is kept")
			}
		})
	}
}

// TestHTTP2UpstreamCut wants a visitor to be told when the response breaks off.
func TestHTTP2UpstreamCut(t *testing.T) {
	for name, cut := range map[string]func(*frames, uint32){
		"reset":   func(f *frames, id uint32) { _ = f.WriteRSTStream(id, http2.ErrCodeNo) },
		"hung up": func(f *frames, _ uint32) { resetConn(f.Conn) },
		"short":   func(f *frames, id uint32) { _ = f.WriteData(id, true, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			s := h2cSite(t, "h2c://"+frameUpstream(t, func(_ int, f *frames) {
				for frame := f.next(); frame != nil; frame = f.next() {
					if head, ok := frame.(*http2.MetaHeadersFrame); ok {
						fields := []string{":status", "200"}
						if name == "short" {
							fields = append(fields, "content-length", "10")
						}
						_ = f.request(head.StreamID, false, fields...)
						_ = f.WriteData(head.StreamID, false, []byte("part"))
						cut(f, head.StreamID)
					}
				}
			}))
			for _, v := range []*http.Client{s.visitor(), s.visitorHTTP2()} {
				resp, err := v.Get("http://a.example/")
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(resp.Body); err == nil || string(body) != "part" {
					t.Errorf("body is %q, %v, want it cut", body, err)
				}
				_ = resp.Body.Close()
			}
		})
	}
}

// TestHTTP2UpstreamCancel wants the upstream to hear of a visitor who leaves, and others
// on the same connection not to be disturbed.
func TestHTTP2UpstreamCancel(t *testing.T) {
	arrived, left, finish := make(chan string, 2), make(chan string, 2), make(chan struct{})
	var conns atomic.Int64
	s := h2cSite(t, "h2c://"+http2Upstream(t, &conns, func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.URL.Path
		select {
		case <-r.Context().Done():
			left <- r.URL.Path
		case <-finish:
			_, _ = io.WriteString(w, "stayed")
		}
	}))
	stays := make(chan string, 1)
	var work sync.WaitGroup
	work.Go(func() { _, body := s.get("http://a.example/stays"); stays <- body })
	<-arrived
	for _, v := range []*http.Client{s.visitor(), s.visitorHTTP2()} {
		ctx, cancel := context.WithCancel(context.Background())
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://a.example/left", nil)
		ended := make(chan error, 1)
		work.Go(func() {
			_, err := v.Do(req)
			ended <- err
		})
		<-arrived
		cancel()
		if path := <-left; path != "/left" {
			t.Errorf("%s was cancelled", path)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the visitor got %v", err)
		}
	}
	close(finish)
	if body := <-stays; body != "stayed" {
		t.Errorf("the other got %q", body)
	}
	work.Wait()
	if n := conns.Load(); n != 1 {
		t.Errorf("there were %d connections", n)
	}
	s.wantCount(2, "499", "*", "GET")
}

// TestHTTP2Leave wants the streams of a session that leaves to be closed when their last
// request is over, or it would wait for them.
func TestHTTP2Leave(t *testing.T) {
	arrived, finish := make(chan struct{}), make(chan struct{})
	s := newSite(t, withH2C)
	addr := http2Upstream(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			<-finish
		}
		_, _ = io.WriteString(w, "hello")
	})
	c := s.client("h2c://" + addr)
	if _, body := s.get("http://a.example/"); body != "hello" {
		t.Fatalf("answer is %q", body)
	}
	slow := make(chan string, 1)
	go func() { _, body := s.get("http://a.example/slow"); slow <- body }()
	<-arrived
	c.goAway(t)
	s.edge.CloseIdle()
	if c.here.Streams() != 1 {
		t.Fatalf("there are %d streams", c.here.Streams())
	}
	close(finish)
	if body := <-slow; body != "hello" {
		t.Errorf("what was under way ended with %q", body)
	}
	ended := time.Now()
	eventually(t, func() bool { return c.here.Streams() == 0 })
	if took := time.Since(ended); took > idleStream/8 { // it would be swept up some time
		t.Errorf("the stream was closed after %s", took)
	}
}

// TestHTTP2Idle wants idle connections to be closed, and nothing to be left of a backend.
func TestHTTP2Idle(t *testing.T) {
	s := newSite(t)
	c := s.client("h2c://" + http2Upstream(t, nil, func(http.ResponseWriter, *http.Request) {}))
	s.get("http://a.example/")
	s.edge.sweep(time.Now())
	if c.here.Streams() != 1 {
		t.Fatalf("there are %d streams, want the one that is kept", c.here.Streams())
	}
	eventually(t, func() bool {
		s.edge.sweep(time.Now().Add(2 * idleStream))
		s.edge.http2.mu.Lock()
		defer s.edge.http2.mu.Unlock()
		return c.here.Streams() == 0 && len(s.edge.http2.backends) == 0
	})
}

// TestHTTP2ResponseTimeout wants 504 for an upstream that is too slow, unless it is called
// by gRPC, which has its own deadlines.
func TestHTTP2ResponseTimeout(t *testing.T) {
	s := h2cSite(t, "h2c://"+http2Upstream(t, nil, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(500 * time.Millisecond):
			fmt.Fprint(w, "late")
		}
	}), func(cfg *Config) { cfg.ResponseTimeout = 100 * time.Millisecond })
	if resp, body := s.get("http://a.example/"); resp.StatusCode != 504 {
		t.Errorf("answer is %d %q", resp.StatusCode, body)
	}
	resp, err := s.visitorHTTP2().Post("http://a.example/", "application/grpc", nil)
	if err != nil {
		t.Fatal(err)
	}
	if body := readAll(t, resp); resp.StatusCode != 200 || body != "late" {
		t.Errorf("a call of gRPC gets %d %q", resp.StatusCode, body)
	}
}

// TestGRPCStatusAlone wants an answer of nothing but a status to stay in one piece while the
// visitor has more to say.
func TestGRPCStatusAlone(t *testing.T) {
	s := h2cSite(t, "h2c://"+frameUpstream(t, func(_ int, f *frames) {
		for frame := f.next(); frame != nil; frame = f.next() {
			if head, ok := frame.(*http2.MetaHeadersFrame); ok {
				_ = f.request(head.StreamID, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "5")
			}
		}
	}))
	f := s.dialFrames()
	f.must(nil, f.request(1, false, ":method", "POST", ":scheme", "http", ":authority", "a.example", ":path", "/a/B", "content-type", "application/grpc", "te", "trailers"))
	head, ok := f.next().(*http2.MetaHeadersFrame)
	if !ok || !head.StreamEnded() {
		t.Fatalf("got %v, want the status and the end in one", head)
	}
	for _, field := range head.Fields {
		if field.Name == "grpc-status" && field.Value == "5" {
			return
		}
	}
	t.Errorf("there is no status in %v", head.Fields)
}

// TestHTTP2UpstreamLengths holds that a visitor of HTTP/1.1 gets no two opinions on how long a
// body is.
func TestHTTP2UpstreamLengths(t *testing.T) {
	for _, tt := range []struct {
		name    string
		lengths []string
		code    int
	}{
		{"one", []string{"5"}, 200},
		{"none", nil, 200},
		{"two", []string{"5", "60"}, 502},
		{"the same twice", []string{"5", "5"}, 502},
		{"a sign", []string{"+5"}, 502},
		{"a list", []string{"5, 5"}, 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			s.client("h2c://" + frameUpstream(t, func(_ int, f *frames) {
				for frame := f.next(); frame != nil; frame = f.next() {
					if _, ok := frame.(*http2.MetaHeadersFrame); !ok {
						continue
					}
					fields := []string{":status", "200"}
					for _, length := range tt.lengths {
						fields = append(fields, "content-length", length)
					}
					id := frame.Header().StreamID
					_ = f.request(id, false, fields...)
					_ = f.WriteData(id, true, []byte("hello"))
				}
			}))
			c := s.dial()
			c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if resp, body := c.response("GET"); resp.StatusCode != tt.code || tt.code == 200 && body != "hello" {
				t.Errorf("got %d %q, want %d", resp.StatusCode, body, tt.code)
			}
		})
	}
}
