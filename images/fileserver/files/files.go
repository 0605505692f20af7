// Package files serves the files below one directory over HTTP: GET and HEAD with ranges and conditional requests,
// content types that do not depend on the machine, an index.html for a folder or, when asked for, a page that lists it.
//
// Nothing outside the directory is reachable. A request path is taken apart by parsePath, which refuses hidden names
// and encoded separators, and what is left is opened through os.Root, which follows symbolic links only as long as
// they stay inside. Links are the operator's means to publish something under another name, so a link may lead to a
// hidden name inside the root (mounted Kubernetes ConfigMaps are made of such links); a request may not name one.
//
// Redirects and the links of a listing are relative, so that the tree can be served below a path prefix.
package files

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options change what New serves.
type Options struct {
	// Browse lists the folders that have no index.html; without it they are answered with 404.
	Browse bool
}

const (
	// maxRanges bounds the parts of one multipart answer: players ask for one or two, and a header full of one-byte
	// ranges would be answered with a hundred times its size.
	maxRanges = 16
	// settled is how old a modification must be for an ETag to count as strong. A file that changed a moment ago may
	// change again within the clock tick of its file system, keeping size and time.
	settled = 2 * time.Second
	// maxEcho bounds how much of a request path an error repeats.
	maxEcho = 200
)

type handler struct {
	root   *os.Root
	browse bool
	// listings bounds the folders read at a time, since each may hold maxEntries names in memory.
	listings chan struct{}
}

// New returns a handler, safe for concurrent use, that serves the files below root. The caller keeps root and closes
// it when the handler is no longer in use.
func New(root *os.Root, opts Options) http.Handler {
	return &handler{root: root, browse: opts.Browse, listings: make(chan struct{}, maxListings)}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "method not allowed: files are read with GET or HEAD")
		return
	}
	p, ok := parsePath(r.URL.EscapedPath())
	if !ok {
		notFound(w, r, "")
		return
	}
	f, info, err := h.open(p.name())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer f.Close()
	switch {
	case info.IsDir() && p.slash:
		h.serveFolder(w, r, p, f)
	case info.IsDir():
		redirectToFolder(w, r, p)
	case p.slash:
		notFound(w, r, "it is a file: leave out the last slash")
	default:
		serveFile(w, r, f, info)
	}
}

// errSpecial is open's error for what is neither a file nor a folder.
var errSpecial = errors.New("not a regular file")

// open opens a regular file or a folder. Anything else is left alone: to open a device can have effects, and to open
// a named pipe waits for its writer. What is put in place of a file between the look and the opening is still opened
// without waiting, and looked at again.
func (h *handler) open(name string) (*os.File, fs.FileInfo, error) {
	info, err := h.root.Stat(name)
	if err != nil {
		return nil, nil, err
	}
	if !servable(info) {
		return nil, nil, errSpecial
	}
	f, err := h.root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err = f.Stat()
	if err == nil && !servable(info) {
		err = errSpecial
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func servable(info fs.FileInfo) bool { return info.Mode().IsRegular() || info.IsDir() }

func (h *handler) serveFolder(w http.ResponseWriter, r *http.Request, p path, dir *os.File) {
	f, info, err := h.open(p.child("index.html"))
	if err == nil {
		defer f.Close()
		if info.Mode().IsRegular() {
			serveFile(w, r, f, info)
			return
		}
	} else if status(err) != http.StatusNotFound {
		h.fail(w, r, err)
		return
	}
	if !h.browse {
		notFound(w, r, "the folder has no index.html and folders are not listed (BROWSE=false)")
		return
	}
	h.serveListing(w, r, p, dir)
}

// redirectToFolder adds the slash that makes the relative links of a folder's page work. The location is relative and
// begins with a dot, so that no path, however many slashes it begins with, can name another host in it. A query may hold
// a #, which here would begin a fragment (RFC 3986, section 3.4).
func redirectToFolder(w http.ResponseWriter, r *http.Request, p path) {
	location := "./" + url.PathEscape(p.segments[len(p.segments)-1]) + "/"
	if r.URL.RawQuery != "" {
		location += "?" + strings.ReplaceAll(r.URL.RawQuery, "#", "%23")
	}
	w.Header().Set("Location", location)
	refuse(w, http.StatusMovedPermanently, "moved: this folder's address ends in a slash")
}

func serveFile(w http.ResponseWriter, r *http.Request, f *os.File, info fs.FileInfo) {
	w.Header().Set("Content-Type", contentType(info.Name(), f))
	modified := info.ModTime()
	if modified.Unix() <= 1 {
		// Build systems that want reproducible images set every time to 0 or 1: it tells nothing about the content,
		// and with it a changed file of the same size would look unchanged for ever.
		modified = time.Time{}
	} else {
		w.Header().Set("ETag", etag(modified, info.Size(), time.Now()))
	}
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		r = r.Clone(r.Context())
		r.Header.Del("Range")
	}
	// f is passed as it is, so that the connection finds an *os.File and lets the kernel send it.
	http.ServeContent(w, r, "", modified, f)
}

// etag is the same for the same file on every replica that keeps modification times.
func etag(modified time.Time, size int64, now time.Time) string {
	tag := `"` + strconv.FormatInt(modified.UnixNano(), 36) + "-" + strconv.FormatInt(size, 36) + `"`
	if age := now.Sub(modified); age < settled {
		return "W/" + tag
	}
	return tag
}

// status is the code that tells a visitor about err. What os.Root refuses because it leads outside is not told from
// what is not there.
func status(err error) int {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return http.StatusForbidden
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
		return http.StatusServiceUnavailable
	case errors.Is(err, syscall.EIO), errors.Is(err, fs.ErrClosed):
		return http.StatusInternalServerError
	}
	return http.StatusNotFound
}

func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch code := status(err); code {
	case http.StatusNotFound:
		notFound(w, r, "")
	case http.StatusForbidden:
		refuse(w, code, "forbidden: the file server has no permission to read "+echo(r))
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
		refuse(w, code, "busy: the file server has run out of file descriptors or memory, try again")
	default:
		refuse(w, code, "error: the file server cannot read "+echo(r))
	}
}

func notFound(w http.ResponseWriter, r *http.Request, why string) {
	message := "not found: " + echo(r)
	if why != "" {
		message += ": " + why
	}
	refuse(w, http.StatusNotFound, message)
}

// echo is the path that was asked for, quoted so that it is one line of printable characters.
func echo(r *http.Request) string {
	p := r.URL.Path
	if len(p) > maxEcho {
		return strconv.Quote(p[:maxEcho]) + "…"
	}
	return strconv.Quote(p)
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintln(w, message) // #nosec G705 -- plain text, with nosniff
}
