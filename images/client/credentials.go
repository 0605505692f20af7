package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/license"
)

const (
	// rereadEvery is how often files of secrets are looked at. A change counts once it
	// looks the same twice, so it is taken up within two of these.
	rereadEvery = 2 * time.Second
	// remindAhead is how long before a licence expires its holder is told, once in
	// remindEvery.
	remindAhead = 30 * 24 * time.Hour
	remindEvery = 24 * time.Hour
	// lookEvery is how often we look whether it is time for that, by the wall clock.
	lookEvery = time.Minute
)

// credentials are the token and the licence of the moment, and those that visitors need.
type credentials struct {
	cfg *settings
	log zerolog.Logger

	mu      sync.Mutex
	token   string
	license string // "" if there is none
	claims  license.License
	told    string    // what the log has about claims,
	toldAt  time.Time // and since when

	visitors visitors
	access   json.RawMessage // what a server is told of who may visit

	changed chan struct{} // closed with the next change
}

// newCredentials takes those of the settings. A licence that has expired is no fault: the
// next one may come while we run, and it is the server whose clock counts.
func newCredentials(cfg *settings, reg prometheus.Registerer, log zerolog.Logger) (*credentials, error) {
	c := &credentials{cfg: cfg, log: log, changed: make(chan struct{})}
	var err error
	if c.token, err = cfg.token(cfg.Token.Value()); err != nil {
		return nil, config.Fault("TOKEN", "%w", err)
	}
	c.visitors = newVisitors(cfg)
	policies, err := c.visitors.policies(cfg)
	if err != nil {
		return nil, err
	}
	if c.access, err = access.Encode(policies); err != nil {
		return nil, config.Fault("ALLOW_IPS", "%w", err)
	}
	if c.access == nil {
		log.Info().Str("visitors", new(access.Policy).String()).Msg("who may visit")
	} else {
		for i, p := range policies {
			log.Info().Str("upstream", cfg.Upstreams[i].String()).Stringer("visitors", p).Msg("who may visit")
		}
	}
	if !cfg.License.IsSet() {
		return c, nil
	}
	if c.license, c.claims, err = readLicense(cfg.License.Value()); err != nil {
		return nil, config.Fault("LICENSE", "%w", err)
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "adit_license_expiry_timestamp_seconds",
		Help: "When the licence of this client expires, in seconds since 1970; 0 if it does not say so in a way that we understand.",
	}, func() float64 { return float64(max(c.expires().Unix(), 0)) }))
	c.tell(time.Now())
	return c, nil
}

// readLicense returns a licence in its usual form and what it says. What this version does
// not understand is for the server to judge: only what is no licence at all is an error.
func readLicense(value string) (string, license.License, error) {
	text := strings.TrimSpace(value)
	claims, err := license.Read(text)
	var fault *license.Error
	if errors.As(err, &fault) && fault.Claim != "format" {
		return text, license.License{}, nil
	}
	return text, claims, err
}

// Token returns the token of the moment.
func (c *credentials) Token() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// License returns the licence of the moment, "" if there is none.
func (c *credentials) License() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.license
}

// Changed returns a channel that is closed when one of them changes.
func (c *credentials) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *credentials) expires() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claims.Expires
}

func (c *credentials) changedLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// watchToken takes up a changed TOKEN_FILE until ctx ends.
func (c *credentials) watchToken(ctx context.Context) error {
	_ = c.cfg.Token.Watch(ctx, rereadEvery, func(value string) {
		next, err := c.cfg.token(value)
		if err != nil {
			c.log.Error().Err(err).Str("file", c.cfg.Token.File()).Msg("the new token is not valid, the old one stays")
			return
		}
		c.mu.Lock()
		if next != c.token { // the file has more than the one that we use
			c.token = next
			c.changedLocked()
		}
		c.mu.Unlock()
		c.log.Info().Str("file", c.cfg.Token.File()).Msg("took up a changed token")
	})
	return nil
}

// watchLicense takes up a changed LICENSE_FILE until ctx ends.
func (c *credentials) watchLicense(ctx context.Context) error {
	_ = c.cfg.License.Watch(ctx, rereadEvery, func(value string) {
		text, claims, err := readLicense(value)
		if err != nil {
			c.log.Error().Err(err).Str("file", c.cfg.License.File()).Msg("the new licence is none, the old one stays")
			return
		}
		c.mu.Lock()
		if text != c.license {
			c.license, c.claims, c.told = text, claims, ""
			c.changedLocked()
		}
		c.mu.Unlock()
		c.log.Info().Str("file", c.cfg.License.File()).Msg("took up a changed licence")
		c.tell(time.Now())
	})
	return nil
}

// remind tells of a licence that is about to expire, once a day, until ctx ends.
func (c *credentials) remind(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			c.tell(now.Round(0)) // by the wall clock
		}
	}
}

// tell logs the state of the licence when it is another than before, and once a day as
// long as somebody should act.
func (c *credentials) tell(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.license == "" {
		return
	}
	level, message := zerolog.InfoLevel, "the licence is good"
	switch left := c.claims.Expires.Sub(now); {
	case c.claims.Expires.IsZero():
		message = "the licence says something that this version does not understand: the server decides"
	case left <= 0:
		level, message = zerolog.ErrorLevel, "the licence has expired: ask for a new one and put it into LICENSE or LICENSE_FILE"
	case left <= remindAhead:
		level, message = zerolog.WarnLevel, "the licence expires soon: ask for a new one and put it into LICENSE or LICENSE_FILE"
	}
	if message == c.told && (level == zerolog.InfoLevel || now.Sub(c.toldAt) < remindEvery) {
		return
	}
	c.told, c.toldAt = message, now
	c.log.WithLevel(level).Str("sub", c.claims.Subject).Time("expires", c.claims.Expires).Msg(message)
}
