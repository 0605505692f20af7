package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/license"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/status"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

const (
	// returnGrace is how long a client whose token was taken away keeps its routes: its new
	// token may be in a file that it reads a moment after we have read ours.
	returnGrace = 10 * time.Second
	// lookEvery is how often we look whose licence has run out.
	lookEvery = time.Second
)

// grant is what lets a client in.
type grant struct {
	license    *license.License // nil: none was asked for
	tokenValid func() bool      // whether its token still is; the token itself is not kept where it could be printed
}

// name is what a client is told apart by. Its id is what it says of itself, and whoever
// comes with the id of another client, and a higher epoch, takes over from that one: with
// licences, only within one customer's.
type name struct{ subject, client string }

func (cl *client) name() name {
	n := name{client: cl.hello.ClientID}
	if cl.license != nil {
		n.subject = cl.license.Subject
	}
	return n
}

// denial is why a client may not stay.
type denial struct {
	reason string
	grace  time.Duration // for which its routes stay, so that it can come back first
}

func (g grant) licenseStatus() *status.License {
	if g.license == nil {
		return nil
	}
	l := g.license
	return &status.License{Subject: l.Subject, Expires: l.Expires, MaxClients: l.MaxClients, KeyID: l.KeyID}
}

// grant reads what a request is let in by. Its token was found good before.
func (c *Control) grant(r *http.Request) (g grant, err error) {
	token, _ := auth.Bearer(r)
	g.tokenValid = func() bool { return c.cfg.Tokens.Valid(token) }
	if c.cfg.Keys == nil {
		return g, nil
	}
	lines := r.Header.Values(license.Header)
	if len(lines) == 0 {
		c.cfg.Metrics.unlicensed("missing")
		return g, &refusal{http.StatusForbidden, "this server admits only clients with a licence: set LICENSE or LICENSE_FILE on the client to the one that you were given"}
	}
	if len(lines) > 1 {
		c.cfg.Metrics.unlicensed("format")
		return g, &refusal{http.StatusForbidden, "there is more than one licence: send one"}
	}
	l, err := c.cfg.Keys.Load().Verify(lines[0], time.Now())
	if err != nil {
		var fault *license.Error
		if errors.As(err, &fault) {
			c.cfg.Metrics.unlicensed(fault.Claim)
		}
		return g, &refusal{http.StatusForbidden, err.Error()}
	}
	g.license = &l
	return g, nil
}

// covered refuses an upstream whose route the licence does not cover.
func (c *Control) covered(l *license.License, u route.Upstream) error {
	switch {
	case l == nil:
		return nil
	case u.IsTCP() && !l.AllowsPort(u.Port):
		c.cfg.Metrics.unlicensed("ports")
		return &refusal{http.StatusForbidden, fmt.Sprintf(
			"the licence of %s does not cover port %d, which the upstream %s asks for (ports: %s): change UPSTREAMS on the client, or ask for a licence with this port", l.Subject, u.Port, u, l.PortsText())}
	case !u.IsTCP() && !l.AllowsHost(u.Host):
		c.cfg.Metrics.unlicensed("hosts")
		what := "the host " + u.Host
		if u.Host == "*" {
			what = "every host (*)"
		}
		return &refusal{http.StatusForbidden, fmt.Sprintf(
			"the licence of %s does not cover %s, which the upstream %s asks for (hosts: %s): change UPSTREAMS on the client, or ask for a licence with this host", l.Subject, what, u, l.HostsText())}
	}
	return nil
}

// seatLocked counts the connection of a client for max_clients. Connections of one client id
// have one seat: whoever reconnects takes over.
func (c *Control) seatLocked(cl *client) error {
	if cl.license == nil {
		return nil
	}
	seats, id := c.seats[cl.license.Subject], cl.hello.ClientID
	if most := cl.license.MaxClients; most > 0 && seats[id] == 0 && len(seats) >= most {
		c.cfg.Metrics.unlicensed("max_clients")
		return &refusal{http.StatusForbidden, fmt.Sprintf(
			"the licence of %s is for %d clients at once (max_clients), and so many are connected: stop one of them, or ask for a licence for more; a client that comes back under another name within a minute sets CLIENT_ID", cl.license.Subject, most)}
	}
	if seats == nil {
		seats = map[string]int{}
		c.seats[cl.license.Subject] = seats
	}
	seats[id]++
	return nil
}

