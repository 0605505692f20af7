package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func site(t testing.TB) string {
	return tree(t, map[string]string{
		"index.html":                "<h1>home</h1>",
		"a.txt":                     "0123456789",
		"empty":                     "",
		"with space & ü.txt":        "odd",
		"100%25.txt":                "percent",
		"docs/index.html":           "docs",
		"docs/page.html":            "page",
		"bare/x.txt":                "x",
		"evil.test/x.txt":           "x",
		"java:script/x.txt":         "x",
		".env":                      "SECRET=1",
		".git/config":               "secret",
		"docs/.htpasswd":            "secret",
		"docs/.well-known/x":        "misplaced",
		".well-known/security.txt":  "mail us",
		".well-known/.hidden":       "secret",
		"folderindex/index.html/":   "",
		"folderindex/other.txt":     "other",
		"page.html/nested.txt":      "nested",
		"configmap/..2026_1/app.js": "mounted",
		"configmap/..data":          "-> ..2026_1",
		"configmap/app.js":          "-> ..data/app.js",
	})
}

func TestServe(t *testing.T) {
	dir := site(t)
	addr := start(t, serve(t, dir, Options{}))
	none := ": the folder has no index.html and folders are not listed (BROWSE=false)"
	for _, c := range []struct {
		name, target string
		code         int
		body         string
	}{
		{"file", "/a.txt", 200, "0123456789"},
		{"empty file", "/empty", 200, ""},
		{"query is ignored", "/a.txt?v=../../x", 200, "0123456789"},
		{"absolute form", "http://files.test/a.txt", 200, "0123456789"},
		{"absolute form without a path", "http://files.test", 200, "<h1>home</h1>"},
		{"encoded name", "/with%20space%20&%20%C3%BC.txt", 200, "odd"},
		{"needlessly encoded name", "/%61%2Etxt", 200, "0123456789"},
		{"percent sign", "/100%2525.txt", 200, "percent"},
		{"index", "/", 200, "<h1>home</h1>"},
		{"index by name", "/index.html", 200, "<h1>home</h1>"},
		{"index of a folder", "/docs/", 200, "docs"},
		{"doubled slashes", "//docs///page.html", 200, "page"},
		{"well-known", "/.well-known/security.txt", 200, "mail us"},
		{"mounted by links", "/configmap/app.js", 200, "mounted"},
		{"no index", "/bare/", 404, `not found: "/bare/"` + none + "\n"},
		{"index is a folder", "/folderindex/", 404, `not found: "/folderindex/"` + none + "\n"},
		{"missing", "/nope.txt", 404, "not found: \"/nope.txt\"\n"},
		{"missing, to be quoted", "/%3Cscript%3E%0a%e2%80%ae", 404, `not found: "/<script>\n\u202e"` + "\n"},
		{"missing, below a file", "/a.txt/b", 404, "not found: \"/a.txt/b\"\n"},
		{"file with a slash", "/a.txt/", 404, "not found: \"/a.txt/\": it is a file: leave out the last slash\n"},
		{"name too long", "/" + strings.Repeat("n", 300), 404,
			`not found: "/` + strings.Repeat("n", 199) + "\"…\n"},
		{"dotfile", "/.env", 404, "not found: \"/.env\"\n"},
		{"dotfile, encoded", "/%2eenv", 404, "not found: \"/.env\"\n"},
		{"below a dot folder", "/.git/config", 404, "not found: \"/.git/config\"\n"},
		{"dotfile below", "/docs/.htpasswd", 404, "not found: \"/docs/.htpasswd\"\n"},
		{"well-known elsewhere", "/docs/.well-known/x", 404, "not found: \"/docs/.well-known/x\"\n"},
		{"dotfile in well-known", "/.well-known/.hidden", 404, "not found: \"/.well-known/.hidden\"\n"},
		{"mount's folder", "/configmap/..data/app.js", 404, "not found: \"/configmap/..data/app.js\"\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ask(t, addr, "GET", c.target)
			a.expect(t, c.code, c.body)
			a.expectHeader(t, "X-Content-Type-Options", "nosniff")
			a.expectHeader(t, "Content-Length", fmt.Sprint(len(c.body)))
			if c.code != 200 {
				a.expectHeader(t, "Content-Type", "text/plain; charset=utf-8")
			}
			if strings.Contains(a.body, dir) {
				t.Error("the answer tells where the root is")
			}
			head := ask(t, addr, "HEAD", c.target)
			head.expect(t, c.code, "")
			head.expectHeader(t, "Content-Type", a.header.Get("Content-Type"))
			head.expectHeader(t, "Content-Length", a.header.Get("Content-Length"))
		})
	}
}

