package compose

import (
	"context"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

const token = "0123456789abcdef-for-tests"

var images = []string{"server", "client", "fileserver"}

// examples returns the compose files of this folder.
func examples(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*/docker-compose.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	return files
}

func load(t *testing.T, file string, env ...string) (*types.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{file}, cli.WithName("test"), cli.WithEnv(env), cli.WithDiscardEnvFile)
	if err != nil {
		t.Fatal(err)
	}
	return options.LoadProject(t.Context())
}

func mustLoad(t *testing.T, file string) *types.Project {
	t.Helper()
	project, err := load(t, file, "TOKEN="+token)
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// Who starts an example without a token is told what to do, and starts nothing that is open to all.
func TestTokenIsAskedFor(t *testing.T) {
	for _, file := range examples(t) {
		t.Run(filepath.Dir(file), func(t *testing.T) {
			_, err := load(t, file)
			if uses := mustLoad(t, file).Services["server"].Environment["TOKEN"]; uses == nil {
				return // TOKEN_FILE, see secretsElsewhere
			}
			if err == nil || !strings.Contains(err.Error(), "set TOKEN to a secret of at least 16 bytes") {
				t.Errorf("without TOKEN: %v", err)
			}
		})
	}
}

// The older docker-compose knows neither of them, and newer ones warn of the version.
func TestNoVersionOrName(t *testing.T) {
	for _, file := range examples(t) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if found := regexp.MustCompile(`(?m)^(version|name):`).Find(content); found != nil {
			t.Errorf("%s has a top-level %s", file, found)
		}
	}
}

// What this machine's own docker-compose says of the examples: where it is the older one in Python, it is the other
// implementation that people have.
func TestComposeAccepts(t *testing.T) {
	if _, err := exec.LookPath("docker-compose"); err != nil {
		t.Skip("docker-compose is absent (Debian: apt-get install docker-compose)")
	}
	for _, file := range examples(t) {
		t.Run(filepath.Dir(file), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "docker-compose", "--file", file, "config", "--quiet")
			cmd.Env = append(os.Environ(), "TOKEN="+token)
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// A name that no image reads would be ignored in silence.
func TestVariablesAreRead(t *testing.T) {
	for _, file := range examples(t) {
		t.Run(filepath.Dir(file), func(t *testing.T) {
			for name, service := range mustLoad(t, file).Services {
				image := program(service)
				if image == "" {
					continue
				}
				read := variables(t, image)
				for variable := range service.Environment {
					if !slices.Contains(read, variable) {
						t.Errorf("%s sets %s, which the image %s does not read; it reads %s", name, variable, image, strings.Join(read, " "))
					}
				}
				if out, err := env(t, image, service.Environment); err != nil {
					t.Errorf("%s: the image %s does not start with these settings: %v\n%s", name, image, err, out)
				}
			}
		})
	}
}

// variables returns the names that an image reads, as its env command tells.
func variables(t *testing.T, image string) []string {
	t.Helper()
	table, _ := env(t, image, nil) // an error tells of what is required
	var names []string
	for _, row := range regexp.MustCompile(`(?m)^([A-Z][A-Z0-9_]*)(\*?) `).FindAllStringSubmatch(table, -1) {
		if row[1] == "VARIABLE" { // the heading
			continue
		}
		names = append(names, row[1])
		if row[2] == "*" {
			names = append(names, row[1]+"_FILE")
		}
	}
	for _, name := range []string{"LOG_LEVEL", "METRICS_PORT"} {
		if !slices.Contains(names, name) {
			t.Fatalf("%s env does not show %s:\n%s", image, name, table)
		}
	}
	return names
}

// env runs the env command of an image, which fails if the environment is at
// fault. Files that a container would have are stood in for.
func env(t *testing.T, image string, environment types.MappingWithEquals) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t, image), "env")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SYSTEMROOT=" + os.Getenv("SYSTEMROOT")}
	for _, name := range slices.Sorted(maps.Keys(environment)) {
		value := environment[name]
		switch {
		case value == nil:
			continue
		case strings.HasSuffix(name, "_FILE"):
			file := filepath.Join(t.TempDir(), "file")
			content := token
			if name == "BASIC_AUTH_FILE" {
				content = "me:" + token
			}
			if err := os.WriteFile(file, []byte(content+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			value = &file
		case strings.HasSuffix(name, "_DIR"), name == "WEBROOT":
			dir := t.TempDir()
			value = &dir
		}
		cmd.Env = append(cmd.Env, name+"="+*value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var built struct {
	once sync.Once
	dir  string
	out  []byte
	err  error
}

// binary returns the path of an image's program, compiled for this machine.
func binary(t *testing.T, image string) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "adit-compose-"); built.err != nil {
			return
		}
		args := []string{"build", "-o", built.dir + string(filepath.Separator)}
		for _, image := range images {
			args = append(args, "../images/"+image)
		}
		// Other tests share it: their contexts must not end it.
		built.out, built.err = exec.CommandContext(context.Background(), "go", args...).CombinedOutput()
	})
	if built.err != nil {
		t.Fatalf("build the images' programs: %v\n%s", built.err, built.out)
	}
	name := image
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(built.dir, name)
}

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "4") // who runs an example mostly waits, whatever the processors
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	removeImages()
	os.Exit(code)
}
