package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/license"
)

// issuer is who runs the command license, in a folder and at a time of its own.
type issuer struct {
	dir string
	now time.Time
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	for _, name := range []string{"LICENSE", "LICENSE_PUBLIC_KEY", "LICENSE_PRIVATE_KEY"} {
		t.Setenv(name, "")
		t.Setenv(name+"_FILE", "")
	}
	return &issuer{dir: t.TempDir(), now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
}

func (i *issuer) path(name string) string { return filepath.Join(i.dir, name) }

func (i *issuer) write(t testing.TB, name, content string) string {
	t.Helper()
	if err := os.WriteFile(i.path(name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return i.path(name)
}

func (i *issuer) read(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(i.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func (i *issuer) run(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs strings.Builder
	code = licenseCommand{strings.NewReader(stdin), &out, &errs, i.now}.run(args)
	return code, out.String(), errs.String()
}

// must runs a command that must do.
func (i *issuer) must(t testing.TB, stdin string, args ...string) (stdout string) {
	t.Helper()
	code, stdout, stderr := i.run(stdin, args...)
	if code != 0 {
		t.Fatalf("%q: exit %d: %s", args, code, stderr)
	}
	return stdout
}

func TestLicenseKeygen(t *testing.T) {
	i := newIssuer(t)
	line := i.must(t, "", "keygen", i.path("vendor.key"))
	private := i.read(t, "vendor.key")
	key, err := license.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if line != key.Public()+"\n" {
		t.Errorf("printed %q, want the public key", line)
	}
	keys, err := license.ParseKeys(i.read(t, "vendor.key.pub"))
	if err != nil || !keys.Has(key.ID()) {
		t.Errorf("vendor.key.pub: %v %v", keys.IDs(), err)
	}
	for name, want := range map[string]fs.FileMode{"vendor.key": 0o600, "vendor.key.pub": 0o644} {
		info, err := os.Stat(i.path(name))
		if err != nil || os.PathSeparator == '/' && info.Mode()&^0o022 != want&^0o022 {
			t.Errorf("%s: %v %v, want %v", name, info.Mode(), err, want)
		}
	}

	// Nothing is overwritten, and no half of a pair is left.
	code, stdout, stderr := i.run("", "keygen", i.path("vendor.key"))
	if code != 1 || stdout != "" || !strings.Contains(stderr, "vendor.key is there already") || i.read(t, "vendor.key") != private {
		t.Errorf("again: %d %q %q", code, stdout, stderr)
	}
	i.write(t, "other.pub", "mine")
	code, _, stderr = i.run("", "keygen", i.path("other"))
	if _, err := os.Stat(i.path("other")); code != 1 || !strings.Contains(stderr, "other.pub is there already") || i.read(t, "other.pub") != "mine" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a public key is there: %d %q %v", code, stderr, err)
	}
	if err := os.Symlink(i.path("elsewhere"), i.path("link")); err == nil {
		if code, _, _ := i.run("", "keygen", i.path("link")); code != 1 {
			t.Errorf("wrote where a link leads: %d", code)
		}
	}

	// Without a folder to write to, as in an image.
	code, stdout, stderr = i.run("", "keygen", "-")
	key, err = license.ParsePrivateKey(stdout)
	if code != 0 || err != nil || !strings.Contains(stderr, "\n"+key.Public()+"\n") {
		t.Errorf("-: %d %v %q", code, err, stderr)
	}
}

func TestLicenseIssue(t *testing.T) {
	i := newIssuer(t)
	i.must(t, "", "keygen", i.path("vendor.key"))
	keys, err := license.ParseKeys(i.read(t, "vendor.key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	signed := []string{"issue", "--key", i.path("vendor.key"), "--sub", "acme"}
	for _, c := range []struct {
		name string
		args []string
		want license.License
	}{
		{"host", []string{"--exp=90d", "--hosts", "Shop.example.com"}, license.License{
			Expires: i.now.AddDate(0, 0, 90), Hosts: []string{"shop.example.com"}, Ports: []license.Ports{},
		}},
		{"ports", []string{"--exp=1y", "--ports=2222, 8000-8999"}, license.License{
			Expires: i.now.AddDate(1, 0, 0), Hosts: []string{}, Ports: []license.Ports{{First: 2222, Last: 2222}, {First: 8000, Last: 8999}},
		}},
		{"everything", []string{"--exp", "2027-12-31", "--nbf=2027-01-01T00:00:00+01:00", "--hosts=*,a.test", "--ports=1-65535", "--max-clients=2", "--iss=us", "--jti=7"}, license.License{
			Expires: time.Date(2027, 12, 31, 23, 59, 59, 0, time.UTC), NotBefore: time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC),
			Hosts: []string{"*", "a.test"}, Ports: []license.Ports{{First: 1, Last: 65535}}, MaxClients: 2, Issuer: "us", ID: "7",
		}},
		{"weeks", []string{"--exp=2w", "--hosts=*"}, license.License{Expires: i.now.AddDate(0, 0, 14), Hosts: []string{"*"}, Ports: []license.Ports{}}},
		{"hours", []string{"--exp=36h", "--hosts=*"}, license.License{Expires: i.now.Add(36 * time.Hour), Hosts: []string{"*"}, Ports: []license.Ports{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := i.run("", append(signed, c.args...)...)
			if code != 0 || !strings.HasPrefix(stderr, "Subject:  acme\nExpires:  "+c.want.Expires.Format(time.RFC3339)) {
				t.Fatalf("exit %d: %s", code, stderr)
			}
			text, newline := strings.CutSuffix(stdout, "\n")
			at := i.now
			if at.Before(c.want.NotBefore) {
				at = c.want.NotBefore
			}
			got, err := keys.Verify(text, at)
			if err != nil || !newline {
				t.Fatalf("%q: %v", stdout, err)
			}
			c.want.Subject, c.want.IssuedAt, c.want.KeyID = "acme", i.now, keys.IDs()[0]
			if want, err := license.Issue(license.NewPrivateKey(), c.want); err != nil || claimsOf(want) != claimsOf(text) {
				t.Errorf("got %+v, want %+v, %v", got, c.want, err)
			}
		})
	}

	private := i.read(t, "vendor.key")
	for _, from := range []struct{ name, env, value, arg, stdin string }{
		{name: "variable", env: "LICENSE_PRIVATE_KEY", value: private},
		{name: "file of the variable", env: "LICENSE_PRIVATE_KEY_FILE", value: i.path("vendor.key")},
		{name: "stdin", arg: "--key=-", stdin: private},
	} {
		t.Run("key by "+from.name, func(t *testing.T) {
			args := []string{"issue", "--sub=acme", "--exp=1d", "--hosts=*"}
			if from.env != "" {
				t.Setenv(from.env, from.value)
			} else {
				args = append(args, from.arg)
			}
			if _, err := keys.Verify(strings.TrimSpace(i.must(t, from.stdin, args...)), i.now); err != nil {
				t.Error(err)
			}
		})
	}
	if os.PathSeparator == '/' {
		if err := os.Chmod(i.path("vendor.key"), 0o644); err != nil {
			t.Fatal(err)
		}
		if code, _, stderr := i.run("", append(signed, "--exp=1d", "--hosts=*")...); code != 0 || !strings.HasPrefix(stderr, "warning: others may read the private key: chmod 600 ") {
			t.Errorf("a key for all to read: %d %q", code, stderr)
		}
	}
}

// claimsOf is the middle of a licence, which does not depend on the key.
func claimsOf(text string) string {
	if parts := strings.Split(text, "."); len(parts) == 3 {
		return parts[1]
	}
	return text
}

func TestLicenseShow(t *testing.T) {
	i := newIssuer(t)
	i.must(t, "", "keygen", i.path("vendor.key"))
	i.must(t, "", "keygen", i.path("other.key"))
	text := i.must(t, "", "issue", "--key", i.path("vendor.key"), "--sub=acme", "--exp=90d", "--hosts=shop.example.com,*.example.org", "--ports=2222", "--max-clients=2", "--iss=us", "--jti=7")
	file := i.write(t, "acme.licence", text)
	good := `Subject:  acme
Expires:  2027-02-22T12:00:00Z, in 90 days
Hosts:    shop.example.com, *.example.org
Ports:    2222
Clients:  2 at once
Issuer:   us
ID:       7
`
	keys, err := license.ParseKeys(i.read(t, "vendor.key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	yes := "Good:     yes, signed with the key " + keys.IDs()[0] + "\n" + good
	for _, c := range []struct {
		name  string
		args  []string
		stdin string
		env   map[string]string
		at    time.Duration
		code  int
		want  string
	}{
		{name: "a file", args: []string{file, "--key", i.path("vendor.key.pub")}, want: yes},
		{name: "flag first", args: []string{"--key", i.path("vendor.key.pub"), file}, want: yes},
		{name: "stdin", args: []string{"-", "--key=" + i.path("vendor.key.pub")}, stdin: text, want: yes},
		{name: "nothing but stdin", stdin: text, env: map[string]string{"LICENSE_PUBLIC_KEY_FILE": i.path("vendor.key.pub")}, want: yes},
		{name: "an argument", args: []string{strings.TrimSpace(text)}, env: map[string]string{"LICENSE_PUBLIC_KEY": i.read(t, "vendor.key.pub")}, want: yes},
		{name: "the environment", env: map[string]string{"LICENSE_FILE": file, "LICENSE_PUBLIC_KEY_FILE": i.path("vendor.key.pub")}, want: yes},
		{name: "without a key", args: []string{file}, want: "Good:     not verified: give --key FILE, or set LICENSE_PUBLIC_KEY, to know\n" + good},
		{name: "another key", args: []string{file, "--key", i.path("other.key.pub")}, code: 1, want: "Good:     no (signature): it was signed with a key that this server does not have"},
		{name: "changed", args: []string{strings.TrimSpace(text)[:len(text)-20] + "AAAAAAAAAAAAAAAAAAA", "--key", i.path("vendor.key.pub")}, code: 1, want: "Good:     no (signature): its signature is wrong"},
		{name: "expired", args: []string{file, "--key", i.path("vendor.key.pub")}, at: 91 * 24 * time.Hour, code: 1, want: "Good:     no (exp): the licence of acme expired at 2027-02-22T12:00:00Z"},
		{name: "expired, unverified", args: []string{file}, at: 91 * 24 * time.Hour, code: 1, want: "Good:     no (exp): it has expired"},
		{name: "no licence", args: []string{i.path("vendor.key.pub")}, code: 1, want: "Good:     no (format): "},
		{name: "alg none", args: []string{"eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ."}, code: 1, want: "Good:     no (header): its alg is none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			later := *i
			later.now = i.now.Add(c.at)
			code, stdout, stderr := later.run(c.stdin, append([]string{"show"}, c.args...)...)
			if code != c.code || !strings.HasPrefix(stdout, c.want) || c.code == 0 && (stdout != c.want || stderr != "") {
				t.Errorf("exit %d: %s%s, want %d: %s", code, stdout, stderr, c.code, c.want)
			}
			if part := strings.TrimSpace(text)[100:]; strings.Contains(stdout+stderr, part) {
				t.Error("the licence is printed")
			}
		})
	}
}

func TestLicenseMisuse(t *testing.T) {
	i := newIssuer(t)
	i.must(t, "", "keygen", i.path("vendor.key"))
	key := i.path("vendor.key")
	issue := func(args ...string) []string { return append([]string{"issue", "--key", key}, args...) }
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		code int
		want []string
	}{
		{name: "nothing", code: 2, want: []string{"a command is missing", "Usage:"}},
		{name: "unknown", args: []string{"sign"}, code: 2, want: []string{`unknown command "sign"`, "Usage:"}},
		{name: "unknown flag", args: issue("--days=3"), code: 2, want: []string{"not defined: -days", "Usage:"}},
		{name: "stray argument", args: issue("acme"), code: 2, want: []string{`unexpected argument "acme"`, "Usage:"}},
		{name: "keygen without a file", args: []string{"keygen"}, code: 2, want: []string{"name the file", "Usage:"}},
		{name: "keygen with two", args: []string{"keygen", "-", "b"}, code: 2, want: []string{`unexpected argument "b"`}},
		{name: "keygen nowhere", args: []string{"keygen", i.path("no/key")}, code: 1, want: []string{"no such file"}},
		{name: "show two", args: []string{"show", key, key}, code: 2, want: []string{"unexpected argument"}},
		{name: "show nothing", args: []string{"show"}, code: 1, want: []string{"stdin is empty: name the file of the licence, or set LICENSE or LICENSE_FILE"}},
		{name: "show what is missing", args: []string{"show", i.path("none")}, code: 1, want: []string{"none: no such file"}},
		{name: "show by a private key", args: []string{"show", "eyJh.a.a", "--key", key}, code: 1, want: []string{"vendor.key: holds a private key, which belongs to whoever issues licences"}},
		{name: "all at once", args: issue("--ports=0,x", "--hosts=a b/c", "--max-clients=0"), code: 2, want: []string{
			"--sub: is missing", "--exp: is missing", `--ports: "0" is neither`, `--ports: "x" is neither`, `--hosts: "b/c" is not a host`, `--max-clients: "0" is not a number`,
		}},
		{name: "nothing allowed", args: issue("--sub=a", "--exp=1d"), code: 2, want: []string{"--hosts: is missing, and so is --ports"}},
		{name: "no time", args: issue("--sub=a", "--exp=0d", "--hosts=*"), code: 2, want: []string{`--exp: "0d" is no time: write 90d`}},
		{name: "backwards", args: issue("--sub=a", "--exp=-36h", "--hosts=*"), code: 2, want: []string{`--exp: "-36h" is no time`}},
		{name: "over", args: issue("--sub=a", "--exp=2026-11-23", "--hosts=*"), code: 2, want: []string{"--exp: 2026-11-23 is over"}},
		{name: "ends before it begins", args: issue("--sub=a", "--exp=1d", "--nbf=2d", "--hosts=*"), code: 2, want: []string{"--nbf: the licence would begin after its end"}},
		{name: "end of time", args: issue("--sub=a", "--exp=9000y", "--hosts=*"), code: 2, want: []string{"(exp)"}},
		{name: "subject with a line break", args: issue("--sub=a\nb", "--exp=1d", "--hosts=*"), code: 2, want: []string{"(sub)"}},
		{name: "too big", args: issue("--sub=a", "--exp=1d", "--hosts="+strings.Repeat("a.very.long.host.example.com,", 150)), code: 2, want: []string{"more than 4096"}},
		{name: "no key", args: []string{"issue", "--sub=a", "--exp=1d", "--hosts=*"}, code: 2, want: []string{"give --key FILE (- for stdin), or set LICENSE_PRIVATE_KEY_FILE"}},
		{name: "key is missing", args: []string{"issue", "--key", i.path("none"), "--sub=a", "--exp=1d", "--hosts=*"}, code: 1, want: []string{"none: no such file"}},
		{name: "public key", args: []string{"issue", "--key", key + ".pub", "--sub=a", "--exp=1d", "--hosts=*"}, code: 1, want: []string{"vendor.key.pub: holds no PEM block PRIVATE KEY"}},
		{name: "public key in the variable", args: []string{"issue", "--sub=a", "--exp=1d", "--hosts=*"}, env: map[string]string{"LICENSE_PRIVATE_KEY_FILE": key + ".pub"}, code: 2, want: []string{"LICENSE_PRIVATE_KEY: holds no PEM block"}},
		{name: "file of the variable is missing", args: []string{"issue", "--sub=a", "--exp=1d", "--hosts=*"}, env: map[string]string{"LICENSE_PRIVATE_KEY_FILE": "/none"}, code: 2, want: []string{"LICENSE_PRIVATE_KEY_FILE: open /none"}},
		{name: "no public key in the variable", args: []string{"show", "eyJh.a.a"}, env: map[string]string{"LICENSE_PUBLIC_KEY": "verysecret"}, code: 2, want: []string{"LICENSE_PUBLIC_KEY: key 1 is neither"}},
		{name: "huge", args: []string{"show", "-"}, code: 1, want: []string{"stdin has more than 65536 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			stdin := ""
			if c.name == "huge" {
				stdin = strings.Repeat("x", 1<<20)
			}
			code, stdout, stderr := i.run(stdin, c.args...)
			if code != c.code || stdout != "" {
				t.Errorf("exit %d, want %d, printed %q", code, c.code, stdout)
			}
			for _, want := range c.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("got %q, want %q", stderr, want)
				}
			}
			if strings.Contains(stderr, "verysecret") || strings.Contains(stderr, "MC4CAQ") {
				t.Errorf("a secret is printed: %q", stderr)
			}
		})
	}
	for _, args := range [][]string{{"help"}, {"-h"}, {"issue", "-h"}, {"keygen", "--help"}, {"show", "-h"}} {
		if code, stdout, stderr := i.run("", args...); code != 0 || stderr != "" || stdout != licenseHelp {
			t.Errorf("%q: exit %d: %s", args, code, stderr)
		}
	}
}
