package platforms

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/adit-tunnel/adit/images/server/trust"
)

// The keys that https://fly.io/docs/reference/configuration/ documents, but those of what adit has no use for
// (buildpacks, static files, process groups). A time may be a string or a bare number.
type flyConfig struct {
	App            string              `toml:"app"`
	PrimaryRegion  string              `toml:"primary_region"`
	KillSignal     string              `toml:"kill_signal"`
	KillTimeout    any                 `toml:"kill_timeout"`
	ConsoleCommand string              `toml:"console_command"`
	SwapSizeMB     int                 `toml:"swap_size_mb"`
	Build          flyBuild            `toml:"build"`
	Deploy         flyDeploy           `toml:"deploy"`
	Env            map[string]string   `toml:"env"`
	Services       []flyService        `toml:"services"`
	Mounts         []flyMount          `toml:"mounts"`
	VM             []flyVM             `toml:"vm"`
	Restart        []flyRestart        `toml:"restart"`
	Checks         map[string]flyCheck `toml:"checks"`
	Metrics        struct {
		Port int    `toml:"port"`
		Path string `toml:"path"`
	} `toml:"metrics"`
}

type flyBuild struct {
	Image       string            `toml:"image"`
	Dockerfile  string            `toml:"dockerfile"`
	Ignorefile  string            `toml:"ignorefile"`
	BuildTarget string            `toml:"build-target"`
	Args        map[string]string `toml:"args"`
}

type flyDeploy struct {
	Strategy              string  `toml:"strategy"`
	MaxUnavailable        float64 `toml:"max_unavailable"`
	WaitTimeout           string  `toml:"wait_timeout"`
	ReleaseCommand        string  `toml:"release_command"`
	ReleaseCommandTimeout string  `toml:"release_command_timeout"`
}

type flyService struct {
	Protocol           string         `toml:"protocol"`
	InternalPort       int            `toml:"internal_port"`
	AutoStopMachines   any            `toml:"auto_stop_machines"` // "off", once false
	AutoStartMachines  bool           `toml:"auto_start_machines"`
	MinMachinesRunning int            `toml:"min_machines_running"`
	Processes          []string       `toml:"processes"`
	Ports              []flyPort      `toml:"ports"`
	Concurrency        flyConcurrency `toml:"concurrency"`
	TCPChecks          []flyCheck     `toml:"tcp_checks"`
	HTTPChecks         []flyCheck     `toml:"http_checks"`
}

type flyPort struct {
	Port              int            `toml:"port"`
	StartPort         int            `toml:"start_port"`
	EndPort           int            `toml:"end_port"`
	Handlers          []string       `toml:"handlers"`
	ForceHTTPS        bool           `toml:"force_https"`
	HTTPOptions       flyHTTPOptions `toml:"http_options"`
	ProxyProtoOptions struct {
		Version string `toml:"version"`
	} `toml:"proxy_proto_options"`
	TLSOptions struct {
		ALPN              []string `toml:"alpn"`
		Versions          []string `toml:"versions"`
		DefaultSelfSigned bool     `toml:"default_self_signed"`
	} `toml:"tls_options"`
}

type flyHTTPOptions struct {
	IdleTimeout int  `toml:"idle_timeout"` // seconds
	H2Backend   bool `toml:"h2_backend"`
	Response    struct {
		Pristine bool           `toml:"pristine"`
		Headers  map[string]any `toml:"headers"`
	} `toml:"response"`
}

type flyConcurrency struct {
	Type      string `toml:"type"`
	SoftLimit int    `toml:"soft_limit"`
	HardLimit int    `toml:"hard_limit"`
}

type flyCheck struct {
	Port          int               `toml:"port"` // of [checks.NAME] only, as is type
	Type          string            `toml:"type"`
	GracePeriod   any               `toml:"grace_period"`
	Interval      any               `toml:"interval"`
	Timeout       any               `toml:"timeout"`
	Method        string            `toml:"method"`
	Path          string            `toml:"path"`
	Protocol      string            `toml:"protocol"`
	TLSServerName string            `toml:"tls_server_name"`
	TLSSkipVerify bool              `toml:"tls_skip_verify"`
	Headers       map[string]string `toml:"headers"`
}

type flyMount struct {
	Source      string `toml:"source"`
	Destination string `toml:"destination"`
	InitialSize any    `toml:"initial_size"`
}