func TestMethods(t *testing.T) {
	addr := start(t, serve(t, site(t), Options{Browse: true}))
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get"} {
		t.Run(method, func(t *testing.T) {
			a := ask(t, addr, method, "/a.txt")
			a.expect(t, 405, "method not allowed: files are read with GET or HEAD\n")
			a.expectHeader(t, "Allow", "GET, HEAD")
		})
	}
}

// TestRedirect also holds that no address makes the redirect lead to another host: what follows Location begins with
// "./", and the one slash in it is its last character.
func TestRedirect(t *testing.T) {
	addr := start(t, serve(t, site(t), Options{}))
	for _, c := range []struct{ name, target, location string }{
		{"folder", "/docs", "./docs/"},
		{"query", "/docs?a=b&c", "./docs/?a=b&c"},
		{"looks like a host", "//evil.test", "./evil.test/"},
		{"looks like a host, more slashes", "///evil.test", "./evil.test/"},
		{"looks like a scheme", "/java:script", "./java:script/"},
		{"below the well-known folder", "/.well-known", "./.well-known/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ask(t, addr, "GET", c.target)
			if a.code != 301 {
				t.Errorf("got %d, want 301", a.code)
			}
			a.expectHeader(t, "Location", c.location)
		})
	}
}

// TestOutside goes for a file beside the root, and for hidden files, by every way known.
func TestOutside(t *testing.T) {
	outer := tree(t, map[string]string{
		"canary.txt":         "canary",
		"folder/canary.txt":  "canary",
		"root/in.txt":        "in",
		"root/sub/in.txt":    "in",
		"root/.secret":       "canary",
		"root/link":          "-> ../canary.txt",
		"root/linkdir":       "-> ../folder",
		"root/sub/up":        "-> ../../canary.txt",
		"root/sub/updir":     "-> ../..",
		"root/chain":         "-> link",
		"root/loop":          "-> loop",
		"root/dangling":      "-> nowhere",
		"root/inside":        "-> sub/in.txt",
		"root/sub/insideup":  "-> ../in.txt",
		"root/insidedir":     "-> sub",
		"root/insidedot":     "-> ./sub/../in.txt",
		"root/..\\canary":    "in",
		"root/sub/index.txt": "in",
	})
	must(t, os.Symlink(filepath.Join(outer, "canary.txt"), filepath.Join(outer, "root", "absolute")))
	must(t, os.Symlink("/", filepath.Join(outer, "root", "slash")))
	must(t, os.Symlink("/proc/self/root", filepath.Join(outer, "root", "magic")))
	addr := start(t, serve(t, filepath.Join(outer, "root"), Options{Browse: true}))
	abs := strings.TrimPrefix(outer, "/")
	for _, target := range []string{
		"/../canary.txt", "/sub/../../canary.txt", "/./../canary.txt", "/..", "/../", "/sub/..", "/sub/.", "/.",
		"/%2e%2e/canary.txt", "/%2e./canary.txt", "/.%2E/canary.txt", "/sub/%2e%2e/%2e%2e/canary.txt",
		"/%2e%2e%2fcanary.txt", "/..%2fcanary.txt", "/sub%2fin.txt", "/%2fetc%2fpasswd", "/sub%2f..%2f..%2fcanary.txt",
		"/..%5ccanary.txt", "/..\\canary.txt", "/%5c..%5ccanary.txt", "/sub\\..\\..\\canary.txt", "/sub%5cin.txt",
		"/%252e%252e/canary.txt", "/%252e%252e%252fcanary.txt", "/%25252e%25252e/canary.txt",
		"/in.txt%00", "/%00", "/%00/../canary.txt", "/in.txt%00.html", "/../canary.txt%00in.txt",
		"/..;/canary.txt", "/..%00/canary.txt", "/....//canary.txt", "/...", "/..%c0%afcanary.txt",
		"/%c0%ae%c0%ae/canary.txt", "/%e0%80%ae%e0%80%ae/canary.txt", "/%uff0e%uff0e/canary.txt",
		"/．．/canary.txt", "//../canary.txt", "///../../canary.txt", "//" + abs + "/canary.txt", "/" + abs + "/canary.txt",
		"/.secret", "/%2esecret", "/sub/../.secret", "//.secret", "/insidedir/../.secret",
		"/link", "/linkdir/canary.txt", "/linkdir/", "/linkdir", "/sub/up", "/sub/updir/canary.txt", "/sub/updir/",
		"/chain", "/absolute", "/slash/etc/passwd", "/slash/", "/magic/etc/passwd", "/magic", "/loop", "/loop/", "/dangling",
		"/link/", "/C:/canary.txt", "/CON", "/in.txt::$DATA",
	} {
		t.Run(target, func(t *testing.T) {
			for _, method := range []string{"GET", "HEAD"} {
				a := ask(t, addr, method, target)
				if a.code != 404 && a.code != 400 {
					t.Errorf("%s: got %d %q, want 404 or 400", method, a.code, a.body)
				}
			}
		})
	}
	for _, target := range []string{"/inside", "/sub/insideup", "/insidedir/in.txt", "/insidedot"} {
		t.Run("allowed "+target, func(t *testing.T) { ask(t, addr, "GET", target).expect(t, 200, "in") })
	}
}

