package files

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// old is the modification time of what tree writes: long ago, so that ETags are strong.
var old = time.Date(2024, 2, 29, 8, 1, 2, 345678000, time.UTC)

// tree writes files, given as path and content, below a new folder; a path that ends in a slash is a folder, a content
// that begins with "-> " makes a symbolic link.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		place := filepath.Join(dir, filepath.FromSlash(name))
		must(t, os.MkdirAll(filepath.Dir(place), 0o755))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			must(t, os.Symlink(target, place))
			continue
		}
		if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(place, 0o755))
			continue
		}
		must(t, os.WriteFile(place, []byte(content), 0o644))
		must(t, os.Chtimes(place, old, old))
	}
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve returns the handler for a folder.
func serve(t testing.TB, dir string, opts Options) http.Handler {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return New(root, opts)
}

// start serves a handler over TCP and returns its address.
func start(t testing.TB, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

type answer struct {
	code   int
	header http.Header
	body   string
}

// ask sends a request whose target is target byte by byte, which net/http's client would not do, and header lines.
func ask(t testing.TB, addr, method, target string, headers ...string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: files.test\r\nConnection: close\r\n", method, target)
	for _, h := range headers {
		fmt.Fprintf(conn, "%s\r\n", h)
	}
	io.WriteString(conn, "\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	must(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	return answer{res.StatusCode, res.Header, string(body)}
}

func (a answer) expect(t testing.TB, code int, body string) {
	t.Helper()
	if a.code != code || a.body != body {
		t.Errorf("got %d %q, want %d %q", a.code, a.body, code, body)
	}
}

func (a answer) expectHeader(t testing.TB, name, want string) {
	t.Helper()
	if got := strings.Join(a.header.Values(name), " | "); got != want {
		t.Errorf("%s: got %q, want %q", name, got, want)
	}
}