type flyVM struct {
	Size    string `toml:"size"`
	Memory  any    `toml:"memory"`
	CPUs    int    `toml:"cpus"`
	CPUKind string `toml:"cpu_kind"`
}

type flyRestart struct {
	Policy  string `toml:"policy"`
	Retries int    `toml:"retries"`
}

// flyFaults names what Fly.io would not take, or take for something else than is meant.
func flyFaults(t *testing.T, text string) (list []string) {
	t.Helper()
	fault := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	var c flyConfig
	decoder := toml.NewDecoder(strings.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		var unknown *toml.StrictMissingError
		if errors.As(err, &unknown) {
			return append(list, "no such key: "+unknown.String())
		}
		return append(list, err.Error())
	}
	e := environment{image: "server", values: c.Env, secrets: []string{"TOKEN"}} // by fly secrets set
	list = append(list, e.faults(t)...)
	for name := range c.Env {
		if strings.HasPrefix(name, "FLY_") {
			fault("env: %s: FLY_ is Fly's own", name)
		}
	}
	if c.App == "" || c.PrimaryRegion == "" {
		fault("app or primary_region is not set")
	}
	if c.KillSignal != "SIGTERM" {
		fault("kill_signal %q is not what the server drains on", c.KillSignal)
	}
	if kill, err := flyTime(c.KillTimeout, time.Second); err != nil {
		fault("kill_timeout %v", err)
	} else if kill < e.drain()+5*time.Second || kill > 300*time.Second {
		fault("kill_timeout %s is not 5 s above the drain (%s), or above 300 s", kill, e.drain())
	}
	if c.Deploy.Strategy != "rolling" {
		fault("deploy.strategy %q: a second Machine would have no clients", c.Deploy.Strategy)
	}
	if fmt.Sprint(c.Metrics.Port) != e.get("METRICS_PORT") || c.Metrics.Path != "/metrics" {
		fault("metrics: port %d path %q are not where the server has them", c.Metrics.Port, c.Metrics.Path)
	}
	if len(c.VM) != 1 {
		fault("vm: %d sections", len(c.VM))
	}
	var proxied bool
	public := map[int]int{} // port → internal port
	for i, s := range c.Services {
		list = append(list, flyServiceFaults(fmt.Sprintf("services[%d]", i), s, e)...)
		for _, p := range s.Ports {
			public[p.Port] = s.InternalPort
			proxied = proxied || slices.Contains(p.Handlers, "http")
		}
	}
	for port, variable := range map[int]string{80: "PORT", 443: "PORT", 8123: "CONTROL_PORT"} {
		if got := fmt.Sprint(public[port]); got != e.get(variable) {
			fault("port %d leads to %s, not to %s (%s)", port, got, variable, e.get(variable))
		}
	}
	if proxied && !covers(e.get("TRUSTED_PROXIES"), "172.16.0.1") {
		fault("TRUSTED_PROXIES lacks fly")
	}
	return list
}

