package config

import (
	"bytes"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kelseyhightower/envconfig"
)

// settings has a field of every kind that the images use.
type settings struct {
	Common
	Token       Secret        `split_words:"true" required:"true" desc:"Shared secret."`
	Port        Port          `split_words:"true" default:"8000" desc:"Where visitors connect."`
	MetricsPort OptionalPort  `split_words:"true" default:"8124"`
	HTTPSPort   OptionalPort  `split_words:"true" default:"off"`
	URL         *url.URL      `split_words:"true"`
	AutoTLS     bool          `envconfig:"AUTO_TLS" default:"true" desc:"Make a certificate | or not."`
	Webroot     string        `split_words:"true" default:"."`
	MaxClients  int           `split_words:"true"`
	Mode        string        `split_words:"true" required:"true"`
	Delay       time.Duration `split_words:"true" file:"true"`
	Hosts       []string      `split_words:"true"`
	AllowIPs    CIDRs         `envconfig:"ALLOW_IPS"`
	//lint:ignore U1000 no variable belongs to it
	internal string
}

func (s *settings) Validate() error {
	var errs []error
	if !s.Token.IsSet() {
		errs = append(errs, Fault("TOKEN", "is needed"))
	}
	if s.Mode == "strict" {
		errs = append(errs, Fault("MODE", "strict needs %s", "MAX_CLIENTS"), errors.New("too strict"))
	}
	return errors.Join(errs...)
}

// environ sets the variables that spec reads to env alone, whatever the process
// was started with.
func environ(t testing.TB, spec any, env map[string]string) {
	t.Helper()
	for _, name := range Names(spec) {
		t.Setenv(name, env[name])
	}
}

