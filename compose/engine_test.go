package compose

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// imageTag tells the images of this run from those of others.
var imageTag = fmt.Sprintf("test-%d", os.Getpid())

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

// up starts an example in a copy of this folder, with ports that are free, and
// takes it down when the test ends.
func up(t *testing.T, example string, env ...string) *stack {
	t.Helper()
	if out, err := new(stack).command(t.Context(), "version").CombinedOutput(); err != nil {
		t.Skipf("Compose is absent: %v: %s", err, lastLine(out))
	}
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	s := &stack{
		dir:     filepath.Join(root, example),
		project: fmt.Sprintf("adit-%s-%d", example, os.Getpid()),
		env:     append(os.Environ(), append(env, "ADIT_TAG="+imageTag)...),
	}
	if err := os.WriteFile(filepath.Join(s.dir, "token"), []byte(token+"\n"), 0o644); err != nil {
		t.Fatal(err)
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
	s.compose(t, "up", "--detach", "--no-build")
	return s
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

// freeAddr returns a loopback address with a port that is free now.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
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