func flyServiceFaults(at string, s flyService, e environment) (list []string) {
	fault := func(format string, args ...any) { list = append(list, at+": "+fmt.Sprintf(format, args...)) }
	control := fmt.Sprint(s.InternalPort) == e.get("CONTROL_PORT")
	selfTLS := control && e.get("AUTO_TLS") == "true"
	if s.Protocol != "tcp" {
		fault("protocol %q", s.Protocol)
	}
	if s.AutoStopMachines != "off" {
		fault("auto_stop_machines %v: a Machine that stops when idle loses its clients", s.AutoStopMachines)
	}
	if s.Concurrency.SoftLimit <= 20 || s.Concurrency.HardLimit <= s.Concurrency.SoftLimit {
		fault("concurrency: soft_limit %d, hard_limit %d", s.Concurrency.SoftLimit, s.Concurrency.HardLimit)
	}
	if want := map[bool]string{true: "connections", false: "requests"}[control]; s.Concurrency.Type != want {
		fault("concurrency: type %q, want %q", s.Concurrency.Type, want)
	}
	if len(s.Ports) == 0 {
		fault("no ports")
	}
	for _, p := range s.Ports {
		tls, http := slices.Contains(p.Handlers, "tls"), slices.Contains(p.Handlers, "http")
		for _, handler := range p.Handlers {
			if !slices.Contains([]string{"http", "tls", "pg_tls", "proxy_proto", "edge_http"}, handler) {
				fault("port %d: no handler is called %q", p.Port, handler)
			}
		}
		switch {
		case selfTLS && len(p.Handlers) > 0:
			fault("port %d: handlers %q, but the server does TLS itself", p.Port, p.Handlers)
		case !selfTLS && p.Port != 80 && !tls:
			fault("port %d: nobody does TLS", p.Port)
		case p.Port == 80 && !p.ForceHTTPS:
			fault("port 80: force_https is not set")
		}
		if http && tls && p.HTTPOptions.IdleTimeout < 60 {
			fault("port %d: http_options.idle_timeout %d cuts websockets off", p.Port, p.HTTPOptions.IdleTimeout)
		}
	}
	if len(s.TCPChecks)+len(s.HTTPChecks) == 0 {
		fault("no checks")
	}
	for _, check := range append(slices.Clone(s.TCPChecks), s.HTTPChecks...) {
		times := map[string]time.Duration{}
		for name, value := range map[string]any{"grace_period": check.GracePeriod, "interval": check.Interval, "timeout": check.Timeout} {
			d, err := flyTime(value, time.Millisecond)
			if err != nil {
				fault("check: %s %v", name, err)
			}
			times[name] = d
		}
		if times["timeout"] < time.Second || times["interval"] < 2*times["timeout"] || times["interval"] > time.Minute {
			fault("check: timeout %s, interval %s", times["timeout"], times["interval"])
		}
	}
	for _, check := range s.HTTPChecks {
		if !control {
			fault("http_checks: on this port visitors' services answer, not the server")
		}
		if check.Path != "/readyz" && check.Path != "/healthz" {
			fault("http_checks: %s is not what the server answers with 200", check.Path)
		}
		if (check.Protocol == "https") != selfTLS || selfTLS && !check.TLSSkipVerify {
			fault("http_checks: protocol %q with AUTO_TLS=%t", check.Protocol, selfTLS)
		}
	}
	return list
}

// flyTime returns a time, of which Fly.io reads a bare number in a unit that depends on the place. The examples are to
// say theirs.
func flyTime(value any, bare time.Duration) (time.Duration, error) {
	switch v := value.(type) {
	case string:
		if n, err := strconv.Atoi(v); err == nil {
			return time.Duration(n) * bare, fmt.Errorf("%q has no unit: Fly reads %s", v, time.Duration(n)*bare)
		}
		return time.ParseDuration(v)
	case int64:
		return time.Duration(v) * bare, fmt.Errorf("%d has no unit: Fly reads %s", v, time.Duration(v)*bare)
	}
	return 0, fmt.Errorf("%v is no time", value)
}

// covers reports whether TRUSTED_PROXIES has addr.
func covers(list, addr string) bool {
	var p trust.Proxies
	return p.Decode(list) == nil && p.Contains(netip.MustParseAddr(addr))
}

