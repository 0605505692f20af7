package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
	"github.com/adit-tunnel/adit/shared/version"
)

const (
	// A service that answered is gone after so many failed checks in a row, and one that
	// was gone is back after so many good ones. The first one of all counts at once.
	failuresToWait, answersToReturn = 2, 2
	// soon is the pace of checks while a service is gone, or may be.
	soon = time.Second
)

// HealthConfig is what a Health needs.
type HealthConfig struct {
	Upstreams route.List
	Wait      route.Wait // for those that do not say themselves how visitors wait for them
	// Interval is the time between two checks while the service answers, and the longest
	// that one may take.
	Interval time.Duration
	Dialer   Dialer
	Log      zerolog.Logger
}

// Health knows which upstreams wait for the service behind them: those that are to be
// waited for, and do not answer. All methods may be called by any goroutine. The zero
// Health watches nothing.
type Health struct {
	cfg     HealthConfig
	watched []*service // by index of the upstream; nil for what is not waited for

	mu      sync.Mutex
	changed chan struct{} // closed with the next change
}

// service is what one upstream leads to, as the checks found it.
type service struct {
	upstream route.Upstream
	name     string
	wait     route.Wait
	doubt    chan struct{} // capacity 1: a visitor could not be connected

	// Guarded by the lock of Health.
	answers bool
	was     bool // it has answered once
	told    bool // that it is waited for
	streak  int  // checks in a row that say otherwise than answers
	reason  error
}

// NewHealth returns a Health for which everything that is to be waited for is not there
// yet. Run finds out. The state is exported to reg.
func NewHealth(cfg HealthConfig, reg prometheus.Registerer) *Health {
	h := &Health{cfg: cfg, watched: make([]*service, len(cfg.Upstreams)), changed: make(chan struct{})}
	names := cfg.Upstreams.Announced()
	for i, u := range cfg.Upstreams {
		switch wait := u.WaitOr(cfg.Wait); wait.Kind {
		case route.WaitTCP, route.WaitHTTP:
			s := &service{upstream: u, name: names[i], wait: wait, doubt: make(chan struct{}, 1), reason: errors.New("not asked yet")}
			h.watched[i] = s
			reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name:        "adit_upstream_healthy",
				Help:        "Whether the service behind an upstream that is waited for answers: 1 or 0.",
				ConstLabels: prometheus.Labels{"upstream": s.name},
			}, func() float64 {
				h.mu.Lock()
				defer h.mu.Unlock()
				if s.answers {
					return 1
				}
				return 0
			}))
		}
	}
	return h
}

// Watches reports whether there is anything to wait for.
func (h *Health) Watches() bool {
	for _, s := range h.watched {
		if s != nil {
			return true
		}
	}
	return false
}

// Waiting returns which upstreams wait now, and a channel that is closed when that changes.
func (h *Health) Waiting() (w tunnel.Waiting, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, s := range h.watched {
		if s != nil && !s.answers {
			w.Add(i)
		}
	}
	return w, h.changed
}

// Err says what does not answer, or returns nil.
func (h *Health) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var missing []string
	for _, s := range h.watched {
		if s != nil && !s.answers {
			missing = append(missing, s.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("waiting for %s", strings.Join(missing, ", "))
}

// Failed tells that a visitor could not be connected to an upstream. That counts as a
// failed check, and the next one is made at once.
func (h *Health) Failed(i int) {
	if i >= len(h.watched) || h.watched[i] == nil {
		return
	}
	s := h.watched[i]
	select {
	case s.doubt <- struct{}{}:
	default:
	}
}

// Run checks until ctx ends.
func (h *Health) Run(ctx context.Context) error {
	var work sync.WaitGroup
	for _, s := range h.watched {
		if s != nil {
			work.Go(func() { h.watch(ctx, s) })
		}
	}
	<-ctx.Done()
	work.Wait()
	return nil
}

func (h *Health) watch(ctx context.Context, s *service) {
	for {
		err := h.check(ctx, s)
		if ctx.Err() != nil {
			return
		}
		pause, doubt := h.cfg.Interval, s.doubt
		if !h.note(s, err) { // it is asked again soon, and no visitor need tell
			pause, doubt = min(pause, soon), nil
		}
		timer := time.NewTimer(pause - rand.N(pause/10)) // #nosec G404 -- not all at the same time, and no secret
		select {
		case <-timer.C:
		case <-doubt:
			h.note(s, errVisitor)
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

var errVisitor = errors.New("a visitor could not be connected")

// note takes the outcome of a check, and reports whether there is no doubt that the
// service answers.
func (h *Health) note(s *service, err error) (sure bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		s.reason = err
	}
	if (err == nil) == s.answers {
		s.streak = 0
		if err != nil && !s.told {
			s.told = true
			h.cfg.Log.Info().AnErr("reason", err).Str("upstream", s.name).Stringer("wait", s.wait).Msg("waiting for upstream")
		}
		return s.answers
	}
	s.streak++
	enough := failuresToWait
	switch {
	case !s.answers && !s.was:
		enough = 1
	case !s.answers:
		enough = answersToReturn
	}
	if s.streak < enough {
		return false
	}
	s.answers, s.streak = !s.answers, 0
	if s.answers {
		s.was, s.told = true, true
		h.cfg.Log.Info().Str("upstream", s.name).Stringer("wait", s.wait).Msg("upstream answers")
	} else {
		h.cfg.Log.Warn().AnErr("reason", s.reason).Str("upstream", s.name).Stringer("wait", s.wait).Msg("upstream does not answer any more")
	}
	close(h.changed)
	h.changed = make(chan struct{})
	return s.answers
}

// check returns nil if the service answers. It connects as a visitor is connected, so that
// what visitors could not get through makes no difference.
func (h *Health) check(ctx context.Context, s *service) error {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Interval)
	defer cancel()
	dial := func(ctx context.Context) (net.Conn, error) {
		return h.cfg.Dialer.Dial(ctx, s.upstream, tunnel.Target{})
	}
	if s.wait.Kind == route.WaitTCP {
		conn, err := dial(ctx)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://upstream"+s.wait.Path, nil)
	if err != nil {
		return err
	}
	req.Host = hostOf(s.upstream)
	req.Header.Set("User-Agent", "adit-client/"+version.Version)
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(!s.upstream.SpeaksHTTP2())
	transport.Protocols.SetUnencryptedHTTP2(s.upstream.SpeaksHTTP2()) // TLS is the dialer's business
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req) // no redirects: they are answers
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode < s.wait.Low || resp.StatusCode > s.wait.High {
		return fmt.Errorf("%s is answered with %d", s.wait.Path, resp.StatusCode)
	}
	return nil
}

// hostOf returns the Host that a service is asked for by us.
func hostOf(u route.Upstream) string {
	switch {
	case u.RewriteHost != "":
		return u.RewriteHost
	case u.Scheme == route.Unix:
		return "localhost"
	}
	return u.Address
}
