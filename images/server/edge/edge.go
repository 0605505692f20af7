// Package edge is the HTTP data plane: it takes visitors' requests and passes each on
// to an upstream behind a client, over a stream of the client's session.
//
// In the order of a request: guard.go refuses requests that two servers could read in
// two ways, and http2_visitor.go in HTTP/2, and heads.go bounds what heads take before they are
// there; fast.go carries most of the others by itself, with plain.go, which tells what is
// plain enough for that, and inplace.go, which spares most of them a goroutine's wakeup. For
// the rest edge.go finds the route; access.go decides whether the visitor may go there;
// exchange.go tries its backends and carries the exchange, with headers.go for the head that
// the upstream gets, body.go for the body, await.go for the wait and response.go for the way
// back; upgrade.go takes over when both change to another protocol. pool.go keeps streams for
// the next request; refuse.go holds the answers of our own, https.go what sends visitors to
// HTTPS.
package edge

import (
	"context"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/images/server/trust"
	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// Config is what an Edge needs.
type Config struct {
	Table   *routing.Table
	Trusted trust.Proxies // proxies whose word on the visitor counts
	// OpenTimeout bounds the opening of a stream, ResponseTimeout the wait for an
	// upstream's response head after the request was sent, none if 0.
	OpenTimeout, ResponseTimeout time.Duration
	// H2C serves HTTP/2 also without TLS; MaxRequests is how many requests a connection of
	// HTTP/2 may have under way, 0 for the default of package net/http.
	H2C         bool
	MaxRequests int
	HTTPS       HTTPS
	// MaxStreams is how many requests an upstream of HTTP/2 may have under way, as others
	// have streams; 0 for no limit.
	MaxStreams int
	// Drain is how long Run waits in the end for upgraded connections.
	Drain   time.Duration
	Metrics *Metrics
	Door    *access.Door // who may visit; nil: everybody, as far as clients say nothing else
	Log     zerolog.Logger
	// AccessLog, if set, gets a line for every exchange that has ended.
	AccessLog *zerolog.Logger
	// Reserved reports whether requests for a clean path may be for another handler of
	// the HTTP server; nil: none.
	Reserved func(path string) bool
}

// Edge serves the HTTP data plane. It is an http.Handler; its connections must come
// through Listener and Server.
type Edge struct {
	table   *routing.Table
	trusted trust.Proxies
	open    time.Duration
	wait    time.Duration
	drain   time.Duration
	h2c     bool

	maxRequests int
	metrics     *Metrics
	door        *access.Door
	log         zerolog.Logger
	visits      *zerolog.Logger // nil: no access log
	pool        pool
	http2       *http2Pool

	reserved func(path string) bool
	https    HTTPS
	fastWait time.Duration
	heads    heads

	// Connections that were taken over from the HTTP server.
	mu         sync.Mutex
	relays     map[net.Conn]*tunnel.Stream
	closed     bool
	relaying   sync.WaitGroup
	relayEnded chan struct{} // capacity 1
}

// New returns an Edge. Run must be called for it to let go of idle streams, and Close
// in the end.
func New(cfg Config) *Edge {
	e := &Edge{
		table: cfg.Table, trusted: cfg.Trusted, open: cfg.OpenTimeout, wait: cfg.ResponseTimeout, drain: cfg.Drain,
		metrics: cfg.Metrics, log: cfg.Log, visits: cfg.AccessLog, relays: map[net.Conn]*tunnel.Stream{}, relayEnded: make(chan struct{}, 1),
		reserved: cfg.Reserved, https: cfg.HTTPS, fastWait: min(fastWait, cfg.OpenTimeout/4),
		h2c: cfg.H2C, maxRequests: cfg.MaxRequests,
	}
	e.heads.most.Store(maxHeads)
	if e.door = cfg.Door; e.door == nil {
		e.door = access.NewDoor(nil, cfg.Metrics.TurnedAway, cfg.Log)
	}
	if cfg.ResponseTimeout > 0 {
		e.fastWait = min(e.fastWait, cfg.ResponseTimeout/4)
	}
	e.http2 = e.newHTTP2Pool(cfg.MaxStreams)
	return e
}

type contextKey int

const (
	connKey   contextKey = iota // *guardConn
	streamKey                   // net.Conn, of http2Pool
)

// Server returns an http.Server for a listener of visitors; secure says that the
// listener speaks TLS.
func (e *Edge) Server(ctx context.Context, secure bool) *http.Server {
	srv := &http.Server{
		Handler:                      e,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            10 * time.Second,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               64 << 10,
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			guarded := c.(*guardConn)
			guarded.secure, guarded.opening.h2c, guarded.fast.edge = secure, e.h2c, e
			return context.WithValue(ctx, connKey, guarded)
		},
	}
	e.speakHTTP2(srv, secure)
	return srv
}

// Listener returns l with the checks of requests that Server relies on, and the fast path.
// It goes on top of TLS, if there is any. It has a method Settle, to be called before the
// server is shut down: behind it nothing is under way that the server does not know of.
func Listener(l net.Listener) net.Listener { return guardListener{l, newGate()} }