// alternative puts the lines behind a bare # in the place of the line above that sets the same key.
func alternative(text string) string {
	key := func(line string) string { k, _, _ := strings.Cut(line, "="); return strings.TrimSpace(k) }
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if m := regexp.MustCompile(`^(\s*)#([a-zA-Z\[].*)$`).FindStringSubmatch(line); m != nil {
			line = m[1] + m[2]
			if last := len(lines) - 1; key(lines[last]) == key(line) {
				lines = lines[:last]
			}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func TestFly(t *testing.T) {
	text := example(t, "fly.toml.example")
	for _, fault := range flyFaults(t, text) {
		t.Error(fault)
	}
	passThrough := alternative(text)
	for _, change := range []string{`AUTO_TLS = "true"`, "handlers = []", `protocol = "https"`} {
		if !strings.Contains(passThrough, "\n  "+change) && !strings.Contains(passThrough, "\n    "+change) {
			t.Errorf("the alternative lacks %s", change)
		}
	}
	for _, fault := range flyFaults(t, passThrough) {
		t.Errorf("with TLS passed through: %s", fault)
	}
}

func TestFlyFaults(t *testing.T) {
	text := example(t, "fly.toml.example")
	for _, test := range []broken{
		{"unknown key", "kill_timeout =", "kill_time_out =", "kill_time_out"},
		{"unknown key of a service", "internal_port = 8000", "internal_port = 8000\n  port = 8000", "no such key"},
		{"unknown section", "[metrics]", "[metric]", "metric"},
		{"a key of Compose in a check", "grace_period", "start_period", "start_period"},
		{"no TOML", "[[vm]]", "[[vm]", "expected"},
		{"a number for a string", `MODE = "http"`, `MODE = 1`, "cannot"},
		{"the default signal", `kill_signal = "SIGTERM"`, "", "kill_signal"},
		{"another signal", "SIGTERM", "SIGINT", "kill_signal"},
		{"the default timeout", `kill_timeout = "40s"`, "", "kill_timeout"},
		{"a timeout below the drain", `"40s"`, `"30s"`, "above the drain (30s)"},
		{"a delay before the drain", `DRAIN_TIMEOUT = "30s"`, `DRAIN_TIMEOUT = "30s"` + "\n  DRAIN_DELAY = \"10s\"", "above the drain (40s)"},
		{"a timeout that Fly cuts", `"40s"`, `"6m"`, "above 300 s"},
		{"seconds without a unit", `"40s"`, `40`, "has no unit: Fly reads 40s"},
		{"milliseconds without a unit", `interval = "10s"`, `interval = 10`, "has no unit: Fly reads 10ms"},
		{"milliseconds in quotes", `timeout = "2s"`, `timeout = "2"`, "has no unit: Fly reads 2ms"},
		{"a check that is too fast", `interval = "10s"`, `interval = "10ms"`, "check: timeout"},
		{"no interval", `interval = "10s"`, "", "check: interval"},
		{"the secret in the file", `MODE = "http"`, `TOKEN = "0123456789abcdef"`, "TOKEN is a secret"},
		{"an unknown variable", "METRICS_PORT", "METRIC_PORT", "METRIC_PORT is not read"},
		{"a value that is refused", `MODE = "http"`, `MODE = "https"`, "does not start"},
		{"a variable of Fly's", `MODE = "http"`, `FLY_MODE = "http"`, "FLY_ is Fly's own"},
		{"no name", `app = "my-adit"`, "", "app or primary_region"},
		{"two Machines", `"rolling"`, `"bluegreen"`, "deploy.strategy"},
		{"metrics elsewhere", "port = 8124", "port = 9091", "metrics: port 9091"},
		{"metrics below another path", `path = "/metrics"`, `path = "/"`, "metrics: port"},
		{"no size", "[[vm]]", "[[restart]]\n  policy = \"always\"\n[[vm]]\n[[vm]]", "vm: 2"},
		{"ports mixed up", `PORT = "8000"`, `PORT = "8001"`, "port 80 leads to 8000"},
		{"control port mixed up", "internal_port = 8123", "internal_port = 8000", "port 8123 leads to"},
		{"UDP", `protocol = "tcp"`, `protocol = "udp"`, "protocol"},
		{"stops when idle", `auto_stop_machines = "off"`, `auto_stop_machines = "stop"`, "auto_stop_machines"},
		{"the default limit", "soft_limit = 2000", "", "concurrency: soft_limit 0"},
		{"limits mixed up", "hard_limit = 4000", "hard_limit = 200", "hard_limit 200"},
		{"websockets counted as requests", `type = "connections"`, `type = "requests"`, "concurrency: type"},
		{"no public port", "[[services]]", "[[services]]\n  internal_port = 1\n[[services]]", "no ports"},
		{"an unknown handler", `["tls", "http"]`, `["https"]`, "no handler"},
		{"no TLS", `["tls", "http"]`, `["http"]`, "nobody does TLS"},
		{"plain HTTP", "force_https = true", "", "force_https"},
		{"the default idle timeout", "http_options = { idle_timeout = 3600 }", "", "idle_timeout 0"},
		{"no check", "[[services.tcp_checks]]", "[[services.http_checks]]", "visitors' services answer"},
		{"no check at all", "[[services.tcp_checks]]\n    grace_period = \"5s\"\n    interval = \"10s\"\n    timeout = \"2s\"", "", "no checks"},
		{"a check that asks for a token", `path = "/readyz"`, `path = "/status"`, "http_checks: /status"},
		{"a check with TLS", `protocol = "http"`, `protocol = "https"`, "http_checks: protocol"},
		{"TLS twice", `AUTO_TLS = "false"`, `AUTO_TLS = "true"`, "the server does TLS itself"},
		{"the proxy is not trusted", `TRUSTED_PROXIES = "fly"`, `TRUSTED_PROXIES = "cloudflare"`, "TRUSTED_PROXIES lacks"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			expect(t, flyFaults(t, test.apply(t, text)), test.want)
		})
	}
}
