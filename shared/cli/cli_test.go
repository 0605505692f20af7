package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/run"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/status"
	"github.com/adit-tunnel/adit/shared/systemd"
)

type settings struct {
	config.Common
	Token config.Secret `split_words:"true" required:"true" desc:"Shared secret."`
	Port  config.Port   `split_words:"true" default:"8000" desc:"Where visitors connect."`
}

const token = "0123456789abcdef"

var document = status.Document{Info: status.Info{Version: "0.1.0", Mode: "http", Hostname: "pine", StartTime: time.Now().Add(-30 * time.Hour)}}

// program returns an image whose parts do as little as a test wants.
func program() Program {
	return Program{
		Name:     "server",
		Summary:  "the public end of the tunnel.",
		Settings: func() any { return new(settings) },
		Common:   func(s any) config.Common { return s.(*settings).Common },
		Serve: func(_ context.Context, s any, log zerolog.Logger) error {
			log.Info().Int("port", int(s.(*settings).Port)).Msg("serving")
			return &run.SignalError{Signal: syscall.SIGTERM}
		},
		Status: func(_ context.Context, s any) (status.Document, error) {
			if !s.(*settings).Token.IsSet() {
				return status.Document{}, config.Fault("TOKEN", "is required but not set")
			}
			return document, nil
		},
		Probe: func(any) (string, *http.Client, error) { return "http://127.0.0.1:0", nil, nil },
		Needs: func(s any) (systemd.Needs, error) { return systemd.Needs{Ports: []int{int(s.(*settings).Port)}}, nil },
	}
}

// environ sets the variables of settings to env alone.
func environ(t testing.TB, env map[string]string) {
	t.Helper()
	for _, name := range config.Names(new(settings)) {
		t.Setenv(name, env[name])
	}
}

func TestRun(t *testing.T) {
	good := map[string]string{"TOKEN": token}
	none := map[string]string{}
	for _, test := range []struct {
		name           string
		args           []string
		env            map[string]string
		change         func(*Program)
		code           int
		stdout, stderr string // a part of it, or "" for nothing
	}{
		{name: "serve", env: map[string]string{"TOKEN": token, "PORT": "81"}, stderr: `"port":81`},
		{name: "serve as a command", args: []string{"serve"}, env: map[string]string{"TOKEN": token, "PORT": "82"}, stderr: `"port":82`},
		{name: "serve with an argument", args: []string{"serve", "now"}, env: good, code: 2, stderr: `server: serve: unexpected argument "now"`},
		{name: "serve without settings", env: none, code: 2, stderr: `"variable":"TOKEN"`},
		{name: "serve fails", env: good, code: 1, stderr: `"error":"boom"`, change: func(p *Program) {
			p.Serve = func(context.Context, any, zerolog.Logger) error { return errors.New("boom") }
		}},
		{name: "serve finds a fault", env: good, code: 2, stderr: `"variable":"PORT"`, change: func(p *Program) {
			p.Serve = func(context.Context, any, zerolog.Logger) error {
				return fmt.Errorf("build: %w", config.Fault("PORT", "is taken"))
			}
		}},
		{name: "status", args: []string{"status"}, env: good, stdout: "Hostname: pine\nStarted:  1 day\n"},
		{name: "status as json", args: []string{"status", "--json"}, env: good, stdout: `"hostname": "pine"`},
		{name: "status in spite of a fault elsewhere", args: []string{"status"}, env: map[string]string{"TOKEN": token, "PORT": "x"}, stdout: "Hostname: pine"},
		{name: "status with a fault that matters", args: []string{"status"}, env: map[string]string{"PORT": "x"}, code: 2, stderr: "TOKEN: is required but not set\n"},
		{name: "status fails", args: []string{"status"}, env: good, code: 1, stderr: "refused\n", change: failingStatus},
		{name: "status fails, perhaps for a fault", args: []string{"status"}, env: map[string]string{"TOKEN": token, "PORT": "x"}, code: 2,
			stderr: "refused\nPORT: \"x\" is not a port", change: failingStatus},
		{name: "status with an unknown flag", args: []string{"status", "--yaml"}, env: good, code: 2, stderr: "server: status: flag provided but not defined: -yaml"},
		{name: "status with an argument", args: []string{"status", "now"}, env: good, code: 2, stderr: `server: status: unexpected argument "now"`},
		{name: "no status", args: []string{"status"}, env: good, code: 2, stderr: `server: unknown command "status"`, change: func(p *Program) { p.Status = nil }},
		{name: "env", args: []string{"env"}, env: good, stdout: "TOKEN*         [redacted]"},
		{name: "env with faults", args: []string{"env"}, env: map[string]string{"PORT": "x"}, code: 2, stdout: "PORT           x ", stderr: "TOKEN: is required"},
		{name: "systemd", args: []string{"systemd"}, env: map[string]string{"TOKEN": token, "PORT": "81"}, stdout: "\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"},
		{name: "systemd with faults", args: []string{"systemd"}, env: map[string]string{"PORT": "x"}, code: 2, stderr: "TOKEN: is required"},
		{name: "systemd with what it cannot have", args: []string{"systemd"}, env: good, code: 2, stderr: "PORT: is low", change: func(p *Program) {
			p.Needs = func(any) (systemd.Needs, error) { return systemd.Needs{}, config.Fault("PORT", "is low") }
		}},
		{name: "systemd with a setting for no unit", args: []string{"systemd"}, env: map[string]string{"TOKEN": token, "PORT": "81 "}, code: 2, stderr: "PORT: is no UTF-8", change: func(p *Program) {
			p.Needs = func(any) (systemd.Needs, error) { return systemd.Needs{Set: map[string]string{"PORT": "\xff"}}, nil }
		}},
		{name: "systemd with an unknown flag", args: []string{"systemd", "--user"}, env: good, code: 2, stderr: "not defined: -user"},
		{name: "no systemd", args: []string{"systemd"}, env: good, code: 2, stderr: `server: unknown command "systemd"`, change: func(p *Program) { p.Needs = nil }},
		{name: "version", args: []string{"version"}, env: none, stdout: "adit server dev (unknown)\n"},
		{name: "version with an argument", args: []string{"version", "1"}, env: none, code: 2, stderr: `unexpected argument "1"`},
		{name: "help", args: []string{"help"}, env: none, stdout: "Usage:\n  server "},
		{name: "-h", args: []string{"-h"}, env: none, stdout: "Usage:"},
		{name: "--help", args: []string{"--help"}, env: none, stdout: "Usage:"},
		{name: "help of a command", args: []string{"status", "-h"}, env: none, stdout: "Usage:"},
		{name: "unknown command", args: []string{"run"}, env: good, code: 2, stderr: "server: unknown command \"run\"\n\nadit server"},
		{name: "unknown flag", args: []string{"--port=80"}, env: good, code: 2, stderr: `unknown command "--port=80"`},
		{name: "empty argument", args: []string{""}, env: good, code: 2, stderr: `unknown command ""`},
	} {
		t.Run(test.name, func(t *testing.T) {
			environ(t, test.env)
			p := program()
			if test.change != nil {
				test.change(&p)
			}
			var stdout, stderr strings.Builder
			if code := p.Run(test.args, &stdout, &stderr); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			check(t, "stdout", stdout.String(), test.stdout)
			check(t, "stderr", stderr.String(), test.stderr)
			if strings.Contains(stdout.String()+stderr.String(), token) {
				t.Error("the token is printed")
			}
		})
	}
}