func write(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadDefaults(t *testing.T) {
	var s settings
	environ(t, &s, map[string]string{"TOKEN": "0123456789abcdef", "MODE": "http"})
	if err := Load(&s); err != nil {
		t.Fatal(err)
	}
	want := settings{
		Common:      Common{LogLevel: LogLevel(1), LogFormat: "json", DrainTimeout: 25 * time.Second},
		Token:       SecretValue("0123456789abcdef"),
		Port:        8000,
		MetricsPort: 8124,
		HTTPSPort:   off,
		AutoTLS:     true,
		Webroot:     ".",
		Mode:        "http",
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %#v\nwant %#v", s, want)
	}
}

func TestLoadValues(t *testing.T) {
	var s settings
	environ(t, &s, map[string]string{
		"LOG_LEVEL":     "WARN",
		"LOG_FORMAT":    "Console",
		"METRICS_ADDR":  "127.0.0.1",
		"DRAIN_TIMEOUT": "1m30s",
		"TOKEN_FILE":    write(t, " spaces stay \r\n"),
		"PORT":          " 0\r",
		"METRICS_PORT":  "off",
		"HTTPS_PORT":    "443",
		"URL":           "wss://example.com:8123",
		"AUTO_TLS":      "False",
		"WEBROOT":       `C:\web "root" 'ü' \xff` + "\xff",
		"MAX_CLIENTS":   "0x10",
		"MODE":          "http,tcp",
		"DELAY_FILE":    write(t, "5s\n"),
		"HOSTS":         " a.example.com, b.example.com,,",
		"ALLOW_IPS":     "10.1.2.3/8, ::1",
	})
	if err := Load(&s); err != nil {
		t.Fatal(err)
	}
	for _, check := range []struct {
		name      string
		got, want any
	}{
		{"level", s.LogLevel.String(), "warn"},
		{"console", s.LogFormat.Console(), true},
		{"metrics addr", s.MetricsAddr, "127.0.0.1"},
		{"drain timeout", s.DrainTimeout, 90 * time.Second},
		{"token", s.Token.Value(), " spaces stay "},
		{"token file", s.Token.File(), os.Getenv("TOKEN_FILE")},
		{"port", s.Port, Port(0)},
		{"metrics port", s.MetricsPort.Off(), true},
		{"https port", s.HTTPSPort, OptionalPort(443)},
		{"url", s.URL.Host, "example.com:8123"},
		{"auto tls", s.AutoTLS, false},
		{"webroot", s.Webroot, `C:\web "root" 'ü' \xff` + "\xff"},
		{"max clients", s.MaxClients, 16},
		{"mode", s.Mode, "http,tcp"},
		{"delay", s.Delay, 5 * time.Second},
		{"hosts", strings.Join(s.Hosts, "|"), "a.example.com|b.example.com"},
		{"allow ips", s.AllowIPs.String(), "10.0.0.0/8,::1/128"},
	} {
		if check.got != check.want {
			t.Errorf("%s: got %#v, want %#v", check.name, check.got, check.want)
		}
	}
}

func TestLoadFaults(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, test := range []struct {
		name string
		env  map[string]string // on top of a good TOKEN and MODE
		want []string          // a part of each fault, in order
	}{
		{"required", map[string]string{"TOKEN": "", "MODE": " "},
			[]string{"TOKEN: is required but not set: set TOKEN, or set TOKEN_FILE to", "MODE: is required but not set: set MODE"}},
		{"blank secret", map[string]string{"TOKEN": " \t\n"}, []string{"TOKEN: is blank"}},
		{"blank file", map[string]string{"TOKEN": "", "TOKEN_FILE": write(t, "\n \n")}, []string{"TOKEN_FILE: file "}},
		{"blank file of no secret", map[string]string{"DELAY_FILE": write(t, "")}, []string{"DELAY_FILE: file "}},
		{"missing file", map[string]string{"TOKEN": "", "TOKEN_FILE": missing}, []string{"TOKEN_FILE: open " + missing}},
		{"directory", map[string]string{"TOKEN": "", "TOKEN_FILE": t.TempDir()}, []string{"TOKEN_FILE: read "}},
		{"huge file", map[string]string{"TOKEN": "", "TOKEN_FILE": write(t, strings.Repeat("x", maxFile+1))}, []string{"more than 1048576 bytes"}},
		{"value and file", map[string]string{"TOKEN_FILE": missing}, []string{"TOKEN: both TOKEN and TOKEN_FILE are set: unset one"}},
		{"bad content of a file", map[string]string{"DELAY_FILE": write(t, "5")}, []string{`DELAY: "5" is not a duration`}},
		{"service link", map[string]string{"PORT": "tcp://10.0.0.1:80"}, []string{`PORT: "tcp://10.0.0.1:80" is a Kubernetes service link`}},
		{"port", map[string]string{"PORT": "65536"}, []string{`PORT: "65536" is not a port: use a number from 0 to 65535 (0 picks a free one)`}},
		{"optional port", map[string]string{"METRICS_PORT": "of"}, []string{`METRICS_PORT: "of" is not a port: use a number from 0 to 65535 (0 picks a free one), or off`}},
		{"bool", map[string]string{"AUTO_TLS": "yes"}, []string{`AUTO_TLS: "yes" is neither true nor false`}},
		{"number", map[string]string{"MAX_CLIENTS": "many"}, []string{`MAX_CLIENTS: "many" is not a number`}},
		{"range", map[string]string{"MAX_CLIENTS": "99999999999999999999"}, []string{`MAX_CLIENTS: "99999999999999999999" is out of range`}},
		{"duration", map[string]string{"DRAIN_TIMEOUT": "25"}, []string{`DRAIN_TIMEOUT: "25" is not a duration: use a number with a unit`}},
		{"negative", map[string]string{"DRAIN_TIMEOUT": "-1s"}, []string{"DRAIN_TIMEOUT: -1s is negative"}},
		{"level", map[string]string{"LOG_LEVEL": "loud"}, []string{`LOG_LEVEL: "loud" is not a level`}},
		{"format", map[string]string{"LOG_FORMAT": "xml"}, []string{`LOG_FORMAT: "xml" is not a format`}},
		{"networks", map[string]string{"ALLOW_IPS": "10.0.0.0/8,lan"}, []string{`ALLOW_IPS: "lan" is not a network`}},
		{"url", map[string]string{"URL": "http://[::1"}, []string{"URL: parse"}},
		{"relations", map[string]string{"MODE": "strict", "DRAIN_TIMEOUT": "-1s"},
			[]string{"MODE: strict needs MAX_CLIENTS", "too strict", "DRAIN_TIMEOUT: -1s is negative"}},
		{"relations beside values", map[string]string{"MODE": "strict", "PORT": "x", "DRAIN_TIMEOUT": "-1s"},
			[]string{"PORT: ", "MODE: strict needs MAX_CLIENTS", "too strict", "DRAIN_TIMEOUT: -1s is negative"}},
		{"no relation of a value that is not there", map[string]string{"TOKEN": "", "PORT": "x"}, []string{"TOKEN: is required", "PORT: "}},
		{"nor of one in a file that cannot be read", map[string]string{"TOKEN": "", "TOKEN_FILE": "/nowhere"}, []string{"TOKEN_FILE: "}},
		{"everything at once", map[string]string{"LOG_LEVEL": "loud", "TOKEN": "", "PORT": "x", "AUTO_TLS": "ja", "DELAY": "soon"},
			[]string{"LOG_LEVEL: ", "TOKEN: ", "PORT: ", "AUTO_TLS: ", "DELAY: "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := map[string]string{"TOKEN": "0123456789abcdef", "MODE": "http"}
			for name, value := range test.env {
				env[name] = value
			}
			var s settings
			environ(t, &s, env)
			faults, ok := errors.AsType[*Faults](Load(&s))
			if !ok {
				t.Fatal("no faults")
			}
			lines := strings.Split(faults.Error(), "\n")
			if len(lines) != len(test.want) {
				t.Fatalf("got %q, want %d faults", lines, len(test.want))
			}
			for i, want := range test.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("got %q, want %q in it", lines[i], want)
				}
			}
		})
	}
}

