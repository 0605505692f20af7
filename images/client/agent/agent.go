// Package agent keeps a client connected to its servers: one Agent for each URL. It
// dials, serves the streams of the session, and when that ends dials again, for ever.
//
// agent.go is that loop, url.go how servers are named, connect.go one handshake, with
// proxy.go for the way out of the private network, backoff.go the time in between,
// leave.go how a session is left, renew.go how it gets a successor with a
// new token or licence, streams.go what happens to a stream that the server opens, and
// forward.go how the client opens one.
package agent

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/client/upstream"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// Config is what an Agent needs.
type Config struct {
	Server  *url.URL // ws or wss, with the path below which the control plane is
	Token   func() string
	License func() string // "" or nil: none
	// Access returns who may visit, in the form of package access; nil: everybody.
	Access func() json.RawMessage
	// Changed returns a channel that is closed when Token, License or Access return something
	// else than now: a session that there is then gets a successor. Nil: never.
	Changed      func() <-chan struct{}
	TLS          TLSMode
	CA           func() string // PEM, for TLSCustom
	ClientID     string
	Upstreams    route.List
	PingInterval time.Duration
	Drain        time.Duration // for streams under way when the client or the server leaves
	Dialer       upstream.Dialer
	Health       *upstream.Health // which upstreams wait; nil: none
	// Forwards says that Forward will be called, and Up is called whenever there is a
	// session for that; it must not block.
	Forwards bool
	Up       func()
	// Lanes has bulky streams get a connection of their own.
	Lanes    bool
	Counters *tunnel.Counters
	Metrics  *Metrics
	Log      zerolog.Logger
}

// TLSMode says how the server's certificate is verified.
type TLSMode int

const (
	TLSPublic TLSMode = iota // by the public authorities
	TLSAuto                  // by the token: the server has a CA of its own
	TLSCustom                // by Config.CA
)

// Agent is the connection to one server. Run does the work.
type Agent struct {
	cfg    Config
	log    zerolog.Logger
	delays delays
	epoch  uint64 // of the last attempt; Run's
	// returnOver is over which time the server wants its clients back if it crashes; Run's.
	returnOver time.Duration
	down       []atomic.Bool // by upstream: it could not be reached
	proxy      func(*http.Request) (*url.URL, error)

	// offers says whether the server that was met last does forwards; Run's.
	offers bool

	reports sync.WaitGroup // goroutines of report

	mu       sync.Mutex
	session  *tunnel.Session   // the newest, nil while there is none
	forwards bool              // its server does them
	denied   map[string]string // but not these: reasons by destination
}

// New returns an Agent.
func New(cfg Config) *Agent {
	if cfg.Health == nil {
		cfg.Health = new(upstream.Health)
	}
	return &Agent{
		cfg: cfg, delays: defaultDelays, log: cfg.Log.With().Str("url", cfg.Server.String()).Logger(),
		down: make([]atomic.Bool, len(cfg.Upstreams)), proxy: http.ProxyFromEnvironment,
		// Of two processes with one client id the one that was started last keeps the routes,
		// and the other is told; within a process each session is newer than the one before.
		epoch: uint64(time.Now().UnixMilli()) << 20,
	}
}

// Connected reports whether there is a session that takes streams.
func (a *Agent) Connected() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.session != nil && !a.session.Leaving()
}

// RTT returns the round trip to the server, 0 while it is not known.
func (a *Agent) RTT() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.session == nil {
		return 0
	}
	return a.session.RTT()
}

// Run keeps the client connected until ctx ends; then it tells the server, waits for
// the streams under way, up to Config.Drain, and returns nil.
func (a *Agent) Run(ctx context.Context) error {
	defer a.reports.Wait() // they end with their sessions
	var left departures
	defer left.wait()
	backoff := backoff{delays: a.delays}
	var before predecessor
	for {
		changed := a.changed() // before the token is read
		session, goAway, err := a.connect(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			wait := backoff.after(err)
			a.cfg.Metrics.reconnected(err)
			a.explain(err, wait)
			if !a.pause(ctx, wait, changed, &before, &backoff) {
				return nil
			}
			continue
		}
		before = predecessor{}
		a.use(session)
		backoff.connected(a.returnOver)
		left.succeeded()
		a.log.Info().Str("client_id", a.cfg.ClientID).Strs("upstreams", a.cfg.Upstreams.Strings()).Msg("connected")
		var wait time.Duration
		select {
		case <-ctx.Done():
			a.use(nil)
			a.leave(session)
			return nil
		case <-changed:
			before = predecessor{session, goAway} // and it stays in use
			if !sleep(ctx, a.renew(ctx, &left, session)) {
				return nil
			}
			continue
		case g := <-goAway:
			wait = a.depart(ctx, &left, session, g, &backoff)
		case <-session.Done():
			select {
			case g := <-goAway: // its last word counts
				wait = a.depart(ctx, &left, session, g, &backoff)
			default:
				err := session.Err()
				_ = session.Close()
				wait = backoff.after(err)
				a.cfg.Metrics.reconnected(err)
				a.log.Warn().AnErr("reason", err).Stringer("reconnect_in", wait.Round(time.Millisecond)).Msg("connection lost")
			}
		}
		a.use(nil)
		if !a.pause(ctx, wait, changed, &before, &backoff) {
			return nil
		}
	}
}

func (a *Agent) use(s *tunnel.Session) {
	a.mu.Lock()
	a.session, a.forwards, a.denied = s, a.offers, nil
	a.mu.Unlock()
	if s != nil && a.cfg.Up != nil {
		a.cfg.Up()
	}
}

// explain logs why there is no connection: loudly when only a person can mend it.
func (a *Agent) explain(err error, wait time.Duration) {
	event := a.log.Warn()
	if permanent(err) {
		event = a.log.Error()
	}
	event.Err(err).Stringer("retry_in", wait.Round(time.Millisecond)).Msg("cannot connect")
}

// sleep waits, and reports false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d) // #nosec G404 -- spreads attempts, is no secret
}
