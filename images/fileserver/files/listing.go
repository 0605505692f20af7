package files

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxEntries bounds what is read of one folder. What is beyond it is not listed, but served by its name.
	maxEntries = 10_000
	// maxRows bounds one page of a listing.
	maxRows = 500
	// maxListings bounds the folders read at the same time.
	maxListings = 4
	// readBatch is how many entries are read between two looks at whether the visitor is still there.
	readBatch = 1000
)

var (
	//go:embed listing.html
	listingHTML string
	//go:embed listing.css
	listingCSS string

	// listingPolicy lets the page do nothing but apply its own style sheet and show its own icon.
	listingPolicy = fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; img-src data:; base-uri 'none'; "+
		"form-action 'none'; frame-ancestors 'none'", hash(listingCSS))
)

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// entry is a file or folder of a listing.
type entry struct {
	name     string
	folder   bool
	size     int64
	modified time.Time
}

// What the page shows.
type (
	listing struct {
		Title   string
		Crumbs  []crumb
		Parent  bool
		Columns []column
		Rows    []row
		Summary string
		Notice  string
		Pager   *pager
	}
	crumb  struct{ Name, Href string } // the root has no name, the folder itself no link
	column struct{ Name, Class, Href, Sort string }
	row    struct{ Name, Href, Icon, Size, Bytes, Date, Stamp string }
	pager  struct {
		Page, Pages    int
		Previous, Next string
	}
)

func (h *handler) serveListing(w http.ResponseWriter, r *http.Request, p path, dir *os.File) {
	entries, more, err := h.read(r.Context(), p, dir)
	if err != nil {
		if r.Context().Err() == nil {
			h.fail(w, r, err)
		}
		return
	}
	query := r.URL.Query()
	order := parseOrder(query.Get("sort"))
	order.sort(entries)

	page := listing{
		Title:   "/" + strings.Join(p.segments, "/"),
		Crumbs:  crumbs(p),
		Parent:  len(p.segments) > 0,
		Columns: order.columns(),
		Summary: summary(entries),
	}
	if more {
		page.Notice = fmt.Sprintf("This folder has more than %s entries. The others are not listed, "+
			"but can be fetched by name.", grouped(maxEntries))
	}
	entries, page.Pager = paginate(entries, query.Get("page"), order)
	for _, e := range entries {
		page.Rows = append(page.Rows, e.row())
	}

	body := page.html()
	head := w.Header()
	head.Set("Content-Type", "text/html; charset=utf-8")
	head.Set("Content-Length", strconv.Itoa(len(body)))
	head.Set("Content-Security-Policy", listingPolicy)
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("Cache-Control", "no-cache")
	w.Write(body) // an error means that the visitor is gone
}

// read returns what the folder shows, and whether there is more than may be read. Hidden names are left out, and so is
// everything that would be answered with 404: links that lead outside or nowhere, pipes, devices, sockets.
func (h *handler) read(ctx context.Context, p path, dir *os.File) (entries []entry, more bool, err error) {
	select {
	case h.listings <- struct{}{}:
		defer func() { <-h.listings }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	for seen := 0; ; {
		batch, err := dir.ReadDir(readBatch)
		for _, d := range batch {
			if seen++; seen > maxEntries {
				return entries, true, nil
			}
			if hidden(d.Name()) || !plain(d.Name()) {
				continue
			}
			info, err := d.Info()
			if err == nil && info.Mode()&fs.ModeSymlink != 0 {
				info, err = h.root.Stat(p.child(d.Name()))
			}
			if err != nil || !servable(info) {
				continue
			}
			entries = append(entries, entry{d.Name(), info.IsDir(), info.Size(), info.ModTime()})
		}
		switch {
		case errors.Is(err, io.EOF):
			return entries, false, nil
		case err != nil:
			return nil, false, err
		case ctx.Err() != nil:
			return nil, false, ctx.Err()
		}
	}
}

// crumbs are the links from the root down to p.
func crumbs(p path) []crumb {
	all := []crumb{{}}
	if p.depth > 0 {
		all[0].Href = strings.Repeat("../", p.depth)
	}
	for i, name := range p.segments {
		c := crumb{Name: name}
		if up := len(p.segments) - 1 - i; up > 0 {
			c.Href = strings.Repeat("../", up)
		}
		all = append(all, c)
	}
	return all
}

func (e entry) row() row {
	r := row{
		Name:  e.name,
		Href:  "./" + url.PathEscape(e.name),
		Icon:  "folder",
		Date:  e.modified.UTC().Format("2006-01-02 15:04"),
		Stamp: e.modified.UTC().Format(time.RFC3339),
	}
	if e.folder {
		r.Href += "/"
		return r
	}
	r.Icon = icon(e.name)
	r.Size = size(e.size)
	r.Bytes = grouped(e.size) + " bytes"
	return r
}

// icon is the id of the symbol in the page that stands for a file called name.
func icon(name string) string {
	t := typeByName(name)
	family, _, _ := strings.Cut(t, "/")
	switch {
	case family == "image", family == "audio", family == "video":
		return family
	case slices.ContainsFunc([]string{"zip", "-tar", "compressed", "/vnd.rar", "-xz", "zstd", "archive", "package",
		"-rpm", "diskimage"}, func(s string) bool { return strings.Contains(t, s) }) && !strings.Contains(t, "epub"):
		return "archive"
	case strings.Contains(t, "html"), strings.Contains(t, "json"), strings.Contains(t, "javascript"),
		strings.Contains(t, "css"), strings.Contains(t, "xml;"), strings.Contains(t, "yaml"),
		strings.Contains(t, "toml"), strings.Contains(t, "wasm"):
		return "code"
	case family == "text", t == "application/pdf", strings.Contains(t, "document"), strings.Contains(t, "msword"):
		return "text"
	}
	return "file"
}

func summary(entries []entry) string {
	var folders, files int
	var bytes int64
	for _, e := range entries {
		if e.folder {
			folders++
		} else {
			files++
			bytes += e.size
		}
	}
	var parts []string
	if folders > 0 {
		parts = append(parts, count(folders, "folder"))
	}
	if files > 0 {
		parts = append(parts, count(files, "file"), size(bytes))
	}
	return strings.Join(parts, " · ")
}

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return grouped(int64(n)) + " " + noun
}

// size is a number of bytes for people, in powers of 1000 with at least two significant digits.
func size(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v := float64(n)
	unit := -1
	for v >= 999.5 {
		v /= 1000
		unit++
	}
	digits := 0
	if v < 9.95 {
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + " " + []string{"kB", "MB", "GB", "TB", "PB", "EB"}[unit] // #nosec G602 -- an int64 has no more than 19 digits
}

// grouped writes n with its thousands set apart.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
