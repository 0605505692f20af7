//go:build unix

package e2e

import (
	"bytes"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// gitUser runs git as somebody without a configuration of their own.
type gitUser struct{ path, home string }

func newGitUser(t testing.TB) gitUser {
	t.Helper()
	return gitUser{needProgram(t, "git", "git"), t.TempDir()}
}

func (g gitUser) in(t testing.TB, dir string, words ...string) string {
	t.Helper()
	env := []string{"HOME=" + g.home, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=somebody", "GIT_AUTHOR_EMAIL=somebody@example.com", "GIT_COMMITTER_NAME=somebody", "GIT_COMMITTER_EMAIL=somebody@example.com"}
	return strings.TrimSpace(visitor{dir: dir, env: env}.run(t, slices.Concat([]string{g.path}, words)...))
}

// newRepository makes a bare repository with some commits in a folder of its own, and returns the folder.
func (g gitUser) newRepository(t testing.TB) string {
	t.Helper()
	root, work := t.TempDir(), newTree(t)
	g.in(t, work, "init", "-q", "-b", "main")
	for _, dir := range []string{"file*", "a/file*", "a/b"} {
		g.in(t, work, "add", dir)
		g.in(t, work, "commit", "-q", "-m", "add "+dir)
	}
	g.in(t, root, "clone", "-q", "--bare", work, "repo.git")
	g.in(t, filepath.Join(root, "repo.git"), "update-server-info")
	return root
}

// clone clones, checks every object, and returns the folder.
func (g gitUser) clone(t testing.TB, url string) string {
	t.Helper()
	into := filepath.Join(t.TempDir(), "clone")
	g.in(t, "/", "clone", "-q", url, into)
	g.in(t, into, "fsck", "--full", "--strict")
	return into
}

// state names what a clone has, below .git excepted.
func (g gitUser) state(t testing.TB, dir string) string {
	t.Helper()
	g.in(t, dir, "diff", "--exit-code", "HEAD")
	return g.in(t, dir, "log", "--format=%H %T %s")
}

// TestGit clones and pushes over smart HTTP, served by git's own CGI program.
func TestGit(t *testing.T) {
	t.Parallel()
	git := newGitUser(t)
	root := git.newRepository(t)
	repo := filepath.Join(root, "repo.git")
	git.in(t, repo, "config", "http.receivepack", "true")
	backend := &cgi.Handler{
		Path: git.path, Args: []string{"http-backend"}, Dir: root, Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "HOME=" + git.home},
	}
	private := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // CGI knows no chunks
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		backend.ServeHTTP(w, r)
	})
	tun := newTunnel(t, "http://"+private)
	direct, through := git.clone(t, "http://"+private+"/repo.git"), git.clone(t, tun.url("/repo.git"))
	if got, want := git.state(t, through), git.state(t, direct); got != want {
		t.Errorf("the clone has\n%s\nwant\n%s", got, want)
	}

	file, hash := testFile(t, 3<<20) // more than git sends with a length
	content, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(through, "new.bin"), content, 0o600))
	git.in(t, through, "add", "new.bin")
	git.in(t, through, "commit", "-q", "-m", "add a large file")
	git.in(t, through, "push", "-q", "origin", "main")
	if got, want := git.in(t, repo, "rev-parse", "main"), git.in(t, through, "rev-parse", "main"); got != want {
		t.Errorf("the repository has %s, want what was pushed: %s", got, want)
	}
	git.in(t, direct, "pull", "-q", "--ff-only")
	if got := hashOfFile(t, filepath.Join(direct, "new.bin")); got != hash {
		t.Errorf("the pushed file has hash %s, want %s", got, hash)
	}
}

// TestGitFileserver clones from the files of a repository, which the fileserver serves.
func TestGitFileserver(t *testing.T) {
	t.Parallel()
	git := newGitUser(t)
	root := git.newRepository(t)
	files := start(t, "fileserver", environment("WEBROOT="+root)...)
	tun := newTunnel(t, "http://"+files.addr("data plane"))
	want := git.in(t, filepath.Join(root, "repo.git"), "log", "--format=%H %T %s", "main")
	for _, base := range []string{"http://" + files.addr("data plane"), tun.url("")} {
		if got := git.state(t, git.clone(t, base+"/repo.git")); got != want {
			t.Errorf("from %s: the clone has\n%s\nwant\n%s", base, got, want)
		}
	}
}