func check(t *testing.T, name, got, want string) {
	t.Helper()
	if want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("%s: got %q, want %q", name, got, want)
	}
}

func failingStatus(p *Program) {
	p.Status = func(context.Context, any) (status.Document, error) { return status.Document{}, errors.New("refused") }
}

func TestStatusJSONIsTheDocument(t *testing.T) {
	environ(t, map[string]string{"TOKEN": token})
	var stdout, stderr strings.Builder
	program().Run([]string{"status", "--json"}, &stdout, &stderr)
	var doc map[string]any
	if err := json.Unmarshal([]byte(stdout.String()), &doc); err != nil {
		t.Fatal(err)
	}
	if clients, ok := doc["clients"].([]any); !ok || len(clients) != 0 {
		t.Errorf("got clients %v", doc["clients"])
	}
}

func TestFaultsOnStart(t *testing.T) {
	t.Run("json", func(t *testing.T) {
		environ(t, map[string]string{"PORT": "tcp://10.0.0.1:80", "LOG_LEVEL": "disabled"})
		var stdout, stderr strings.Builder
		program().Run(nil, &stdout, &stderr)
		var got []string
		for text := range strings.Lines(stderr.String()) {
			var line struct{ Level, Time, Variable, Error, Message string }
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if line.Level != "error" || line.Message != "bad configuration" || line.Time == "" || line.Error == "" || strings.HasPrefix(line.Error, line.Variable+":") {
				t.Errorf("got %s", text)
			}
			got = append(got, line.Variable)
		}
		if fmt.Sprint(got) != "[TOKEN PORT]" {
			t.Errorf("got faults of %v", got)
		}
	})
	t.Run("console", func(t *testing.T) {
		environ(t, map[string]string{"LOG_FORMAT": "console"})
		var stdout, stderr strings.Builder
		program().Run(nil, &stdout, &stderr)
		if !strings.Contains(stderr.String(), `ERR bad configuration error="is required but not set: set TOKEN, or set TOKEN_FILE`) ||
			!strings.Contains(stderr.String(), "variable=TOKEN") {
			t.Errorf("got %s", stderr.String())
		}
	})
}

func TestHelpNamesEveryCommand(t *testing.T) {
	var stdout, stderr strings.Builder
	program().Run([]string{"help"}, &stdout, &stderr)
	want := `adit server dev (unknown): the public end of the tunnel.

Usage:
  server                        run until SIGTERM or Ctrl-C
  server serve                  the same, for platforms that insist on a command
  server status [--json]        show the running tunnel and its clients
  server healthcheck [--ready]  exit 0 if the running server is healthy (ready), else 1 with the reason
  server env                    show every variable with its current value, secrets redacted
  server systemd [--secrets]    print a hardened systemd unit for the current settings (the file with its secrets)
  server version                show the version
  server help                   show this

All configuration is by environment variables: server env shows them.
`
	if stdout.String() != want {
		t.Errorf("got\n%s", stdout.String())
	}
}
