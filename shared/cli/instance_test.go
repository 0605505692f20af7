package cli

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/shared/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHealthcheck(t *testing.T) {
	starting := httptest.NewServer(telemetry.Handler(prometheus.NewRegistry(), func() error { return errors.New("no session yet") }))
	defer starting.Close()
	ready := httptest.NewServer(telemetry.Handler(prometheus.NewRegistry(), nil))
	defer ready.Close()
	elsewhere := httptest.NewServer(http.RedirectHandler("/elsewhere", http.StatusFound))
	defer elsewhere.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	secure := httptest.NewTLSServer(telemetry.Handler(prometheus.NewRegistry(), nil))
	defer secure.Close()

	for _, test := range []struct {
		name   string
		args   []string
		url    string
		client *http.Client
		env    map[string]string
		err    error
		code   int
		stderr string
	}{
		{name: "healthy", url: starting.URL},
		{name: "healthy in spite of faults", url: starting.URL, env: map[string]string{"TOKEN": ""}},
		{name: "slash", url: ready.URL + "/", args: []string{"--ready"}},
		{name: "ready", url: ready.URL, args: []string{"--ready"}},
		{name: "own client", url: secure.URL, client: secure.Client()},
		{name: "not ready", url: starting.URL, args: []string{"--ready"}, code: 1, stderr: "/readyz: 503 Service Unavailable: no session yet\n"},
		{name: "down", url: closed.URL, code: 1, stderr: "refused"},
		{name: "down and at fault", url: closed.URL, env: map[string]string{"TOKEN": ""}, code: 1, stderr: "TOKEN: is required"},
		{name: "other program", url: elsewhere.URL, code: 1, stderr: "/healthz: 302 Found"},
		{name: "no url", url: "http://[::1", code: 1, stderr: "probe: parse"},
		{name: "nothing to ask", err: errors.New("METRICS_PORT is off"), code: 1, stderr: "METRICS_PORT is off\n"},
		{name: "misuse", args: []string{"--live"}, url: ready.URL, code: 2, stderr: "not defined: -live"},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := map[string]string{"TOKEN": token}
			for name, value := range test.env {
				env[name] = value
			}
			environ(t, env)
			p := program()
			p.Probe = func(any) (string, *http.Client, error) { return test.url, test.client, test.err }
			var stdout, stderr strings.Builder
			if code := p.Run(append([]string{"healthcheck"}, test.args...), &stdout, &stderr); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			check(t, "stdout", stdout.String(), "")
			check(t, "stderr", stderr.String(), test.stderr)
		})
	}
}
