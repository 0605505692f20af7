// Package edge is the HTTP data plane: it takes visitors' requests and passes each on
// to an upstream behind a client, over a stream of the client's session.
//
// In the order of a request: guard.go refuses requests that two servers could read in
// two ways; edge.go finds the route; exchange.go tries its backends and carries the
// exchange, with headers.go for the head that the upstream gets, body.go for the body,
// await.go for the wait and response.go for the way back; upgrade.go takes over when both
// change to another protocol; pool.go keeps streams for the next request; refuse.go holds
// the answers of our own.
package edge

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/server/routing"
)

// Config is what an Edge needs.
type Config struct {
	Table   *routing.Table
	Trusted []netip.Prefix // proxies whose word on the visitor counts
	// OpenTimeout bounds the opening of a stream, ResponseTimeout the wait for an
	// upstream's response head after the request was sent, none if 0.
	OpenTimeout, ResponseTimeout time.Duration
	// Drain is how long Run waits in the end for upgraded connections.
	Drain   time.Duration
	Metrics *Metrics
	Log     zerolog.Logger
}

// Edge serves the HTTP data plane. It is an http.Handler; its connections must come
// through Listener and Server.
type Edge struct {
	table   *routing.Table
	trusted []netip.Prefix
	open    time.Duration
	wait    time.Duration
	drain   time.Duration
	metrics *Metrics
	log     zerolog.Logger
	pool    pool

	// Connections that were taken over from the HTTP server.
	mu         sync.Mutex
	relays     map[net.Conn]struct{}
	closed     bool
	relaying   sync.WaitGroup
	relayEnded chan struct{} // capacity 1
}

// New returns an Edge. Run must be called for it to let go of idle streams, and Close
// in the end.
func New(cfg Config) *Edge {
	return &Edge{
		table: cfg.Table, trusted: cfg.Trusted, open: cfg.OpenTimeout, wait: cfg.ResponseTimeout, drain: cfg.Drain,
		metrics: cfg.Metrics, log: cfg.Log, relays: map[net.Conn]struct{}{}, relayEnded: make(chan struct{}, 1),
	}
}

type contextKey int

const connKey contextKey = iota // *guardConn

// Server returns an http.Server for a listener of visitors; secure says that the
// listener speaks TLS. Idle connections are kept for 120 s, longer than the load
// balancers that reuse them (Heroku's router 90 s, AWS ALB 60 s).
func (e *Edge) Server(ctx context.Context, secure bool) *http.Server {
	return &http.Server{
		Handler:                      e,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            10 * time.Second,
		IdleTimeout:                  120 * time.Second,
		MaxHeaderBytes:               64 << 10,
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			guarded := c.(*guardConn)
			guarded.secure = secure
			return context.WithValue(ctx, connKey, guarded)
		},
	}
}

// Listener returns l with the checks of requests that Server relies on. It goes on top
// of TLS, if there is any.
func Listener(l net.Listener) net.Listener { return guardListener{l} }

// ServeHTTP passes one request on. It implements http.Handler.
func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchange{e: e, w: w, r: r, name: unmatched, start: time.Now()}
	defer x.count()
	host, err := routing.CleanHost(r.Host)
	switch {
	case r.ProtoMajor != 1: // the preface of HTTP/2, which the server lets pass
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
	route := e.table.Match(host, cleanPath(r.URL.Path))
	if route == nil {
		x.refuse(noRoute)
		return
	}
	x.name = route.Name()
	x.run(route)
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
			e.pool.sweep(now)
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
func (e *Edge) CloseIdle() { e.pool.sweep(time.Now()) }

// Close ends what the HTTP servers no longer know of: upgraded connections and idle
// streams. It waits for them.
func (e *Edge) Close() {
	e.mu.Lock()
	e.closed = true
	for c := range e.relays {
		_ = c.Close()
	}
	e.mu.Unlock()
	e.relaying.Wait()
	e.pool.sweep(time.Now().Add(2 * idleStream))
}