// unseatLocked undoes seatLocked.
func (c *Control) unseatLocked(cl *client) {
	if cl.license == nil {
		return
	}
	seats, id := c.seats[cl.license.Subject], cl.hello.ClientID
	if seats[id]--; seats[id] <= 0 {
		delete(seats, id)
	}
	if len(seats) == 0 {
		delete(c.seats, cl.license.Subject)
	}
}

// Run looks whose licence has run out until ctx ends.
func (c *Control) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			c.expire(now)
		}
	}
}

// expire has those go whose licence has run out: at once, since they have known when.
func (c *Control) expire(now time.Time) {
	c.deny(func(cl *client) string {
		if cl.license == nil || now.Round(0).Before(cl.license.Ends()) { // by the wall clock
			return ""
		}
		return fmt.Sprintf("the licence of %s expired at %s: put a new one into LICENSE or LICENSE_FILE on the client",
			cl.license.Subject, cl.license.Expires.Format(time.RFC3339))
	}, 0)
}

// Recheck has those go whose token, or the key of whose licence, is no longer one of ours.
// They keep their routes for a while, in which they can come back with another.
func (c *Control) Recheck() {
	c.mu.Lock()
	grace := returnGrace + returnOver(len(c.clients))
	c.mu.Unlock()
	c.deny(c.revoked, grace)
}

// revoked returns why what a client was let in by is no longer ours, "" if it still is.
func (c *Control) revoked(cl *client) string {
	switch {
	case !cl.tokenValid():
		return "the token of this connection is no longer one of the server's: set TOKEN on the client to one that is"
	case cl.license != nil && !c.cfg.Keys.Load().Has(cl.license.KeyID):
		return fmt.Sprintf("the key that signed the licence of %s is no longer in LICENSE_PUBLIC_KEY of the server: ask for a new licence", cl.license.Subject)
	}
	return ""
}

// deny tells the attendants of the clients for which why has a reason.
func (c *Control) deny(why func(*client) string, grace time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range c.clients {
		if reason := why(cl); reason != "" {
			select {
			case cl.denied <- denial{reason, grace}:
			default: // it has one already
			}
		}
	}
}

var errDenied = errors.New("the client may not stay")

// dismiss has a client go that may not stay, and returns when its session is to be closed:
// when the streams under way have ended, after Config.Drain at the latest. A client that
// comes back meanwhile with what is needed takes its routes over as ever.
func (c *Control) dismiss(cl *client, d denial) error {
	s := cl.session
	c.cfg.Log.Warn().Str("client_id", cl.hello.ClientID).Str("remote_addr", cl.remote).Str("reason", d.reason).
		Int("streams", s.Streams()).Msg("client may not stay")
	jitter := time.Duration(0)
	if d.grace > 0 {
		jitter = d.grace - returnGrace
	}
	s.GoAway(tunnel.GoAway{Code: tunnel.CodeDenied, Jitter: jitter, Reason: d.reason})
	grace := time.NewTimer(d.grace)
	defer grace.Stop()
	select {
	case <-grace.C:
	case <-cl.replaced:
	case <-s.Done():
		return s.Err()
	case <-c.closing:
		return errors.New(shuttingDown)
	}
	cl.barred.Store(true)
	c.unregister(cl)
	c.cfg.Leaving()
	limit := time.NewTimer(c.cfg.Drain)
	defer limit.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for s.Streams() > 0 { // Drained was perhaps before the last of them came
		select {
		case <-look.C:
			continue
		case <-limit.C:
			c.cfg.Log.Warn().Str("client_id", cl.hello.ClientID).Int("streams", s.Streams()).Msg("drain cut off")
		case <-s.Done():
			return s.Err()
		case <-c.closing:
			return errors.New(shuttingDown)
		}
		break
	}
	return errDenied
}

// soonest returns when the first of the licences of those that are connected expires, zero
// if there is none.
func (c *Control) soonest() (at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range c.clients {
		if cl.license != nil && (at.IsZero() || cl.license.Expires.Before(at)) {
			at = cl.license.Expires
		}
	}
	return at
}
