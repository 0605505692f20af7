// Package routing knows which sessions serve which route. A route is a public host
// with an optional path prefix; several sessions may serve one, and take turns.
//
// The table is written by the control plane when sessions come and go, and read by
// the data plane for every request. A route leads to an [Opener], which need not be a
// session of this process.
package routing

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// Opener opens streams to the upstreams of one client.
type Opener interface {
	Open(ctx context.Context, t tunnel.Target) (*tunnel.Stream, error)
	// Leaving reports whether it opens no more streams.
	Leaving() bool
	// Silent reports whether it has let a deadline pass: others are to be preferred until
	// it is heard of again.
	Silent() bool
}

// Backend is one client's upstream behind a route.
type Backend struct {
	Opener   Opener
	ClientID string
	Index    int // of the upstream in the client's Hello
	Upstream route.Upstream
	Access   *access.Policy // who may visit it, as its client says; nil: everybody
	waiting  atomic.Bool
}

// SetWaiting says whether the upstream waits for the service behind it: then it gets no
// streams. It reports whether that is new.
func (b *Backend) SetWaiting(waiting bool) (changed bool) {
	return b.waiting.Swap(waiting) != waiting
}

// Waiting reports whether the upstream waits for the service behind it.
func (b *Backend) Waiting() bool { return b.waiting.Load() }

// Route is a public host and path prefix, with the backends that serve it now. It
// stays known for a while after the last one has left, so that the visitor can be
// told to come back.
type Route struct {
	name     string
	path     string
	backends atomic.Pointer[[]*Backend]
	next     atomic.Uint32
	idle     time.Time // when the last backend left; guarded by the table's lock
}

// Name returns the public side, "example.com/api" or "*": fit for a metric's label,
// since only clients can make new ones.
func (r *Route) Name() string { return r.name }

// Waits reports whether the route has a backend that waits for the service behind it.
func (r *Route) Waits() bool {
	for _, b := range *r.backends.Load() {
		if b.Waiting() && !b.Opener.Leaving() {
			return true
		}
	}
	return false
}

// Backends returns who serves the route now, beginning with whose turn it is; those that
// are silent come last, and those that are leaving or waiting not at all. The slice is the
// caller's.
func (r *Route) Backends() []*Backend {
	return r.AppendBackends(nil)
}

// AppendBackends appends what Backends returns to list.
func (r *Route) AppendBackends(list []*Backend) []*Backend {
	all := *r.backends.Load()
	if len(all) == 0 {
		return list
	}
	turn := int((r.next.Add(1) - 1) % uint32(len(all)))
	silent := 0
	for i := range all {
		b := all[(turn+i)%len(all)]
		switch {
		case b.Opener.Leaving(), b.Waiting():
		case b.Opener.Silent():
			silent++
		default:
			list = append(list, b)
		}
	}
	for i := 0; i < len(all) && silent > 0; i++ {
		if b := all[(turn+i)%len(all)]; b.Opener.Silent() && !b.Opener.Leaving() && !b.Waiting() {
			list = append(list, b)
		}
	}
	return list
}

const (
	// hold is how long a route without backends keeps its requests from less specific
	// routes: its client may just be reconnecting.
	hold = time.Minute
	// remember is how long a route without backends stays known, for visitors whom no
	// other route serves.
	remember = time.Hour
	// maxIdle bounds how many of those there are.
	maxIdle = 4096
)

// Table holds the routes. The zero value is ready for use, by any goroutine.
type Table struct {
	// Changed, if set, is called after Add and Remove, by the goroutine that called these.
	Changed func()

	mu    sync.RWMutex
	hosts map[string][]*Route // by hostKey, the longest path first
	idle  int                 // routes without backends
	swept time.Time           // when forgetLocked last looked
	now   func() time.Time    // for tests
}

// Add makes every backend reachable, or none: it refuses TCP routes.
func (t *Table) Add(backends []*Backend) error {
	for _, b := range backends {
		if b.Upstream.IsTCP() {
			return fmt.Errorf("%s is a TCP route and this server serves HTTP: write %s=http://%s on the client", b.Upstream, "example.com", b.Upstream.Address)
		}
	}
	t.insert(backends)
	t.changed()
	return nil
}

func (t *Table) changed() {
	if t.Changed != nil {
		t.Changed()
	}
}

func (t *Table) insert(backends []*Backend) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hosts == nil {
		t.hosts = map[string][]*Route{}
	}
	for _, b := range backends {
		r := t.routeLocked(b.Upstream.Host, b.Upstream.Path)
		if !r.idle.IsZero() {
			r.idle = time.Time{}
			t.idle--
		}
		list := append(slices.Clone(*r.backends.Load()), b)
		r.backends.Store(&list)
	}
}

// Differing returns a backend of another session whose route is that of b and whose policy is
// another, nil if there is none.
func (t *Table) Differing(b *Backend) *Backend {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r := find(t.hosts[hostKey(b.Upstream.Host)], b.Upstream.Path)
	if r == nil {
		return nil
	}
	for _, other := range *r.backends.Load() {
		if other.Opener != b.Opener && !other.Access.Same(b.Access) {
			return other
		}
	}
	return nil
}

// Remove takes backends out that were added. Their routes stay known for an hour.
func (t *Table) Remove(backends []*Backend) {
	t.withdraw(backends)
	t.changed()
}

