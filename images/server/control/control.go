// Package control is the control plane of the server: where clients connect, and
// operators ask what is going on.
//
//	GET /connect               the websocket of a client (connect.go), or one of its lanes
//	                           (lane.go), needs the token
//	GET /status                the status document, needs the token (OPERATOR_TOKEN, if set)
//	GET /metrics               Prometheus, needs the same
//	GET /.well-known/ca.crt    the server's own CA, proven by the token (package autotls)
//	GET /healthz, /readyz      for probes
//
// On a port that visitors share all of it is below a path, see package oneport.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/server/pending"
	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/images/server/tcp"
	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/license"
	"github.com/adit-tunnel/adit/shared/status"
	"github.com/adit-tunnel/adit/shared/tunnel"
	"github.com/adit-tunnel/adit/shared/version"
)

// Config is what a Control needs.
type Config struct {
	Tokens *auth.Tokens
	// Operators are the tokens for /status and /metrics; nil when those of clients are.
	Operators *auth.Tokens
	Throttle  *auth.Throttle
	// Keys are those of the licences that clients need; nil when they need none.
	Keys  *atomic.Pointer[license.Keys]
	Table *routing.Table // of hosts; nil when the server does not serve HTTP
	Ports *tcp.Plane     // nil when it does not serve TCP
	// Forward serves a stream that a client opens; nil when the server does no forwards.
	Forward func(st *tunnel.Stream, clientID string)
	// CA serves /.well-known/ca.crt; nil when the server has no CA of its own.
	CA http.Handler
	// Observe serves /metrics, /healthz and /readyz.
	Observe      http.Handler
	Mode         string
	Hosts        routing.Hosts // that clients may ask for
	Reserved     string        // path at and below which no upstream can be; empty: none
	PingInterval time.Duration
	Drain        time.Duration // for streams of a client that may not stay
	MaxClients   int           // 0: no limit
	MaxStreams   int           // of one client
	Lanes        bool          // clients may dial lanes
	MaxLanes     int           // of all clients; 0: no limit
	// Pending bounds the connections that are not a client's, and counts in the metrics.
	Pending  *pending.List
	Leaving  func() // called when sessions begin to leave, if set; must not block
	Counters *tunnel.Counters
	Metrics  *Metrics
	Log      zerolog.Logger
}

// Control is the control plane: an http.Handler, and the registry of sessions.
type Control struct {
	cfg      Config
	upgrader websocket.Upgrader
	mux      http.ServeMux
	started  time.Time
	hostname string

	aliveAfter time.Duration // how long a connection that was taken over may take to answer

	mu       sync.Mutex
	clients  map[name]*client
	replaced map[name]*client           // the one before, finishing what is under way
	lanes    map[string]*tunnel.Session // by the id of their grant
	joining  int                        // clients that were admitted and are not yet in clients
	seats    map[string]map[string]int  // by licence, by client id: connections, joining too
	peak     int                        // the most clients that there were
	unready  bool                       // for probes
	draining bool                       // no new clients
	closed   bool
	closing  chan struct{}  // closed with closed
	work     sync.WaitGroup // handshakes and sessions; begun under the lock, and not while draining
}

const (
	// aliveAfter is how long a connection that was taken over has to show that it lives.
	aliveAfter = 3 * time.Second
)

// New returns a Control. Close ends its sessions.
func New(cfg Config) *Control {
	if cfg.Leaving == nil {
		cfg.Leaving = func() {}
	}
	c := &Control{
		cfg:        cfg,
		started:    time.Now(),
		aliveAfter: aliveAfter,
		clients:    map[name]*client{},
		replaced:   map[name]*client{},
		lanes:      map[string]*tunnel.Session{},
		seats:      map[string]map[string]int{},
		closing:    make(chan struct{}),
		upgrader: websocket.Upgrader{
			HandshakeTimeout: 10 * time.Second,
			ReadBufferSize:   tunnel.ReadBufferSize,
			WriteBufferSize:  tunnel.WriteBufferSize,
			WriteBufferPool:  tunnel.WriteBufferPool,
			Subprotocols:     []string{tunnel.Subprotocol},
			// No browser is a client: the token is what counts, and pages cannot set it.
			CheckOrigin: func(*http.Request) bool { return true },
			Error: func(w http.ResponseWriter, _ *http.Request, code int, reason error) {
				refuse(w, code, reason.Error())
			},
		},
	}
	c.hostname, _ = os.Hostname()
	cfg.Metrics.collect(c)
	cfg.Pending.OnDrop(cfg.Metrics.dropped.Inc)

	if cfg.Operators == nil {
		cfg.Operators = cfg.Tokens
	}
	protect := func(tokens *auth.Tokens, next http.HandlerFunc) http.Handler {
		return auth.Require(tokens, cfg.Throttle, cfg.Metrics.AuthFailed, cfg.Log, next)
	}
	c.handle("/connect", protect(cfg.Tokens, c.connect))
	c.handle("/status", protect(cfg.Operators, c.status))
	c.handle("/metrics", protect(cfg.Operators, cfg.Observe.ServeHTTP))
	c.handle("/healthz", cfg.Observe)
	c.handle("/readyz", c.Enough(cfg.Observe))
	ca := cfg.CA
	if ca == nil {
		ca = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, http.StatusNotFound, "this server has no CA of its own: its certificate comes from TLS_CERT, or TLS ends in front of it; set AUTO_TLS=false on the client")
		})
	}
	c.handle("/.well-known/ca.crt", ca)
	c.mux.Handle("/", c.counted("other", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "this is the control plane of an adit server: it has /connect, /status, /metrics, /healthz, /readyz and /.well-known/ca.crt; visitors use the data plane")
	})))
	return c
}

