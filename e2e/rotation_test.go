//go:build unix

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// secret is a file as Kubernetes mounts a Secret: DIR/token → ..data/token, ..data → a folder that is swapped.
type secret struct {
	dir   string
	count int
}

func newSecret(t testing.TB, content string) *secret {
	t.Helper()
	s := &secret{dir: t.TempDir()}
	s.set(t, content)
	must(t, os.Symlink(filepath.Join("..data", "token"), s.path()))
	return s
}

func (s *secret) path() string { return filepath.Join(s.dir, "token") }

func (s *secret) set(t testing.TB, content string) {
	t.Helper()
	s.count++
	name := fmt.Sprintf("..%d", s.count)
	must(t, os.Mkdir(filepath.Join(s.dir, name), 0o700))
	must(t, os.WriteFile(filepath.Join(s.dir, name, "token"), []byte(content), 0o600))
	must(t, os.Symlink(name, filepath.Join(s.dir, "..tmp")))
	must(t, os.Rename(filepath.Join(s.dir, "..tmp"), filepath.Join(s.dir, "..data")))
}

// TestTokenRotation changes the token of a running server and its client without a gap.
func TestTokenRotation(t *testing.T) {
	t.Parallel()
	first, second := newToken(), newToken()
	file := newSecret(t, first+"\n")
	s := startServer(t, "TOKEN_FILE="+file.path())
	ours := newSecret(t, first)
	c := connect(t, s, "http://"+says(t, "hello"), "TOKEN=", "TOKEN_FILE="+ours.path())
	url := "https://" + s.control + "/status"
	check := func(token string, want int) {
		t.Helper()
		if code, body, err := get(url, "", "Authorization", "Bearer "+token); err != nil || code != want {
			t.Errorf("got %d %s %v, want %d", code, body, err, want)
		}
	}
	check(first, 200)
	check(second, 401)

	file.set(t, "# the new one first\n"+second+"\n"+first+"\n")
	s.await("took up changed tokens", "tokens", "2")
	check(first, 200)
	check(second, 200)

	// A file that somebody is still at work on changes nothing.
	file.set(t, "short\n")
	ours.set(t, second)
	s.await("the new tokens are not valid, the old ones stay", "error", "token 1 has 5 bytes")
	check(first, 200)
	c.await("took up a changed token")

	file.set(t, second)
	s.await("took up changed tokens", "tokens", "1")
	check(first, 401)
	check(second, 200)
	must(t, answers(s.url("/"), "hello")) // the session does not mind
	c.never("connection lost")

	// It reconnects with the new token, which is now the only one.
	s.kill()
	again := startServer(t, "TOKEN_FILE="+file.path(), "CONTROL_PORT="+port(s.control))
	again.await("client connected")
	must(t, answers(again.url("/"), "hello"))
}
