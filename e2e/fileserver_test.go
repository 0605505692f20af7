//go:build unix

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFileserver visits files through a tunnel: all three programs at once.
func TestFileserver(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	outside := write(t, "secret.txt", "not to be seen")
	for name, content := range map[string]string{
		"index.html": "<!doctype html><title>front page</title>", "a b.txt": "0123456789", ".env": "hidden", "sub/page.md": "# page",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
	}
	must(t, os.Symlink(outside, filepath.Join(root, "link.txt")))
	large, err := os.Create(filepath.Join(root, "large.bin"))
	must(t, err)
	_, err = io.Copy(large, testData(32<<20))
	must(t, err)
	must(t, large.Close())

	user := "somebody:" + newToken()
	files := start(t, "fileserver", environment("WEBROOT="+root, "BROWSE=true", "BASIC_AUTH="+user)...)
	tun := newTunnel(t, "files.test=http://"+files.addr("data plane"))
	visit := func(path string, args ...string) reply {
		t.Helper()
		return curl(t, append([]string{"--path-as-is", "-u", user, "-H", "Host: files.test", tun.url(path)}, args...)...)
	}
	r := visit("/")
	r.want(t, 200, "front page")
	if got := r.header.Get("Content-Type"); got != "text/html; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	curl(t, "-H", "Host: files.test", tun.url("/")).want(t, 401, "unauthorized")
	visit("/sub/").want(t, 200, "page.md")
	visit("/a%20b.txt").want(t, 200, "0123456789")
	visit("/a%20b.txt", "-r", "2-4").want(t, 206, "234")
	visit("/a%20b.txt", "-r", "20-").want(t, 416, "")
	tag := visit("/a%20b.txt", "-I").header.Get("Etag")
	visit("/a%20b.txt", "-H", "If-None-Match: "+tag).want(t, 304, "")
	for _, path := range []string{"/missing", "/.env", "/link.txt", "/../../../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/sub/..%2f..%2fetc/passwd"} {
		r := visit(path)
		if r.code != 404 && r.code != 400 || strings.Contains(r.body, "root:") || strings.Contains(r.body, "not to be seen") {
			t.Errorf("%s: got %d %s", path, r.code, r.body)
		}
	}
	r = visit("/missing")
	r.want(t, 404, "not found")
	if got := r.header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("Content-Type of a missing file %q", got)
	}

	hash := sha256.New()
	r = curlWith(t, nil, hash, "-u", user, "-H", "Host: files.test", tun.url("/large.bin"))
	if got := hex.EncodeToString(hash.Sum(nil)); r.code != 200 || got != hashOf(testData(32<<20)) {
		t.Errorf("large.bin: %+v %s", r, got)
	}
	must(t, answers("http://"+files.addr("metrics")+"/metrics", `adit_fileserver_requests_total{code="206",method="GET"} 1`))
}
