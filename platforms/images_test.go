package platforms

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/license"
)

// programs are those of the images, compiled for this machine, and what they read.
var programs struct {
	dir       string
	variables map[string]map[string]variable // image → name
}

// variable is one that an image reads.
type variable struct {
	value  string // unless set
	secret bool   // may come as NAME_FILE, as all secrets may
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		defer func() { os.RemoveAll(programs.dir) }()
		if err := build("server", "client"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func build(images ...string) (err error) {
	if programs.dir, err = os.MkdirTemp("", "adit-platforms-"); err != nil {
		return err
	}
	args := []string{"build", "-o", programs.dir + string(filepath.Separator)}
	for _, image := range images {
		args = append(args, "../images/"+image)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build the images' programs: %w\n%s", err, out)
	}
	programs.variables = map[string]map[string]variable{}
	for _, image := range images {
		table, _ := env(image, nil) // an error tells of what is required
		heading, _, _ := strings.Cut(table, "\n")
		from, to := strings.Index(heading, "VALUE"), strings.Index(heading, "DEFAULT")
		read := map[string]variable{}
		for _, row := range regexp.MustCompile(`(?m)^([A-Z][A-Z0-9_]*)(\*?) .*$`).FindAllStringSubmatch(table, -1) {
			if row[1] == "VARIABLE" || from < 0 || to < from || len(row[0]) < to {
				continue
			}
			read[row[1]] = variable{value: strings.TrimSpace(row[0][from:to]), secret: row[2] == "*"}
			if row[2] == "*" {
				read[row[1]+"_FILE"] = variable{}
			}
		}
		if read["LOG_LEVEL"].value != "info" || read["DRAIN_TIMEOUT"].value != "25s" || !read["TOKEN"].secret {
			return fmt.Errorf("%s env does not show its variables and their defaults:\n%s", image, table)
		}
		programs.variables[image] = read
	}
	return nil
}

// env runs the env command of an image, which fails if the environment is at fault.
func env(image string, environment map[string]string) (string, error) {
	program := filepath.Join(programs.dir, image)
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	cmd := exec.Command(program, "env")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SYSTEMROOT=" + os.Getenv("SYSTEMROOT")}
	for name, value := range environment {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// token stands for the secret that a platform keeps.
const token = "0123456789abcdef-for-tests"

// environment is what an example sets for one container of ours.
type environment struct {
	image   string            // server or client
	values  map[string]string // in the file
	secrets []string          // names of those that the platform adds from elsewhere
}

// faults names what the image would ignore or refuse, and what must not be in a file.
func (e environment) faults(t *testing.T) (list []string) {
	t.Helper()
	fault := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	read := programs.variables[e.image]
	for _, name := range slices.Sorted(maps.Keys(e.values)) {
		if v, ok := read[name]; !ok {
			fault("%s is not read by the image %s", name, e.image)
		} else if v.secret {
			fault("%s is a secret, and the file holds it", name)
		}
	}
	for _, name := range e.secrets {
		if v, ok := read[name]; !ok {
			fault("%s is not read by the image %s", name, e.image)
		} else if !v.secret {
			fault("%s is no secret", name)
		}
	}
	if !slices.Contains(e.secrets, "TOKEN") {
		fault("TOKEN is not set")
	}
	if list != nil {
		return list
	}
	environ := maps.Clone(e.values)
	if environ == nil {
		environ = map[string]string{}
	}
	for _, name := range e.secrets {
		environ[name] = token
	}
	for name := range e.values { // what a container would have
		if strings.HasSuffix(name, "_FILE") {
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, standIn(t, name), 0o600); err != nil {
				t.Fatal(err)
			}
			environ[name] = file
		}
	}
	if out, err := env(e.image, environ); err != nil {
		fault("the image %s does not start with these settings: %v\n%s", e.image, err, out)
	}
	return list
}

// standIn returns what a mounted file would hold.
func standIn(t *testing.T, name string) []byte {
	t.Helper()
	if name != "LICENSE_FILE" {
		return []byte(token + "\n")
	}
	issued, err := license.Issue(license.NewPrivateKey(), license.License{Subject: "test", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return []byte(issued + "\n")
}

// get returns the value that the container sees.
func (e environment) get(name string) string {
	if value, ok := e.values[name]; ok {
		return value
	}
	return programs.variables[e.image][name].value
}

// drain returns how long a stop may take.
func (e environment) drain() time.Duration {
	total, err := time.ParseDuration(e.get("DRAIN_TIMEOUT"))
	if delay, err2 := time.ParseDuration(e.get("DRAIN_DELAY")); err2 == nil { // of a server only
		total += delay
	}
	if err != nil {
		return 1 << 62 // the image refuses it
	}
	return total
}

// example reads an example.
func example(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// broken is an example with one change, and a part of what must be said about it.
type broken struct {
	name     string
	old, new string // the first old becomes new
	want     string
}

func (b broken) apply(t *testing.T, text string) string {
	t.Helper()
	if !strings.Contains(text, b.old) {
		t.Fatalf("there is no %q to change", b.old)
	}
	return strings.Replace(text, b.old, b.new, 1)
}

// expect checks that one of the faults, and no other, is the one wanted.
func expect(t *testing.T, faults []string, want string) {
	t.Helper()
	if !slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, want) }) {
		t.Errorf("got %q, want a fault with %q", faults, want)
	}
}

// looksSecret finds what no example should hold: keys, tokens, passwords.
var looksSecret = regexp.MustCompile(`-----BEGIN |\beyJ[A-Za-z0-9_-]{10,}\.|\bAKIA[0-9A-Z]{16}\b|\b[0-9A-Fa-f]{32,}\b|[A-Za-z0-9+/]{40,}={0,2}|://[^/\s:@"]+:[^/\s@"]+@`)

// harmless is what is as long as a key, and only words.
var harmless = regexp.MustCompile(`^(/([A-Za-z]{2,}|\d))+$|^[a-z][A-Za-z]+$`)

// secretIn returns what looks like a secret, or "".
func secretIn(text string) string {
	for _, found := range looksSecret.FindAllString(text, -1) {
		if !harmless.MatchString(found) {
			return found
		}
	}
	return ""
}

func TestNoSecrets(t *testing.T) {
	files, err := filepath.Glob("../*.example")
	if err != nil || len(files) < 6 {
		t.Fatalf("examples: %q, %v", files, err)
	}
	for _, folder := range []string{"../compose", "../kubernetes"} {
		before := len(files)
		if err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if slices.Contains([]string{".yml", ".yaml", ".json"}, filepath.Ext(path)) {
				files = append(files, path)
			}
			return err
		}); err != nil || len(files) == before {
			t.Fatalf("no examples in %s: %v", folder, err)
		}
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if found := secretIn(string(content)); found != "" {
			t.Errorf("%s holds what looks like a secret: %s", file, found)
		}
	}
	for _, secret := range []string{
		"-----BEGIN PRIVATE KEY-----",
		"TOKEN = \"" + strings.Repeat("0f", 16) + "\"",
		"TOKEN: " + strings.Repeat("Ab1+", 11) + "=",
		"eyJhbGciOiJFZERTQSJ9.e30.c2ln",
		"AKIA" + strings.Repeat("Q", 16),
		"http://user:password@proxy",
	} {
		if secretIn(secret) == "" {
			t.Errorf("%s does not look like a secret", secret)
		}
	}
}
