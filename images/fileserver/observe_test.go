package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/fileserver/files"
)

func TestMethodLabel(t *testing.T) {
	for method, want := range map[string]string{"GET": "GET", "HEAD": "HEAD", "CONNECT": "CONNECT", "get": "OTHER", "PROPFIND": "OTHER", "": "OTHER"} {
		if got := methodLabel(method); got != want {
			t.Errorf("%s: got %s, want %s", method, got, want)
		}
	}
}

// sources notes what connections of a server are asked to read from.
type sources struct {
	net.Listener
	mu   sync.Mutex
	seen []string
}

func (s *sources) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return sourceConn{conn, s}, nil
}

type sourceConn struct {
	net.Conn
	sources *sources
}

func (c sourceConn) ReadFrom(src io.Reader) (int64, error) {
	kind := "something else"
	if limited, ok := src.(*io.LimitedReader); ok {
		if _, ok := limited.R.(*os.File); ok {
			kind = "limited file"
		}
	}
	c.sources.mu.Lock()
	c.sources.seen = append(c.sources.seen, kind)
	c.sources.mu.Unlock()
	return c.Conn.(io.ReaderFrom).ReadFrom(src)
}

// TestSendfile holds that a file reaches the connection in the one form that the kernel can send by itself, through
// all that wraps the response.
func TestSendfile(t *testing.T) {
	root, err := os.OpenRoot(webroot(t))
	must(t, err)
	defer root.Close()
	g, err := newGuard(nil, (&settings{}).BasicAuth, zerolog.Nop(), files.New(root, files.Options{}))
	must(t, err)
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = newServer(newObserver(prometheus.NewRegistry(), zerolog.Nop(), g))
	seen := &sources{Listener: srv.Listener}
	srv.Listener = seen
	srv.Start()
	defer srv.Close()
	code, body := get(t, srv.URL+"/large.bin")
	if code != 200 || len(body) != 3<<20 {
		t.Fatalf("got %d, %d bytes", code, len(body))
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if len(seen.seen) != 3<<20/stride {
		t.Errorf("%d reads, want one per stride", len(seen.seen))
	}
	for _, kind := range seen.seen {
		if kind != "limited file" {
			t.Errorf("the connection was given %s", kind)
		}
	}
}

// paced is a response writer that notes its deadlines.
type paced struct {
	http.ResponseWriter
	deadlines []time.Time
	parts     []int64
	fail      error
}

func (p *paced) SetWriteDeadline(t time.Time) error {
	p.deadlines = append(p.deadlines, t)
	return nil
}

func (p *paced) ReadFrom(src io.Reader) (int64, error) {
	if p.fail != nil {
		return 5, p.fail
	}
	n, err := io.Copy(io.Discard, src)
	p.parts = append(p.parts, n)
	return n, err
}

// TestPace holds that every stride of a long response has a new deadline, and that a failure ends it.
func TestPace(t *testing.T) {
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})
	for _, c := range []struct {
		name string
		src  io.Reader
		fail error
		n    int64
	}{
		{"limited", io.LimitReader(zeros{}, 2*stride+1), nil, 2*stride + 1},
		{"limit beyond the end", io.LimitReader(strings.NewReader(strings.Repeat("x", stride+1)), 9*stride), nil, stride + 1},
		{"unlimited", strings.NewReader(strings.Repeat("x", 2*stride+1)), nil, 2*stride + 1},
		{"broken", io.LimitReader(zeros{}, 2*stride+1), errors.New("broken"), 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &paced{ResponseWriter: httptest.NewRecorder(), fail: c.fail}
			w := &response{ResponseWriter: p, control: http.NewResponseController(p), total: counter}
			n, err := w.ReadFrom(c.src)
			if n != c.n || w.sent != c.n || !errors.Is(err, c.fail) {
				t.Errorf("got %d %v, counted %d", n, err, w.sent)
			}
			if c.fail == nil && len(p.parts) < int(c.n/stride) {
				t.Errorf("%d parts", len(p.parts))
			}
			if want := max(1, len(p.parts)); len(p.deadlines) != want {
				t.Errorf("%d deadlines, want %d", len(p.deadlines), want)
			}
			for _, d := range p.deadlines {
				if left := time.Until(d); left < patience/2 || left > patience {
					t.Errorf("a deadline in %v", left)
				}
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestObserver holds that the code, the first of several, is counted, and that what is written without one is 200.
func TestObserver(t *testing.T) {
	reg := prometheus.NewRegistry()
	lines := make(lineWriter, 16)
	o := newObserver(reg, zerolog.New(lines), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/early":
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusTeapot)
		case "/plain":
			io.WriteString(w, "plain")
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	for _, c := range []struct {
		method, path string
		code, sent   float64
	}{
		{"GET", "/early?token=secret", 418, 0},
		{"GET", "/plain", 200, 5},
		{"HEAD", "/plain", 200, 0},
		{"BREW", "/nothing", 200, 0},
	} {
		o.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(c.method, c.path, nil))
		line := lines.until(t, "request")
		path, _, _ := strings.Cut(c.path, "?")
		if line["code"] != c.code || line["sent_bytes"] != c.sent || line["path"] != path || line["level"] != "debug" {
			t.Errorf("%s %s: logged %v", c.method, c.path, line)
		}
	}
	families, err := reg.Gather()
	must(t, err)
	var got []string
	for _, f := range families {
		if f.GetName() == "adit_fileserver_requests_total" {
			for _, m := range f.GetMetric() {
				got = append(got, m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue())
			}
		}
	}
	if s := strings.Join(got, ", "); s != "200 GET, 200 HEAD, 200 OTHER, 418 GET" {
		t.Errorf("counted %s", s)
	}
}
