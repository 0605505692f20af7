package compose

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// thisRun tells the containers, networks and images of this run from those of others.
var thisRun = strings.ToLower(rand.Text()[:10])

var imageTag = "test-" + thisRun

// needEngine skips the test where there is no container engine.
func needEngine(t *testing.T) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "docker", "info").CombinedOutput(); err != nil {
		t.Skipf("no container engine: docker info: %v: %s", err, lastLine(out))
	}
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is absent, which builds the images")
	}
}

func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

var imagesBuilt struct {
	once sync.Once
	out  []byte
	err  error
}

// needImages builds the images as a user does, under a tag of their own.
func needImages(t *testing.T) {
	t.Helper()
	needEngine(t)
	imagesBuilt.once.Do(func() {
		cmd := exec.CommandContext(context.Background(), "make", "-C", "..", "images", "IMAGE_TAG="+imageTag)
		cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
		imagesBuilt.out, imagesBuilt.err = cmd.CombinedOutput()
	})
	if imagesBuilt.err != nil {
		t.Fatalf("make images: %v\n%s", imagesBuilt.err, imagesBuilt.out)
	}
}

func removeImages() {
	if imagesBuilt.out == nil {
		return
	}
	for _, image := range images {
		exec.Command("docker", "rmi", "-f", "adit-"+image+":"+imageTag).Run()
	}
	os.RemoveAll(filepath.Join("../build/images", imageTag))
}

// makeImage makes an image from scratch with these files, by where they are in it, and the rest of a Dockerfile.
// It is gone when the test ends.
func makeImage(t *testing.T, name string, files map[string]string, dockerfile ...string) string {
	t.Helper()
	context := t.TempDir()
	for inside, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(context, "root", inside)
		if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(context, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(append([]string{"FROM scratch", "COPY root /"}, dockerfile...), "\n") + "\n"
	if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	image := "adit-test-" + name + ":" + imageTag
	docker(t, "build", "--tag", image, context)
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", image).Run() })
	return image
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// stack is one example, running.
type stack struct {
	dir, project string
	env          []string
}

var stacks atomic.Int64

// up starts an example, or of it what is named in services, in a copy of this folder, and takes it down when the test
// ends.
func up(t *testing.T, example string, services []string, env ...string) *stack {
	t.Helper()
	needImages(t)
	if out, err := new(stack).command(t.Context(), "version").CombinedOutput(); err != nil {
		t.Skipf("Compose is absent: %v: %s", err, lastLine(out))
	}
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	s := &stack{
		dir:     filepath.Join(root, example),
		project: fmt.Sprintf("adit-%s-%s-%d", example, thisRun, stacks.Add(1)),
		env:     append(os.Environ(), append(env, "ADIT_TAG="+imageTag)...),
	}
	for file, content := range map[string]string{
		"token": token, "grafana-password": token, "tunnel/token": token, "site/basic_auth": "me:" + token,
	} {
		s.write(t, file, content)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			if logs, err := s.command(ctx, "logs", "--no-color", "--tail", "40").CombinedOutput(); err == nil {
				t.Logf("logs:\n%s", logs)
			}
		}
		if out, err := s.command(ctx, "down", "--volumes", "--timeout", "5").CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	s.compose(t, append([]string{"up", "--detach", "--no-build"}, services...)...)
	return s
}

// write replaces a file of the example, as mv does.
func (s *stack) write(t *testing.T, file, content string) {
	t.Helper()
	path := filepath.Join(s.dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(content+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (s *stack) command(ctx context.Context, args ...string) *exec.Cmd {
	program := []string{"docker-compose"}
	if _, err := exec.LookPath(program[0]); err != nil {
		program = []string{"docker", "compose"}
	}
	cmd := exec.CommandContext(ctx, program[0], append(program[1:], append([]string{"--project-name", s.project}, args...)...)...)
	cmd.Dir, cmd.Env = s.dir, s.env
	return cmd
}

// compose runs a command of docker-compose and returns what it printed.
func (s *stack) compose(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.command(t.Context(), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker-compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// container returns the id of the container of a service.
func (s *stack) container(t *testing.T, service string) string {
	t.Helper()
	id := strings.TrimSpace(s.compose(t, "ps", "--quiet", service))
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(id) {
		t.Fatalf("no container of %s: %q", service, id)
	}
	return id
}

// healthy waits until the engine says so of each service.
func (s *stack) healthy(t *testing.T, services ...string) {
	t.Helper()
	for _, service := range services {
		id := s.container(t, service)
		eventually(t, 60*time.Second, func() error {
			if health := docker(t, "inspect", "--format={{.State.Health.Status}}", id); health != "healthy" {
				return fmt.Errorf("%s is %s: %s", service, health, docker(t, "inspect", "--format={{json .State.Health.Log}}", id))
			}
			return nil
		})
	}
}

// stop stops all services, each of which must end well.
func (s *stack) stop(t *testing.T, services ...string) {
	t.Helper()
	ids := map[string]string{}
	for _, service := range services {
		ids[service] = s.container(t, service)
	}
	s.compose(t, "stop")
	for service, id := range ids {
		if code := docker(t, "inspect", "--format={{.State.ExitCode}}", id); code != "0" {
			t.Errorf("%s stopped with exit code %s", service, code)
		}
	}
}

// crash ends the process of a container from outside, as the kernel does when memory runs out, and returns when it is
// gone: the engine starts it again. Where that is not allowed the engine does both.
func crash(t *testing.T, container string) {
	t.Helper()
	state := func() string { return docker(t, "inspect", "--format={{.State.Pid}}", container) }
	before := state()
	pid, err := strconv.Atoi(before)
	if err != nil || pid < 2 {
		t.Fatalf("%s does not run: process %q", container, before)
	}
	process, err := os.FindProcess(pid)
	if err != nil || process.Kill() != nil {
		docker(t, "kill", container)
		docker(t, "start", container)
		return
	}
	eventually(t, 10*time.Second, func() error {
		if state() == before {
			return fmt.Errorf("%s lives on", container)
		}
		return nil
	})
}

// get returns the status and body of an answer.
func get(ctx context.Context, client *http.Client, url, bearer string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// shows returns what fails unless the page that all examples serve is there.
func shows(t *testing.T, url string, credentials ...string) func() error {
	t.Helper()
	want, err := os.ReadFile("quickstart/webroot/hello.txt")
	if err != nil {
		t.Fatal(err)
	}
	// A connection of its own for each, as visitors have.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if len(credentials) > 0 {
		url = strings.Replace(url, "://", "://"+credentials[0]+"@", 1)
	}
	return func() error {
		code, body, err := get(t.Context(), client, url+"/hello.txt", "")
		if err == nil && (code != http.StatusOK || body != string(want)) {
			err = fmt.Errorf("%d %q", code, body)
		}
		return err
	}
}

// without runs do while visits go on, not one of which may fail.
func without(t *testing.T, visit func() error, do func()) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var visitors sync.WaitGroup
	var visits atomic.Int64
	for range 3 {
		visitors.Go(func() {
			for ctx.Err() == nil {
				if err := visit(); err != nil && !t.Failed() {
					t.Errorf("visit %d: %v", visits.Load(), err)
				}
				visits.Add(1)
			}
		})
	}
	defer func() {
		stop()
		visitors.Wait()
		t.Logf("%d visits", visits.Load())
	}()
	do()
}

// eventually waits until condition returns nil.
func eventually(t *testing.T, limit time.Duration, condition func() error) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %v", limit, err)
		}
	}
}
