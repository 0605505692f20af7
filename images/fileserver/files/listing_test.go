package files

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var nameCell = regexp.MustCompile(`<a href="([^"]*)"><svg [^>]*><use [^>]*></svg><bdi>([^<]*)</bdi></a>`)

// rows are the names that a listing shows, in order, and the addresses they lead to.
func rows(a answer) (names, links []string) {
	for _, m := range nameCell.FindAllStringSubmatch(a.body, -1) {
		links = append(links, m[1])
		names = append(names, m[2])
	}
	return names, links
}

func TestListing(t *testing.T) {
	dir := tree(t, map[string]string{
		"b/x": "", "a10.txt": strings.Repeat("x", 2000), "a9.txt": "x", "B.txt": "", ".hidden": "", ".well-known/x": "",
		"link.txt": "-> a10.txt", "linkdir": "-> b", "outside": "-> ../..", "dangling": "-> nowhere",
		`<img src=x onerror="alert(1)">&'.txt`: "x", "javascript:alert(1)": "x", "q?a=1#f.txt": "x",
	})
	addr := start(t, serve(t, dir, Options{Browse: true}))
	a := ask(t, addr, "GET", "/")
	if a.code != 200 {
		t.Fatal(a)
	}
	a.expectHeader(t, "Content-Type", "text/html; charset=utf-8")
	a.expectHeader(t, "Cache-Control", "no-cache")
	ask(t, addr, "HEAD", "/").expectHeader(t, "Content-Length", fmt.Sprint(len(a.body)))

	names, links := rows(a)
	if want := []string{"b", "linkdir", "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&amp;&#39;.txt", "a9.txt", "a10.txt",
		"B.txt", "javascript:alert(1)", "link.txt", "q?a=1#f.txt"}; !slices.Equal(names, want) {
		t.Errorf("got  %q\nwant %q", names, want)
	}
	for i, link := range links {
		a := ask(t, addr, "GET", strings.TrimPrefix(strings.ReplaceAll(link, "&amp;", "&"), "."))
		if a.code != 200 {
			t.Errorf("the link %s of %s: %d", link, names[i], a.code)
		}
	}
	if strings.Contains(a.body, "<script") || strings.Contains(a.body, "<img") || strings.Contains(a.body, "http://files") {
		t.Error("the page holds what it should not")
	}
	for _, want := range []string{`title="2,000 bytes">2.0 kB<`, "2 folders · 7 files · 4.0 kB",
		`<time datetime="2024-02-29T08:01:02Z">2024-02-29 08:01</time>`} {
		if !strings.Contains(a.body, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(a.body, "Parent folder") {
		t.Error("the root has a parent")
	}
	if a := ask(t, addr, "GET", "/b/"); !strings.Contains(a.body, `<a href="../">`) {
		t.Error("a folder has no parent")
	}
}

// TestPolicy holds that the policy allows the style sheet as it is in the page, and nothing else.
func TestPolicy(t *testing.T) {
	addr := start(t, serve(t, t.TempDir(), Options{Browse: true}))
	a := ask(t, addr, "GET", "/")
	style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(a.body)[1]
	sum := sha256.Sum256([]byte(style))
	a.expectHeader(t, "Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+
		base64.StdEncoding.EncodeToString(sum[:])+"'; img-src data:; base-uri 'none'; form-action 'none'; "+
		"frame-ancestors 'none'")
	if strings.Contains(a.body, "style=") {
		t.Error("the policy forbids style attributes")
	}
	if !strings.Contains(a.body, "This folder is empty") {
		t.Error("an empty folder does not say so")
	}
	if got := len(a.body); got > 10_000 {
		t.Errorf("the page without entries has %d bytes", got)
	}
}

func TestOrder(t *testing.T) {
	at := func(n int) time.Time { return old.Add(time.Duration(n) * time.Hour) }
	entries := []entry{
		{"v1.10", false, 5, at(1)}, {"v1.9", false, 7, at(2)}, {"Readme", false, 5, at(3)},
		{"z", true, 4096, at(4)}, {"y", true, 8192, at(5)},
	}
	for _, c := range []struct{ sort, want string }{
		{"", "y z Readme v1.9 v1.10"},
		{"name", "y z Readme v1.9 v1.10"},
		{"-name", "z y v1.10 v1.9 Readme"},
		{"size", "y z Readme v1.10 v1.9"},
		{"-size", "y z v1.9 Readme v1.10"},
		{"time", "z y v1.10 v1.9 Readme"},
		{"-time", "y z Readme v1.9 v1.10"},
		{"<script>", "y z Readme v1.9 v1.10"},
	} {
		t.Run(c.sort, func(t *testing.T) {
			sorted := slices.Clone(entries)
			parseOrder(c.sort).sort(sorted)
			var names []string
			for _, e := range sorted {
				names = append(names, e.name)
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	addr := start(t, serve(t, t.TempDir(), Options{Browse: true}))
	a := ask(t, addr, "GET", "/?sort=-size")
	for _, want := range []string{`class="size" aria-sort="descending"><a href="?sort=size">`, `<a href="./">Name`,
		`<a href="?sort=-time">`} {
		if !strings.Contains(a.body, want) {
			t.Errorf("%s is missing", want)
		}
	}
}

// TestHuge holds that a folder with more entries than are read is cut, says so, and comes in pages.
func TestHuge(t *testing.T) {
	dir := t.TempDir()
	for i := range maxEntries + 10 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("file%d", i)))
		must(t, err)
		f.Close()
	}
	addr := start(t, serve(t, dir, Options{Browse: true}))
	seen := map[string]bool{}
	for page := 1; page <= maxEntries/maxRows; page++ {
		a := ask(t, addr, "GET", fmt.Sprintf("/?page=%d", page))
		names, _ := rows(a)
		if len(names) != maxRows {
			t.Fatalf("page %d has %d rows", page, len(names))
		}
		for _, n := range names {
			seen[n] = true
		}
		if !strings.Contains(a.body, "more than 10,000 entries") {
			t.Error("no notice")
		}
		if len(a.body) > 250_000 {
			t.Errorf("page %d has %d bytes", page, len(a.body))
		}
	}
	if len(seen) != maxEntries {
		t.Errorf("%d names on all pages, want %d", len(seen), maxEntries)
	}
}

func TestPaginate(t *testing.T) {
	for _, c := range []struct {
		name            string
		entries         int
		page            string
		first, rows, at int
		previous, next  string
	}{
		{"one page", maxRows, "3", 0, maxRows, 0, "", ""},
		{"first", 2*maxRows + 1, "", 0, maxRows, 1, "", "?sort=-size&page=2"},
		{"second", 2*maxRows + 1, "2", maxRows, maxRows, 2, "?sort=-size", "?sort=-size&page=3"},
		{"last", 2*maxRows + 1, "3", 2 * maxRows, 1, 3, "?sort=-size&page=2", ""},
		{"beyond", 2*maxRows + 1, "99", 2 * maxRows, 1, 3, "?sort=-size&page=2", ""},
		{"before", 2*maxRows + 1, "-1", 0, maxRows, 1, "", "?sort=-size&page=2"},
		{"overflow", 2*maxRows + 1, "99999999999999999999", 0, maxRows, 1, "", "?sort=-size&page=2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			entries := make([]entry, c.entries)
			for i := range entries {
				entries[i].size = int64(i)
			}
			got, pg := paginate(entries, c.page, order{"size", true})
			if len(got) != c.rows || got[0].size != int64(c.first) {
				t.Errorf("got %d rows from %d", len(got), got[0].size)
			}
			if pg == nil {
				if c.at != 0 {
					t.Error("no pager")
				}
				return
			}
			if *pg != (pager{c.at, 3, c.previous, c.next}) {
				t.Errorf("got %+v", *pg)
			}
		})
	}
}

func TestCrumbs(t *testing.T) {
	for _, c := range []struct {
		path string
		want []crumb
	}{
		{"/", []crumb{{}}},
		{"/a/", []crumb{{"", "../"}, {"a", ""}}},
		{"/a/b%20c/d/", []crumb{{"", "../../../"}, {"a", "../../"}, {"b c", "../"}, {"d", ""}}},
		{"//a//", []crumb{{"", "../../../"}, {"a", ""}}},
	} {
		t.Run(c.path, func(t *testing.T) {
			p, ok := parsePath(c.path)
			if got := crumbs(p); !ok || !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 999_499: "999 kB", 999_500: "1.0 MB",
		48_234_567: "48 MB", 1_288_490_189: "1.3 GB", 1 << 62: "4.6 EB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	if got := grouped(1234567); got != "1,234,567" {
		t.Error(got)
	}
}