func TestConditional(t *testing.T) {
	addr := start(t, serve(t, site(t), Options{}))
	first := ask(t, addr, "GET", "/a.txt")
	tag := first.header.Get("ETag")
	if !strings.HasPrefix(tag, `"`) {
		t.Errorf("ETag %s: want a strong one", tag)
	}
	first.expectHeader(t, "Last-Modified", "Thu, 29 Feb 2024 08:01:02 GMT")
	first.expectHeader(t, "Accept-Ranges", "bytes")
	for _, c := range []struct {
		name   string
		header []string
		code   int
		body   string
	}{
		{"same tag", []string{"If-None-Match: " + tag}, 304, ""},
		{"same tag, weak, in a list", []string{`If-None-Match: "x", W/` + tag}, 304, ""},
		{"other tag", []string{`If-None-Match: "x"`}, 200, "0123456789"},
		{"not modified", []string{"If-Modified-Since: Thu, 29 Feb 2024 08:01:02 GMT"}, 304, ""},
		{"modified", []string{"If-Modified-Since: Thu, 29 Feb 2024 08:01:01 GMT"}, 200, "0123456789"},
		{"precondition holds", []string{"If-Match: " + tag}, 200, "0123456789"},
		{"precondition fails", []string{`If-Match: "x"`}, 412, ""},
		{"resumed", []string{"Range: bytes=5-", "If-Range: " + tag}, 206, "56789"},
		{"resumed after a change", []string{"Range: bytes=5-", `If-Range: "x"`}, 200, "0123456789"},
		{"resumed by date", []string{"Range: bytes=5-", "If-Range: Thu, 29 Feb 2024 08:01:02 GMT"}, 206, "56789"},
	} {
		t.Run(c.name, func(t *testing.T) { ask(t, addr, "GET", "/a.txt", c.header...).expect(t, c.code, c.body) })
	}
}

func TestETag(t *testing.T) {
	now := old.Add(time.Hour)
	for _, c := range []struct {
		name     string
		modified time.Time
		size     int64
		strong   bool
	}{
		{"old", old, 10, true},
		{"just settled", now.Add(-settled), 10, true},
		{"fresh", now.Add(-time.Second), 10, false},
		{"from the future", now.Add(time.Hour), 10, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := etag(c.modified, c.size, now); strings.HasPrefix(got, "W/") == c.strong {
				t.Errorf("got %s, strong %v", got, c.strong)
			}
		})
	}
	if etag(old, 10, now) == etag(old, 11, now) || etag(old, 10, now) == etag(old.Add(1), 10, now) {
		t.Error("tags of different files are the same")
	}
}