// What was set well stays usable, and what was not has its default.
func TestLoadAroundFaults(t *testing.T) {
	var s settings
	environ(t, &s, map[string]string{"TOKEN": "0123456789abcdef", "PORT": "x", "METRICS_PORT": "9000", "LOG_LEVEL": "?"})
	err := Load(&s)
	problem, ok := errors.AsType[*Problem](err)
	if !ok || problem.Variable != "LOG_LEVEL" {
		t.Errorf("got %v, want a problem of LOG_LEVEL first", err)
	}
	if s.Token.Value() != "0123456789abcdef" || s.Port != 8000 || s.MetricsPort != 9000 || s.LogLevel.String() != "info" {
		t.Errorf("got %+v", s)
	}
}

func TestFaultsAreErrors(t *testing.T) {
	var s settings
	environ(t, &s, map[string]string{"TOKEN_FILE": filepath.Join(t.TempDir(), "missing"), "MODE": "http"})
	if err := Load(&s); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v is not os.ErrNotExist", err)
	}
}

func TestLoadOfNoStruct(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	Load(settings{})
}

// The rules for names are envconfig's, written down a second time.
func TestNamesAreEnvconfigs(t *testing.T) {
	type inner struct {
		DNSName  string `split_words:"true"`
		Plain    string
		Explicit string `envconfig:"other_name"`
	}
	spec := struct {
		Common
		HTTP2Enabled bool   `split_words:"true"`
		AutoTLSSAN   string `split_words:"true"`
		TLSCertFile  string `split_words:"true"`
		XForwardedIP string `split_words:"true"`
		V6Only       string `split_words:"true"`
		URL          url.URL
		Since        time.Time
		Token        Secret
		Nested       inner
		Ignored      string `ignored:"true"`
	}{}
	var want bytes.Buffer
	if err := envconfig.Usagef("", &spec, &want, "{{range .}}{{.Key}}\n{{end}}"); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, v := range variables(&spec) {
		got.WriteString(v.name + "\n")
	}
	if got.String() != want.String() {
		t.Errorf("got\n%swant\n%s", got.String(), want.String())
	}
}
