package config

import (
	"os"
	"slices"
	"strings"
	"testing"
)

type several struct {
	Hosts string       `split_words:"true"`
	Auth  Each[Secret] `desc:"Who may."`
	Max   Each[int]    `default:"7" desc:"How many."`
}

func TestEach(t *testing.T) {
	path := write(t, "from-a-file\n")
	for name, value := range map[string]string{
		"AUTH": "for-all", "AUTH_2": "for-the-second", "AUTH_12_FILE": path, "AUTH_3": "", "MAX_1": "9", "AUTHORITY": "x", "MAXIMUM_1": "x",
	} {
		t.Setenv(name, value)
	}
	var s several
	if err := Load(&s); err != nil {
		t.Fatal(err)
	}
	for place, want := range map[int]string{1: "for-all", 2: "for-the-second", 3: "for-all", 12: "from-a-file"} {
		if got := s.Auth.For(place); got.Value() != want {
			t.Errorf("%d: got %q, want %q", place, got.Value(), want)
		}
	}
	if _, ok := s.Auth.Own(1); ok || !slices.Equal(s.Auth.Places(), []int{2, 12}) {
		t.Errorf("places %v", s.Auth.Places())
	}
	if got, _ := s.Auth.Own(12); got.File() != path {
		t.Errorf("file %q", got.File())
	}
	if s.Max.For(1) != 9 || s.Max.For(2) != 7 {
		t.Errorf("got %d and %d", s.Max.For(1), s.Max.For(2))
	}
	want := []string{"HOSTS", "AUTH", "AUTH_FILE", "AUTH_2", "AUTH_2_FILE", "AUTH_12", "AUTH_12_FILE", "MAX", "MAX_1"}
	if got := Names(&s); !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	var env strings.Builder
	if err := WriteEnv(&env, &s); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"AUTH*†    [redacted]", "AUTH_2*   [redacted]", "AUTH_12*  (from " + path + ")", "AUTH for number 2 alone.", "† For one of several alone"} {
		if !strings.Contains(env.String(), line) {
			t.Errorf("no %q in\n%s", line, env.String())
		}
	}
	if strings.Contains(env.String(), "for-the-second") {
		t.Error("a secret is shown")
	}
	secret := map[string]bool{}
	for _, a := range Environment(&s) {
		secret[a.Name] = a.Secret
	}
	if isSecret, ok := secret["AUTH_2"]; !ok || !isSecret || len(secret) != 4 {
		t.Errorf("environment %v", secret)
	}
}

// TestEachTable holds that the table is the same whatever is set.
func TestEachTable(t *testing.T) {
	table := func() string {
		var out strings.Builder
		if err := WriteMarkdown(&out, &several{}); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	before := table()
	t.Setenv("AUTH_2", "x")
	if after := table(); after != before || !strings.Contains(after, "| `AUTH`*† |  | Who may. |") || !strings.Contains(after, "`NAME_1` is for the first") {
		t.Errorf("got\n%s\nand\n%s", before, after)
	}
}

func TestEachFaults(t *testing.T) {
	missing := os.TempDir() + "/adit-no-such-file"
	for _, c := range []struct{ name, want string }{
		{"AUTH_0", "AUTH_0: is no variable of this program: write AUTH for all, AUTH_1 for the first"},
		{"AUTH_01", "AUTH_01: is no variable"},
		{"AUTH_1_FILES", "AUTH_1_FILES: is no variable"},
		{"AUTH_ONE", "AUTH_ONE: is no variable"},
		{"AUTH_", "AUTH_: is no variable"},
		{"AUTH_99999", "AUTH_99999: is no variable"},
		{"MAX_1_FILE", "MAX_1_FILE: is no variable"},
		{"MAX_FILE", "MAX_FILE: is no variable"},
		{"MAX_1", "MAX_1: "},
		{"AUTH_1_FILE", "AUTH_1_FILE: open " + missing},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(c.name, missing)
			if err := Load(&several{}); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	t.Run("both", func(t *testing.T) {
		t.Setenv("AUTH_1", "x")
		t.Setenv("AUTH_1_FILE", missing)
		if err := Load(&several{}); err == nil || err.Error() != "AUTH_1: both AUTH_1 and AUTH_1_FILE are set: unset one of them" {
			t.Errorf("got %v", err)
		}
	})
}
