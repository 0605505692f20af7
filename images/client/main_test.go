package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// server is a control plane that takes every client, and knows its own status.
func server(t testing.TB, connected chan<- *tunnel.Session) *httptest.Server {
	t.Helper()
	up := websocket.Upgrader{Subprotocols: []string{tunnel.Subprotocol}}
	mux := http.NewServeMux()
	mux.HandleFunc("/connect", func(w http.ResponseWriter, r *http.Request) {
		lines, _ := tunnel.Hello{Version: "test"}.Header()
		conn, err := up.Upgrade(w, r, http.Header{tunnel.HelloHeader: lines})
		if err != nil {
			return
		}
		s := tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{})
		t.Cleanup(func() { s.Close() })
		connected <- s
	})
	mux.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"info":{"hostname":"the-server"},"clients":[]}`)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

// load reads the settings of a client of these servers.
func load(t testing.TB, variables ...string) *settings {
	t.Helper()
	environment(t, append([]string{"TOKEN=" + token, "UPSTREAMS=http://127.0.0.1:1", "AUTO_TLS=false"}, variables...)...)
	cfg := new(settings)
	must(t, config.Load(cfg))
	return cfg
}

// TestServe runs a client of two servers, one of which is not there: it is ready with
// the other, and says so.
func TestServe(t *testing.T) {
	connected := make(chan *tunnel.Session, 1)
	srv := server(t, connected)
	closed := freeport.Addr(t)
	cfg := load(t, "URL="+srv.URL+",ws://"+closed, "METRICS_PORT=0", "METRICS_ADDR=127.0.0.1")
	logs, log := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, cfg, zerolog.New(log))
		log.Close()
	}()
	addr := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		dec := json.NewDecoder(logs)
		for {
			var line map[string]any
			if dec.Decode(&line) != nil {
				return
			}
			if line["message"] == "listening" {
				addr <- line["addr"].(string)
			}
			if id, ok := line["client_id"].(string); ok && !regexp.MustCompile("^[0-9a-f]{32}$").MatchString(id) {
				t.Errorf("client id %s", id)
			}
			if strings.Contains(fmt.Sprint(line), token) {
				t.Errorf("the token is in the log: %v", line)
			}
		}
	}()
	metrics := "http://" + within(t, addr)
	s := within(t, connected)
	eventually(t, func() bool { return get(t, metrics+"/readyz") == "ready\n" })
	body := get(t, metrics+"/metrics")
	for _, want := range []string{
		fmt.Sprintf("adit_connected{server=%q} 1", strings.TrimPrefix(srv.URL, "http://")),
		fmt.Sprintf("adit_connected{server=%q} 0", closed),
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	s.Close()
	srv.Config.SetKeepAlivesEnabled(false)
	s = within(t, connected) // comes back
	eventually(t, func() bool { return get(t, metrics+"/readyz") == "ready\n" })
	cancel()
	within(t, done)
	within(t, read)
	within(t, s.Done())
}

func TestNotReady(t *testing.T) {
	if err := anyConnected(nil); err == nil || err.Error() != "not connected to any server" {
		t.Errorf("got %v", err)
	}
}

// TestPortInUse names the variable to change.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	cfg := load(t, "URL=ws://127.0.0.1:1", "METRICS_ADDR=127.0.0.1", "METRICS_PORT="+strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	if err := serve(t.Context(), cfg, zerolog.Nop()); err == nil || !strings.HasPrefix(err.Error(), "METRICS_PORT: ") {
		t.Errorf("got %v", err)
	}
}

// TestFetchStatus asks the servers in turn.
func TestFetchStatus(t *testing.T) {
	srv := server(t, nil)
	closed := freeport.Addr(t)
	gone := "ws://" + closed
	for _, c := range []struct {
		name      string
		variables []string
		want      string // the server's name, or of the error
	}{
		{"the server", []string{"URL=" + srv.URL}, "the-server"},
		{"the second", []string{"URL=" + gone + "," + srv.URL}, "the-server"},
		{"nobody", []string{"URL=" + gone}, "is the server running"},
		{"another token", []string{"URL=" + srv.URL, "TOKEN=another-0123456789"}, "the token was refused"},
		{"no URL", nil, "URL: is required"},
		{"no token", []string{"URL=" + srv.URL, "TOKEN="}, "TOKEN: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			environment(t, append([]string{"TOKEN=" + token, "AUTO_TLS=false"}, c.variables...)...)
			var cfg settings
			_ = config.Load(&cfg) // faults of what it does not need do not matter
			doc, err := fetchStatus(t.Context(), &cfg)
			if got := doc.Info.Hostname + fmt.Sprint(err); !strings.Contains(got, c.want) || strings.Contains(got, token) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	for _, c := range []struct{ addr, port, want string }{
		{"", "8125", "http://127.0.0.1:8125"},
		{"0.0.0.0", "1", "http://127.0.0.1:1"},
		{"::", "1", "http://127.0.0.1:1"},
		{"[::1]", "1", "http://[::1]:1"},
		{"10.0.0.1", "1", "http://10.0.0.1:1"},
		{"", "off", ""},
		{"", "0", ""},
	} {
		var cfg settings
		cfg.MetricsAddr = c.addr
		must(t, cfg.MetricsPort.Decode(c.port))
		got, _, err := probe(&cfg)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s %s: got %s %v, want %s", c.addr, c.port, got, err, c.want)
		}
	}
}

func TestRandomID(t *testing.T) {
	if a, b := randomID(), randomID(); a == b || len(a) != 32 {
		t.Errorf("got %s and %s", a, b)
	}
}

func get(t testing.TB, url string) string {
	t.Helper()
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(url)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(body)
}

func within[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("it takes too long")
	}
	return v
}

// eventually looks again and again until something holds for which there is no event.
func eventually(t testing.TB, holds func() bool) {
	t.Helper()
	limit := time.After(patience)
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-limit:
			t.Fatal("it takes too long")
		}
	}
}
