package files

import (
	"net/url"
	"path/filepath"
	"strings"
)

// path is a request path that names something below the root.
type path struct {
	segments []string // decoded, none empty, hidden or holding a separator
	slash    bool     // ends in a slash: names a folder
	depth    int      // how many "../" lead from here to the root's own address, empty segments included
}

// parsePath takes an escaped request path apart. It reports false for what can never name a file: hidden names (and
// so "." and "..", however they are encoded), encoded separators, NUL. Empty segments, which come from addresses put
// together carelessly, are skipped.
func parsePath(escaped string) (path, bool) {
	parts := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	p := path{depth: len(parts) - 1}
	for _, part := range parts {
		p.slash = part == ""
		if p.slash {
			continue
		}
		name, err := url.PathUnescape(part)
		if err != nil || !plain(name) || hidden(name) && !p.wellKnown(name) {
			return path{}, false
		}
		p.segments = append(p.segments, name)
	}
	return p, true
}

// wellKnown reports whether name is the one folder with a dot that the web gave a meaning to (RFC 8615), at its place.
func (p path) wellKnown(name string) bool { return len(p.segments) == 0 && name == ".well-known" }

// name is the path below the root in the form of the operating system.
func (p path) name() string {
	if len(p.segments) == 0 {
		return "."
	}
	return strings.Join(p.segments, string(filepath.Separator))
}

// child is the name of an entry of the folder p.
func (p path) child(name string) string {
	if len(p.segments) == 0 {
		return name
	}
	return p.name() + string(filepath.Separator) + name
}

// hidden reports whether a name begins with a dot.
func hidden(name string) bool { return strings.HasPrefix(name, ".") }

// plain reports whether name is one name and nothing else to the operating system. Where the backslash separates, a
// colon leads to drives and alternate streams, and a tilde to the short names by which hidden files are known too.
func plain(name string) bool {
	if filepath.Separator == '\\' && strings.ContainsAny(name, `\:~`) {
		return false
	}
	return !strings.ContainsAny(name, "/\x00")
}