func (t *Table) withdraw(backends []*Backend) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range backends {
		r := find(t.hosts[hostKey(b.Upstream.Host)], b.Upstream.Path)
		if r == nil {
			continue
		}
		was := *r.backends.Load()
		list := slices.DeleteFunc(slices.Clone(was), func(x *Backend) bool { return x == b })
		r.backends.Store(&list)
		if len(list) == 0 && len(was) > 0 {
			r.idle = t.time()
			t.idle++
		}
	}
	t.forgetLocked()
}

// Served returns the hosts that somebody serves now under their own name: those of wildcards and of "*" are not known.
func (t *Table) Served() (hosts []string) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for key, routes := range t.hosts {
		if key[0] == '*' || key[0] == '.' {
			continue
		}
		if slices.ContainsFunc(routes, func(r *Route) bool { return r.idle.IsZero() }) {
			hosts = append(hosts, key)
		}
	}
	return hosts
}

// Match finds the route for a request's clean host and clean path: an exact host before
// a wildcard, a longer wildcard before a shorter one, "*" last; within a host the longest
// prefix. A route that nobody has served for more than a minute comes behind all that
// somebody may serve. It returns nil when there is none that anybody has served in the
// last hour.
func (t *Table) Match(host, path string) *Route {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r, absent := t.matchLocked(host, path, nil)
	for at := 0; r == nil; {
		dot := strings.IndexByte(host[at:], '.')
		if dot < 0 {
			break
		}
		at += dot + 1
		r, absent = t.matchLocked(host[at-1:], path, absent)
	}
	if r == nil {
		r, absent = t.matchLocked("*", path, absent)
	}
	if r == nil {
		return absent
	}
	return r
}

// matchLocked finds the route under one key that may serve the path now, and keeps the
// first that does not.
func (t *Table) matchLocked(key, path string, absent *Route) (r, _ *Route) {
	for _, r := range t.hosts[key] {
		if !strings.HasPrefix(path, r.path) || len(path) > len(r.path) && path[len(r.path)] != '/' && r.path != "" {
			continue
		}
		if r.idle.IsZero() {
			return r, absent
		}
		switch idle := t.time().Sub(r.idle); {
		case idle < hold:
			return r, absent
		case idle < remember && absent == nil:
			absent = r
		}
	}
	return nil, absent
}

// hostKey returns what a route's host is found under: a host as CleanHost returns it,
// ".example.com" for "*.example.com", or "*".
func hostKey(host string) string {
	if strings.HasPrefix(host, "*.") {
		return host[1:]
	}
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil && addr.Is6() {
		return "[" + addr.WithZone("").String() + "]"
	}
	return host
}

// routeLocked finds or makes a route.
func (t *Table) routeLocked(host, path string) *Route {
	key := hostKey(host)
	routes := t.hosts[key]
	if r := find(routes, path); r != nil {
		return r
	}
	r := &Route{name: host + path, path: path}
	r.backends.Store(new([]*Backend))
	routes = append(slices.Clone(routes), r)
	slices.SortStableFunc(routes, func(a, b *Route) int { return len(b.path) - len(a.path) })
	t.hosts[key] = routes
	return r
}

// find returns the route with the path.
func find(routes []*Route, path string) *Route {
	for _, r := range routes {
		if r.path == path {
			return r
		}
	}
	return nil
}

// forgetLocked drops routes that nobody has served for long, and all that nobody
// serves when there are too many of them.
func (t *Table) forgetLocked() {
	all, now := t.idle > maxIdle, t.time()
	if t.idle == 0 || !all && now.Sub(t.swept) < time.Minute {
		return
	}
	t.swept = now
	for key, routes := range t.hosts {
		kept := slices.DeleteFunc(slices.Clone(routes), func(r *Route) bool {
			old := !r.idle.IsZero() && (all || now.Sub(r.idle) > remember)
			if old {
				t.idle--
			}
			return old
		})
		if len(kept) == 0 {
			delete(t.hosts, key)
		} else if len(kept) != len(routes) {
			t.hosts[key] = kept
		}
	}
}

func (t *Table) time() time.Time {
	if t.now != nil {
		return t.now()
	}
	return time.Now()
}

// zoneBytes are those of a zone, "25" in front (RFC 6874 section 2): package netip takes any.
const zoneBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"

// ErrHost is returned by CleanHost for what is no host.
var ErrHost = errors.New("malformed host")

// CleanHost brings the host of a request into the form that routes are kept in:
// lower case, without port and trailing dot; an IPv6 address in brackets and its
// shortest form. What cannot be a host name or an address is an error; no host, which
// HTTP/1.0 allows, is not.
func CleanHost(host string) (string, error) {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		if strings.Trim(host[i+1:], "0123456789") != "" { // an empty port is allowed, RFC 3986 section 3.2.3
			return "", ErrHost
		}
		host = host[:i]
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		if !ok || err != nil || !addr.Is6() || strings.Trim(addr.Zone(), zoneBytes) != "" {
			return "", ErrHost
		}
		return "[" + addr.WithZone("").String() + "]", nil
	}
	host = strings.TrimSuffix(host, ".")
	if strings.HasPrefix(host, ".") || strings.HasSuffix(host, ".") || strings.Contains(host, "..") {
		return "", ErrHost
	}
	for i := range len(host) {
		switch c := host[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return "", ErrHost
		}
	}
	return strings.ToLower(host), nil
}
