//go:build unix

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
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

// visits asks for a host again and again until the function that it returns is called, which says how often it was
// answered. Every answer must be the one that is wanted.
func visits(t testing.TB, s *server, host, want string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		n := 0
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; n++ {
			<-tick.C
			if code, body, err := get(s.url("/"), host); err != nil || code != 200 || body != want {
				t.Errorf("visit %d of %s: %d %q %v", n, host, code, body, err)
				break
			}
		}
		<-ctx.Done()
		done <- n
	}()
	return func() int {
		cancel()
		return <-done
	}
}

// TestTokenRotationUnderLoad has visitors all the while: nobody whose token is valid is interrupted.
func TestTokenRotationUnderLoad(t *testing.T) {
	t.Parallel()
	first, second := newToken(), newToken()
	file, theirs := newSecret(t, first), newSecret(t, first)
	s := startServer(t, "TOKEN_FILE="+file.path())
	a := connect(t, s, "a.test=http://"+says(t, "a"), "TOKEN=", "TOKEN_FILE="+theirs.path())
	b := connect(t, s, "b.test=http://"+says(t, "b"), "TOKEN=", "TOKEN_FILE="+file.path()) // shares the server's file
	stops := []func() int{visits(t, s, "a.test", "a"), visits(t, s, "b.test", "b")}

	start := time.Now()
	file.set(t, second+"\n"+first)
	s.await("took up changed tokens", "tokens", "2")
	t.Logf("the server took up the file after %s", time.Since(start).Round(time.Millisecond))
	b.await("took up a changed token")
	s.await("client took over from its older connection", "client_id", b.await("connected").field("client_id"))
	theirs.set(t, second)
	a.await("took up a changed token")
	s.await("client took over from its older connection", "client_id", a.await("connected").field("client_id"))
	file.set(t, second)
	s.await("took up changed tokens", "tokens", "1")
	must(t, answers("https://"+s.control+"/status", "", "Authorization", "Bearer "+second)) // after the recheck
	s.never("client may not stay")
	for _, stop := range stops {
		if n := stop(); n < 10 {
			t.Errorf("only %d visits", n)
		}
	}
}

// TestTokenRemoved takes the token of a client away, and not that of another.
func TestTokenRemoved(t *testing.T) {
	t.Parallel()
	first, second := newToken(), newToken()
	file := newSecret(t, first+","+second)
	s := startServer(t, "TOKEN_FILE="+file.path())
	hold := make(chan struct{})
	slow := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/slow" {
			return
		}
		fmt.Fprint(w, "begun, ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-hold:
		case <-r.Context().Done():
		}
		fmt.Fprint(w, "ended")
	})
	gone := connect(t, s, "a.test=http://"+slow, "TOKEN="+first)
	stays := connect(t, s, "b.test=http://"+says(t, "b"), "TOKEN="+second)
	req, err := http.NewRequest(http.MethodGet, s.url("/slow"), nil)
	must(t, err)
	req.Host = "a.test"
	under, err := http.DefaultClient.Do(req)
	must(t, err)
	defer under.Body.Close()
	stop := visits(t, s, "b.test", "b")

	file.set(t, second)
	const reason = "the token of this connection is no longer one of the server's: set TOKEN on the client to one that is"
	s.await("client may not stay", "reason", reason, "streams", "1")
	gone.await("the server does not let this connection stay", "level", "warn", "reason", reason)
	gone.await("cannot connect", "level", "error", "error", "TOKEN")
	eventually(t, func() error {
		if code, _, err := get(s.url("/"), "a.test"); err != nil || code == 200 {
			return fmt.Errorf("new visitors get %d %v", code, err)
		}
		return nil
	})
	close(hold) // what was under way ends as it would have
	if body, err := io.ReadAll(under.Body); err != nil || string(body) != "begun, ended" {
		t.Errorf("got %q %v", body, err)
	}
	s.await("client disconnected", "client_id", gone.await("connected").field("client_id"))
	if n := stop(); n < 10 {
		t.Errorf("only %d visits", n)
	}
	stays.never("the server does not let this connection stay")
}