// ServeHTTP passes one request on. It implements http.Handler.
func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchange{e: e, w: w, r: r, name: unmatched, start: time.Now()}
	defer x.count()
	x.conn = r.Context().Value(connKey).(*guardConn)
	if r.ProtoMajor == 2 && r.Method != "PRI" {
		defer x.calm()
		if f, ok := checkHTTP2(r); !ok {
			x.refuse(f)
			return
		}
	} else if b := x.conn.takeUp(r); b != nil {
		x.start, x.name = b.start, b.route.Name()
		if b.c != nil {
			x.sent = 1
		}
		x.run(b.route, b.backends, b.c)
		return
	}
	host, err := routing.CleanHost(r.Host)
	switch {
	case r.Method == "PRI": // the preface of HTTP/2, where that is not served
		x.refuse(badVersion)
		return
	case r.Method == http.MethodConnect:
		x.refuse(noConnect)
		return
	case err != nil:
		x.refuse(badHost)
		return
	case !isTarget(r):
		x.refuse(badTarget)
		return
	}
	if x.toHTTPS(host) {
		return
	}
	route, sure := e.find(host, r.URL.Path)
	if !sure {
		x.refuse(twoRoutes)
		return
	}
	if route == nil {
		x.visitor = e.visitorOf(r, x.conn.secure)
		x.admission.addr, _ = netip.ParseAddr(x.visitor.first)
		if x.welcome() { // others do not learn what there is
			x.refuse(noRoute)
		}
		return
	}
	x.name = route.Name()
	var room [8]*routing.Backend
	x.run(route, route.AppendBackends(room[:0]), nil)
}

// isTarget reports whether the request target is one that a server of HTTP serves
// (RFC 9112 section 3.2): a path, the absolute form of it, or * with OPTIONS.
func isTarget(r *http.Request) bool {
	switch {
	case strings.HasPrefix(r.RequestURI, "/"):
		return true
	case r.RequestURI == "*":
		return r.Method == http.MethodOptions
	}
	return r.URL.Host != "" && (r.URL.Scheme == "http" || r.URL.Scheme == "https")
}

// find returns the route for a path, nil if there is none, and reports false if it depends on
// who reads the path: what one route protects must not be reached by another. Upstreams that
// resolve no dots, or take more for dots and slashes than RFC 3986 does, are not rare.
func (e *Edge) find(host, p string) (route *routing.Route, sure bool) {
	route = e.table.Match(host, cleanPath(p))
	if !odd(p) {
		return route, true
	}
	for _, other := range [...]string{p, loosePath(p), cleanPath(loosePath(p))} {
		if e.table.Match(host, other) != route {
			return nil, false
		}
	}
	return route, true
}

// odd reports whether servers may read the path in different ways.
func odd(p string) bool {
	return strings.Contains(p, "/.") || strings.ContainsAny(p, `\;%`) || strings.ContainsFunc(p, unicode.IsControl)
}

var looser = strings.NewReplacer("%2e", ".", "%2E", ".", "%2f", "/", "%2F", "/", "%5c", `\`, "%5C", `\`, "%25", "%", `\`, "/")

// loosePath returns a path as the most liberal of servers might read it: escaped more than
// once, with backslashes, with parameters behind segments, and up to a NUL.
func loosePath(p string) string {
	for range 3 {
		p = looser.Replace(p)
	}
	if end := strings.IndexFunc(p, unicode.IsControl); end >= 0 {
		p = p[:end]
	}
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

// cleanPath resolves what an upstream would resolve, so that a prefix cannot be left by
// dots or avoided by doubled slashes.
func cleanPath(p string) string {
	if strings.Contains(p, "//") || strings.Contains(p, "/.") || !strings.HasPrefix(p, "/") {
		return path.Clean("/" + p)
	}
	return p
}

// Run lets go of idle streams until ctx ends, and then waits for upgraded connections,
// which the HTTP servers do not, as long as a drain may take.
func (e *Edge) Run(ctx context.Context) error {
	ticker := time.NewTicker(idleStream / 4)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			e.sweep(now)
			continue
		case <-ctx.Done():
		}
		break
	}
	timer := time.NewTimer(e.drain)
	defer timer.Stop()
	for {
		e.mu.Lock()
		left := len(e.relays)
		e.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-e.relayEnded:
		case <-timer.C:
			return nil
		}
	}
}

// CloseIdle lets go of idle streams of sessions that are leaving, which wait for their
// streams to end. It does not block.
func (e *Edge) CloseIdle() { e.sweep(time.Now()) }

func (e *Edge) sweep(now time.Time) {
	e.pool.sweep(now)
	e.http2.sweep(now)
}

// Close ends what the HTTP servers no longer know of: upgraded connections and idle
// streams. It waits for them. A connection that it cuts off the visitor sees as a reset.
func (e *Edge) Close() {
	e.mu.Lock()
	e.closed = true
	cut := maps.Clone(e.relays)
	e.mu.Unlock()
	for c, st := range cut {
		// The stream first: its relay knows whether the visitor has been told of a clean end.
		st.Reset(tunnel.CodeBroken, "the server is shutting down") // see tunnel.RelayFunc
		resetConn(c)                                               // the relay may not have begun
	}
	e.relaying.Wait()
	e.pool.sweep(time.Now().Add(2 * idleStream))
	e.http2.close()
}