// TestTimeless holds that the times that reproducible builds set make no validators.
func TestTimeless(t *testing.T) {
	dir := site(t)
	addr := start(t, serve(t, dir, Options{}))
	for _, seconds := range []int64{0, 1} {
		must(t, os.Chtimes(filepath.Join(dir, "a.txt"), time.Unix(seconds, 0), time.Unix(seconds, 0)))
		a := ask(t, addr, "GET", "/a.txt", "If-Modified-Since: Thu, 29 Feb 2024 08:01:02 GMT")
		a.expect(t, 200, "0123456789")
		a.expectHeader(t, "ETag", "")
		a.expectHeader(t, "Last-Modified", "")
	}
}

func TestRanges(t *testing.T) {
	addr := start(t, serve(t, site(t), Options{}))
	for _, c := range []struct {
		name, header string
		code         int
		body, rng    string
	}{
		{"first", "bytes=0-0", 206, "0", "bytes 0-0/10"},
		{"middle", "bytes=2-4", 206, "234", "bytes 2-4/10"},
		{"open", "bytes=7-", 206, "789", "bytes 7-9/10"},
		{"suffix", "bytes=-2", 206, "89", "bytes 8-9/10"},
		{"past the end", "bytes=8-99", 206, "89", "bytes 8-9/10"},
		{"suffix longer than the file", "bytes=-99", 206, "0123456789", "bytes 0-9/10"},
		{"not there", "bytes=10-", 416, "invalid range: failed to overlap\n", "bytes */10"},
		{"backwards", "bytes=4-2", 416, "invalid range\n", ""},
		{"other unit", "lines=1-2", 416, "invalid range\n", ""},
		{"too many", "bytes=0-0" + strings.Repeat(",2-2", maxRanges), 200, "0123456789", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ask(t, addr, "GET", "/a.txt", "Range: "+c.header)
			a.expect(t, c.code, c.body)
			a.expectHeader(t, "Content-Range", c.rng)
			a.expectHeader(t, "X-Content-Type-Options", "nosniff")
		})
	}
	t.Run("several", func(t *testing.T) {
		a := ask(t, addr, "GET", "/a.txt", "Range: bytes=0-1,8-9")
		kind, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
		if err != nil || kind != "multipart/byteranges" || a.code != 206 {
			t.Fatalf("got %d %s (%v)", a.code, kind, err)
		}
		parts := multipart.NewReader(strings.NewReader(a.body), params["boundary"])
		for _, want := range []string{"01", "89"} {
			p, err := parts.NextPart()
			must(t, err)
			if got, _ := io.ReadAll(p); string(got) != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want int
	}{
		{"missing", fs.ErrNotExist, 404},
		{"special", errSpecial, 404},
		{"outside", errors.New("path escapes from parent"), 404},
		{"permission", &fs.PathError{Op: "openat", Path: "x", Err: syscall.EACCES}, 403},
		{"descriptors", &fs.PathError{Op: "openat", Path: "x", Err: syscall.EMFILE}, 503},
		{"disk", &fs.PathError{Op: "read", Path: "x", Err: syscall.EIO}, 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := status(c.err); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// TestGone holds that a folder that was taken away is answered and not a crash.
func TestGone(t *testing.T) {
	dir := site(t)
	root, err := os.OpenRoot(dir)
	must(t, err)
	addr := start(t, New(root, Options{Browse: true}))
	must(t, os.RemoveAll(dir))
	ask(t, addr, "GET", "/a.txt").expect(t, http.StatusNotFound, "not found: \"/a.txt\"\n")
	must(t, root.Close())
	if a := ask(t, addr, "GET", "/a.txt"); a.code != http.StatusInternalServerError {
		t.Errorf("closed root: got %d, want 500", a.code)
	}
}
