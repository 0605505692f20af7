package files

import (
	"bufio"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzPath asks for any target, read as the server reads it, from a root surrounded by and full of canaries: files
// beside it, links to them, hidden files. No answer holds a canary, no redirect leads elsewhere.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{
		"/", "/in.txt", "/sub/", "/sub", "/../canary", "/%2e%2e/canary", "/..%2fcanary", "/%5c../canary", "/in.txt%00",
		"//evil.test/sub", "//evil.test", "/%252e%252e/canary", "/sub/../../canary", "/.secret", "/link", "/linkdir/canary",
		"/sub/up", "/.well-known/in.txt", "/.well-known/../.secret", "/./.secret", "/sub?sort=-size&page=99",
		"http://evil.test/sub", "/\\evil.test", "/%e3%80%82/", "/absolute", "/sub//in.txt", "*", "/..;/canary", "/%c0%ae/", "/sub?#%",
	} {
		f.Add(seed)
	}
	canary := rand.Text()
	outer := tree(f, map[string]string{
		"canary":                 canary,
		"beside/canary":          canary,
		"rootx/canary":           canary, // its name begins with the root's
		"root/in.txt":            "in",
		"root/sub/in.txt":        "in",
		"root/evil.test/in":      "in",
		"root/.well-known/in":    "in",
		"root/.secret":           canary,
		"root/sub/.secret":       canary,
		"root/.git/in":           canary,
		"root/sub/.well-known/x": canary,
		"root/link":              "-> ../canary",
		"root/linkdir":           "-> ../beside",
		"root/sub/up":            "-> ../../canary",
		"root/sub/updir":         "-> ../..",
	})
	must(f, os.Symlink(filepath.Join(outer, "canary"), filepath.Join(outer, "root", "absolute")))
	h := serve(f, filepath.Join(outer, "root"), Options{Browse: true})
	f.Fuzz(func(t *testing.T, target string) {
		if strings.ContainsAny(target, " \r\n") {
			return // would end the request line
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if strings.Contains(w.Body.String(), canary) {
			t.Fatalf("%q serves a canary", target)
		}
		switch w.Code {
		case 200, 404:
		case 301:
			base := &url.URL{Scheme: "http", Host: "x", Path: r.URL.Path, RawPath: r.URL.RawPath}
			to, err := base.Parse(w.Header().Get("Location"))
			if err != nil || to.Scheme != "http" || to.Host != "x" || strings.HasPrefix(w.Header().Get("Location"), "/") {
				t.Fatalf("%q leads to %q (%v)", target, w.Header().Get("Location"), err)
			}
		default:
			t.Fatalf("%q: status %d %s", target, w.Code, w.Body)
		}
		if p, ok := parsePath(r.URL.EscapedPath()); ok {
			for _, s := range p.segments {
				if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\x00") {
					t.Fatalf("%q has the segment %q", target, s)
				}
			}
		}
	})
}

// FuzzCompareNames holds that the order of names is one: antisymmetric, and zero for equal names only.
func FuzzCompareNames(f *testing.F) {
	f.Add("file2", "file10")
	f.Add("a01", "a1")
	f.Add("A", "a")
	f.Fuzz(func(t *testing.T, a, b string) {
		if c, d := compareNames(a, b), compareNames(b, a); c != -d || (c == 0) != (a == b) {
			t.Fatalf("%q and %q: %d and %d", a, b, c, d)
		}
	})
}
