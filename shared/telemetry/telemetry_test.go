package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func TestJSONLogger(t *testing.T) {
	var out bytes.Buffer
	log := NewLogger(&out, zerolog.InfoLevel, false)
	log.Debug().Msg("hidden")
	log.Info().Str("route", "example.com").Msg("shown")
	var line struct {
		Level, Message, Route string
		Time                  time.Time
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%s: %v", out.String(), err)
	}
	if line.Level != "info" || line.Message != "shown" || line.Route != "example.com" {
		t.Errorf("got %+v", line)
	}
	if !strings.Contains(out.String(), "Z\"") || time.Since(line.Time) > time.Hour {
		t.Errorf("the time is not UTC or not now: %s", out.String())
	}
}

func TestConsoleLogger(t *testing.T) {
	var out bytes.Buffer
	log := NewLogger(&out, zerolog.WarnLevel, true)
	log.Info().Msg("hidden")
	log.Warn().Str("route", "example.com").Msg("shown")
	// No colours, as this is no terminal.
	if got := out.String(); !regexp.MustCompile(`^\d\d:\d\d:\d\d WRN shown route=example.com\n$`).MatchString(got) {
		t.Errorf("got %q", got)
	}
}

func TestHandler(t *testing.T) {
	reason := errors.New("no session yet")
	for _, test := range []struct {
		name, method, path string
		ready              func() error
		code               int
		body               string // a regular expression
	}{
		{"health", "GET", "/healthz", func() error { return reason }, 200, "^ok\n$"},
		{"head", "HEAD", "/healthz", nil, 200, "^$"},
		{"post", "POST", "/healthz", nil, 405, ""},
		{"ready", "GET", "/readyz", func() error { return nil }, 200, "^ready\n$"},
		{"always ready", "GET", "/readyz", nil, 200, "^ready\n$"},
		{"not ready", "GET", "/readyz", func() error { return reason }, 503, "^no session yet\n$"},
		{"elsewhere", "GET", "/", nil, 404, "not found"},
		{"build", "GET", "/metrics", nil, 200, `(?m)^adit_build_info\{goversion="` + runtime.Version() + `",image="server",sha="unknown",version="dev"\} 1$`},
		{"go", "GET", "/metrics", nil, 200, `(?m)^go_goroutines \d+$`},
		{"help", "GET", "/metrics", nil, 200, `(?m)^# HELP adit_build_info .`},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := httptest.NewServer(Handler(NewRegistry("server"), test.ready))
			defer srv.Close()
			req, err := http.NewRequestWithContext(t.Context(), test.method, srv.URL+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != test.code || !regexp.MustCompile(test.body).Match(body) {
				t.Errorf("got %d %s", resp.StatusCode, body)
			}
			if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain") {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestOpenMetrics(t *testing.T) {
	req := httptest.NewRequest("GET", "/metrics", nil)
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	resp := httptest.NewRecorder()
	Handler(NewRegistry("server"), nil).ServeHTTP(resp, req)
	if got := resp.Header().Get("Content-Type"); !strings.HasPrefix(got, "application/openmetrics-text") || !strings.HasSuffix(resp.Body.String(), "# EOF\n") {
		t.Errorf("got %s", got)
	}
}
