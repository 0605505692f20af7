package autotls

import (
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tokenA = "the-token-that-both-sides-know"
	tokenB = "another-token-of-a-rotation"
)

func newAuthority(t testing.TB, dir string, names ...string) *Authority {
	t.Helper()
	a, err := New(dir, names)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// server is a control plane over TLS. It remembers every header of the requests that reach it.
type server struct {
	*httptest.Server
	mu   sync.Mutex
	seen bytes.Buffer
}

// URL with the scheme that clients are configured with.
func (s *server) wss() string { return "wss" + strings.TrimPrefix(s.URL, "https") }

func (s *server) addr() string { return s.Listener.Addr().String() }

func (s *server) saw() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.String()
}

func serve(t testing.TB, config *tls.Config, handler http.Handler) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		io.WriteString(&s.seen, r.URL.String()+"\n")
		r.Header.Write(&s.seen)
		s.mu.Unlock()
		handler.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if config != nil { // not StartTLS, which adds a certificate of its own
		s.Listener = tls.NewListener(s.Listener, config)
	}
	s.Start()
	if config != nil {
		s.URL = "https" + strings.TrimPrefix(s.URL, "http")
	}
	t.Cleanup(s.Close)
	return s
}

// serveCA is a genuine server: its CA is at Path, and everything else answers 200.
func serveCA(t testing.TB, a *Authority, tokens ...string) *server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(Path, a.Handler(func() []string { return tokens }))
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	return serve(t, a.TLSConfig(), mux)
}

// connect does what a client does with the configuration of Fetch: it sends the token in a request.
func connect(t testing.TB, addr string, config *tls.Config, token string) error {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+"/connect", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
