package config

import (
	"slices"
	"strings"
	"testing"
)

type small struct {
	Token    Secret `split_words:"true" required:"true" desc:"Shared secret."`
	Mode     string `split_words:"true" required:"true" desc:"http | tcp."`
	Upstream string `split_words:"true" file:"true"`
	Port     Port   `split_words:"true" default:"8000" desc:"Where visitors connect."`
}

func TestWriteMarkdown(t *testing.T) {
	var out strings.Builder
	if err := WriteMarkdown(&out, &small{}); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"| Variable | Default | Description |",
		"|---|---|---|",
		"| `TOKEN`* | **required** | Shared secret. |",
		"| `MODE` | **required** | http \\| tcp. |",
		"| `UPSTREAM`* |  |  |",
		"| `PORT` | `8000` | Where visitors connect. |",
		"",
		"\\* The value may also come from a file: set `NAME_FILE` to its path.",
		"",
	}, "\n")
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestWriteEnv(t *testing.T) {
	for _, test := range []struct {
		name string
		env  map[string]string
		want []string
	}{
		{"unset", nil, []string{
			"VARIABLE   VALUE  DEFAULT     DESCRIPTION",
			"TOKEN*            (required)  Shared secret.",
			"MODE              (required)  http | tcp.",
			"UPSTREAM*                     ",
			"PORT       8000   8000        Where visitors connect.",
		}},
		{"set", map[string]string{"TOKEN": "hunter2", "MODE": "a\nb\x1b[31m", "UPSTREAM": "http://me:hunter2@db/?a=b@c", "PORT": "nine"}, []string{
			"VARIABLE   VALUE                           DEFAULT     DESCRIPTION",
			"TOKEN*     [redacted]                      (required)  Shared secret.",
			"MODE       a b [31m                        (required)  http | tcp.",
			"UPSTREAM*  http://me:[redacted]@db/?a=b@c              ",
			"PORT       nine                            8000        Where visitors connect.",
		}},
		{"files", map[string]string{"TOKEN_FILE": "/run/secrets/TOKEN", "UPSTREAM_FILE": "/u"}, []string{
			"VARIABLE   VALUE                      DEFAULT     DESCRIPTION",
			"TOKEN*     (from /run/secrets/TOKEN)  (required)  Shared secret.",
			"MODE                                  (required)  http | tcp.",
			"UPSTREAM*  (from /u)                              ",
			"PORT       8000                       8000        Where visitors connect.",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s small
			environ(t, &s, test.env)
			var out strings.Builder
			if err := WriteEnv(&out, &s); err != nil {
				t.Fatal(err)
			}
			want := strings.Join(append(test.want, "", "* The value may also come from a file: set NAME_FILE to its path.", ""), "\n")
			if out.String() != want {
				t.Errorf("got\n%s\nwant\n%s", out.String(), want)
			}
		})
	}
}

func TestTablesWithoutFiles(t *testing.T) {
	var out strings.Builder
	if err := WriteMarkdown(&out, &Common{}); err != nil {
		t.Fatal(err)
	}
	if err := WriteEnv(&out, &Common{}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "NAME_FILE") {
		t.Errorf("got\n%s", out.String())
	}
}

func TestNames(t *testing.T) {
	want := []string{"TOKEN", "TOKEN_FILE", "MODE", "UPSTREAM", "UPSTREAM_FILE", "PORT"}
	if got := Names(&small{}); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestEnvironment(t *testing.T) {
	var s settings
	environ(t, &s, map[string]string{"TOKEN": "0123456789abcdef", "DELAY_FILE": "/run/delay", "PORT": "80", "URL": "http://me:you@example.com", "MODE": " "})
	t.Setenv("MORE", "http://example.com")
	t.Setenv("PROXY", "http://me:you@proxy")
	t.Setenv("NONE", "")
	got := Environment(&s, "MORE", "PROXY", "NONE")
	want := []Assignment{
		{Name: "TOKEN", Value: "0123456789abcdef", Secret: true},
		{Name: "PORT", Value: "80"},
		{Name: "URL", Value: "http://me:you@example.com", Secret: true},
		{Name: "DELAY_FILE", Value: "/run/delay", File: true},
		{Name: "MORE", Value: "http://example.com"},
		{Name: "PROXY", Value: "http://me:you@proxy", Secret: true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