// handle registers a path for GET and HEAD, counted under its own label.
func (c *Control) handle(path string, h http.Handler) {
	c.mux.Handle(path, c.counted(path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			refuse(w, http.StatusMethodNotAllowed, "use GET")
			return
		}
		h.ServeHTTP(w, r)
	})))
}

// ServeHTTP implements http.Handler.
func (c *Control) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.mux.ServeHTTP(w, r) }

// From has next see requests as coming from address, which knows of proxies in front, so
// that logs, the status and the slowing down of failures are about who it was.
func From(address func(*http.Request) string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if addr := address(r); addr != r.RemoteAddr {
			out := *r
			out.RemoteAddr, r = addr, &out
		}
		next.ServeHTTP(w, r)
	})
}

// Server returns an http.Server for the control plane. Connections that become
// websockets are no longer subject to its timeouts.
func (c *Control) Server() *http.Server {
	return &http.Server{
		Handler:           c,
		ReadHeaderTimeout: 10 * time.Second, // TLS handshakes too
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ConnState:         c.cfg.Pending.Track,
	}
}

// Ready returns why the server should get no new visitors, or nil.
func (c *Control) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unready {
		return errors.New(shuttingDown)
	}
	return nil
}

// Enough lets /readyz?clients=N be answered only when N clients are connected: what a load
// balancer should ask, so that a server that has just started gets no visitors before its
// clients are back. Everything else is left to next.
func (c *Control) Enough(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if query := r.URL.Query(); r.URL.Path == "/readyz" && query.Has("clients") {
			want, err := strconv.Atoi(query.Get("clients"))
			if err != nil || want < 0 {
				refuse(w, http.StatusBadRequest, "clients is not a number: write /readyz?clients=2")
				return
			}
			c.mu.Lock()
			have := len(c.clients)
			c.mu.Unlock()
			if have < want {
				refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("%d clients are needed, %d are connected", want, have))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// Drain makes the server unready at once and, after the delay or when ctx ends, refuses
// new clients and tells those that are connected to go elsewhere. What is under way goes
// on.
func (c *Control) Drain(ctx context.Context, delay time.Duration) {
	c.mu.Lock()
	c.unready = true
	c.mu.Unlock()
	if delay > 0 {
		c.cfg.Log.Info().Stringer("delay", delay).Msg("not ready any more, still accepting")
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	c.draining = true
	all := slices.Collect(maps.Values(c.clients))
	c.mu.Unlock()
	jitter := returnOver(len(all))
	for _, cl := range all {
		cl.session.GoAway(tunnel.GoAway{Jitter: jitter, Reason: shuttingDown})
	}
	c.cfg.Leaving()
}

// returnOver is the time over which so many clients are to come back: a hundred a second.
func returnOver(clients int) time.Duration {
	return min(max(time.Duration(clients)*10*time.Millisecond, time.Second), 30*time.Second)
}

// most returns how many clients there have been at once, with one that is just coming.
func (c *Control) most() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peak = max(c.peak, len(c.clients)+1)
	return c.peak
}

const shuttingDown = "the server is shutting down"

// Close ends all sessions and waits until they are gone.
func (c *Control) Close() {
	c.mu.Lock()
	c.unready, c.draining = true, true
	if !c.closed {
		c.closed = true
		close(c.closing)
	}
	c.mu.Unlock()
	c.work.Wait()
}

// Document returns the status document, clients in the order in which they came.
func (c *Control) Document() status.Document {
	doc := status.Document{Info: status.Info{
		Version: version.Version, SHA: version.SHA, Mode: c.cfg.Mode,
		StartTime: c.started, Hostname: c.hostname,
	}}
	c.mu.Lock()
	for _, cl := range c.clients {
		doc.Clients = append(doc.Clients, status.Client{
			ClientID: cl.hello.ClientID, RemoteAddr: cl.remote, Since: cl.since, Upstreams: cl.upstreams, Waiting: cl.waiting(),
			License: cl.licenseStatus(),
		})
	}
	c.mu.Unlock()
	slices.SortFunc(doc.Clients, func(a, b status.Client) int {
		if d := a.Since.Compare(b.Since); d != 0 {
			return d
		}
		return strings.Compare(a.ClientID, b.ClientID)
	})
	return doc
}

func (c *Control) status(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(c.Document())
}

// refuse answers with a status and a line of text that says why.
func refuse(w http.ResponseWriter, code int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n") // #nosec G705 -- plain text, with nosniff
}
