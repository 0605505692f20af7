package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

var imageNames = []string{"client", "fileserver", "server"}

// dockerfile returns the Dockerfile of an image.
func dockerfile(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", name, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestReadStage(t *testing.T) {
	for _, test := range []struct {
		image   string
		workdir string
		ports   []string
		files   []file
	}{
		{"client", "/", []string{"8125/tcp"}, []file{{path: "/client"}}},
		{"fileserver", "/srv", []string{"8080/tcp", "8126/tcp"}, []file{{path: "/fileserver"}, {path: "/srv", folder: true}}},
		{"server", "/", []string{"8000/tcp", "8123/tcp", "8124/tcp"}, []file{{path: "/var", folder: true}, {path: "/var/lib", folder: true},
			{path: "/var/lib/adit", folder: true, uid: 65532, gid: 65532}, {path: "/server"}}},
	} {
		t.Run(test.image, func(t *testing.T) {
			s, err := readStage(strings.NewReader(dockerfile(t, test.image)), map[string]string{"VERSION": "1.2.3", "SHA": "abc"})
			if err != nil {
				t.Fatal(err)
			}
			c := s.config
			health := v1.HealthConfig{Test: []string{"CMD", "/" + test.image, "healthcheck"}, Interval: 15 * time.Second, Timeout: 5 * time.Second,
				StartPeriod: 5 * time.Second, Retries: 3}
			if c.Healthcheck == nil || !slices.Equal(c.Healthcheck.Test, health.Test) || c.Healthcheck.Interval != health.Interval ||
				c.Healthcheck.Timeout != health.Timeout || c.Healthcheck.StartPeriod != health.StartPeriod || c.Healthcheck.Retries != health.Retries {
				t.Errorf("health check %+v", c.Healthcheck)
			}
			if c.User != "65532:65532" || c.WorkingDir != test.workdir || !slices.Equal(c.Entrypoint, []string{"/" + test.image}) {
				t.Errorf("user %q, folder %q, entry point %q", c.User, c.WorkingDir, c.Entrypoint)
			}
			var ports []string
			for port := range c.ExposedPorts {
				ports = append(ports, port)
			}
			if slices.Sort(ports); !slices.Equal(ports, test.ports) {
				t.Errorf("ports %q", ports)
			}
			for label, want := range map[string]string{"title": "adit-" + test.image, "version": "1.2.3", "revision": "abc", "licenses": "Apache-2.0",
				"source": "https://github.com/adit-tunnel/adit", "url": "https://github.com/adit-tunnel/adit",
				"documentation": "https://github.com/adit-tunnel/adit#readme"} {
				if got := c.Labels["org.opencontainers.image."+label]; got != want {
					t.Errorf("label %s is %q", label, got)
				}
			}
			if len(c.Labels["org.opencontainers.image.description"]) < 20 || len(c.Labels) != 8 {
				t.Errorf("labels %q", c.Labels)
			}
			slices.SortFunc(s.files, func(a, b file) int { return strings.Compare(a.path, b.path) })
			slices.SortFunc(test.files, func(a, b file) int { return strings.Compare(a.path, b.path) })
			if !slices.Equal(s.files, test.files) {
				t.Errorf("files %+v", s.files)
			}
		})
	}
}

// What is not understood must not be left out in silence.
func TestReadStageRefuses(t *testing.T) {
	const good = "FROM golang AS build\nFROM scratch\nCOPY --from=build /out/x /x\nENTRYPOINT [\"/x\"]\n"
	if _, err := readStage(strings.NewReader(good), nil); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ more, want string }{
		{"FROM debian\n", "not FROM scratch"},
		{"FROM scratch\n", "no ENTRYPOINT"},
		{"RUN true\n", "RUN: images/oci does not know this instruction"},
		{"ADD x /x\n", "ADD: images/oci does not know this instruction"},
		{"VOLUME /x\n", "VOLUME: images/oci does not know this instruction"},
		{"ENTRYPOINT /x\n", "needs a shell"},
		{"COPY x /x\n", "only COPY --from=build"},
		{"COPY --from=build /out/x /out/y /z/\n", "only COPY --from=build"},
		{"COPY --from=build --chmod=777 /out/x /x\n", "only COPY --from=build"},
		{"COPY --from=build /etc/passwd /etc/passwd\n", "is neither the binary"},
		{"COPY --from=build --chown=me:us /out/state /state\n", "write numbers"},
		{"COPY --from=build /out/x x\n", "is not the absolute path"},
		{"WORKDIR x\n", "is not absolute"},
		{"LABEL a=$VERSION\n", "is not declared by ARG"},
		{"HEALTHCHECK --start-interval=1s CMD [\"/x\"]\n", "--start-interval"},
		{"NONSENSE\n", "unknown instruction"},
	} {
		if _, err := readStage(strings.NewReader(good+test.more), nil); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want %s", test.more, err, test.want)
		}
	}
}

// The Dockerfiles build alike, so that a test of one path of one of them tells of the others.
func TestDockerfilesBuildAlike(t *testing.T) {
	build := func(name string) string {
		before, _, ok := strings.Cut(dockerfile(t, name), "\nFROM scratch")
		if !ok {
			t.Fatalf("%s: no FROM scratch", name)
		}
		_, before, _ = strings.Cut(before, "\n") // the heading says what the image is
		before = strings.Replace(before, "WORKDIR /out/state\n", "", 1)
		return strings.ReplaceAll(before, name, "NAME")
	}
	for _, name := range imageNames[1:] {
		if got, want := build(name), build(imageNames[0]); got != want {
			t.Errorf("the build stages of %s and %s differ:\n%s\n---\n%s", name, imageNames[0], got, want)
		}
	}
}
