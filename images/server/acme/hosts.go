package acme

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/caddyserver/certmagic"
)

// host is one that is to have a certificate.
type host struct {
	name    string
	domain  bool      // of Config.Domains; otherwise it is there on demand
	served  time.Time // on demand: when a client was last seen to serve it
	running bool      // an attempt is under way
	managed bool      // it has a certificate, which certmagic renews

	failures int // in a row
	due      time.Time
}

const (
	// parallel bounds how many attempts are under way at once, attemptTimeout how long one may take.
	parallel       = 4
	attemptTimeout = 5 * time.Minute
	// linger is how long a host on demand keeps its certificate when no client serves it any more.
	linger = time.Hour
	// Hosts on demand that had no certificate before: so many at once, and one each onDemandEvery after that. Let's
	// Encrypt allows an account 300 in three hours.
	onDemandBurst = 50
	onDemandEvery = time.Minute

	firstRetry = 5 * time.Second
	// maxRetry is the longest time between attempts, and maxUnreachable that while the directory cannot be reached,
	// which costs it nothing.
	maxRetry       = 6 * time.Hour
	maxUnreachable = 2 * time.Minute
)

// errBudget delays a host on demand because there are too many new ones.
var errBudget = errors.New("too many new hosts in a short time")

// errUnserved keeps certificates from being asked for by whatever way, renewals included, for a host on demand that no
// client serves.
var errUnserved = errors.New("no client serves the host")

// mayAsk is the last gate before the directory: it returns errUnserved unless the host is one of Config.Domains, or
// served at this moment.
func (m *Manager) mayAsk(name string) error {
	if slices.Contains(m.cfg.Domains, name) || m.cfg.Served != nil && slices.Contains(m.cfg.Served(), name) {
		return nil
	}
	return errUnserved
}

// budget is a bucket of tokens, each good for one host. The Manager's lock guards it.
type budget struct {
	tokens float64
	at     time.Time
}

// spend takes a token if there is one.
func (m *Manager) spend() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	b := &m.budget
	b.tokens = min(onDemandBurst, b.tokens+now.Sub(b.at).Seconds()/onDemandEvery.Seconds())
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// wantLocked brings the hosts up to date.
func (m *Manager) wantLocked(now time.Time) {
	m.seen = now
	want := func(name string, domain bool) {
		h := m.hosts[name]
		switch {
		case h != nil:
			h.served = now
			return
		case m.cfg.Covered != nil && m.cfg.Covered(name):
			return
		case !domain && !m.mayHave(name):
			return
		}
		m.hosts[name] = &host{name: name, domain: domain, served: now, due: now}
	}
	for _, name := range m.cfg.Domains {
		want(name, true)
	}
	if m.cfg.Served != nil {
		for _, name := range m.cfg.Served() {
			want(name, false)
		}
	}
	for name, h := range m.hosts {
		if h.domain || h.running || h.served.Equal(now) {
			continue
		}
		if !h.managed || now.Sub(h.served) > linger {
			m.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: name}})
			delete(m.hosts, name)
		}
	}
}

// mayHave reports whether the directory can have certificates for the host: names only, and with Let's Encrypt only
// public ones.
func (m *Manager) mayHave(name string) bool {
	return IsName(name) && (!Public(m.cfg.Directory) || IsPublic(name))
}

// Public reports whether the directory is one of Let's Encrypt's, which have certificates for public names only.
func Public(directory string) bool { return directory == Production || directory == Staging }

// IsName reports whether a certificate for the host can be had by the challenges that are served here: addresses and
// wildcards cannot.
func IsName(host string) bool {
	if certmagic.SubjectIsIP(host) || len(host) > 253 || host == "" {
		return false
	}
	for _, c := range host {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return certmagic.SubjectQualifiesForCert(host)
}

// IsPublic reports whether a host may be known in all of the internet.
func IsPublic(host string) bool {
	return certmagic.SubjectQualifiesForPublicCert(host) && len(host) > 2 && hasDot(host)
}

func hasDot(host string) bool {
	for i := range len(host) {
		if host[i] == '.' {
			return true
		}
	}
	return false
}

// dueLocked returns a host whose attempt is due, for it to be made, or nil.
func (m *Manager) dueLocked(now time.Time) *host {
	for _, h := range m.hosts {
		if !h.managed && !h.running && !h.due.After(now) && (h.domain || h.served.Equal(m.seen)) {
			h.running = true
			return h
		}
	}
	return nil
}

// nextLocked returns how long it is to the next attempt that waits for nothing but time.
func (m *Manager) nextLocked(now time.Time) time.Duration {
	next := maxCheck
	for _, h := range m.hosts {
		if !h.managed && !h.running && h.due.After(now) {
			next = min(next, h.due.Sub(now))
		}
	}
	return next
}

// finish notes how an attempt ended, and returns the next host whose attempt is due, nil if there is none: then the
// worker ends.
func (m *Manager) finish(h *host, err error) (next *host) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() {
		if !errors.Is(err, context.Canceled) {
			next = m.dueLocked(time.Now())
		}
		if next == nil {
			m.running--
		}
	}()
	h.running = false
	switch {
	case err == nil:
		h.managed, h.failures = true, 0
		m.everyLocked(h.name)
		m.checked = time.Time{} // what was kept may be due
	case errors.Is(err, context.Canceled):
		h.due = time.Now()
	case errors.Is(err, errUnserved):
		// Not at once: each attempt takes of the budget, and wantLocked has yet to miss the host. Once it has, the host
		// is a new one when it is served again, and due.
		h.due = time.Now().Add(firstRetry)
	case errors.Is(err, errBudget):
		h.due = time.Now().Add(onDemandEvery)
		m.log.Warn().Str("host", h.name).Stringer("retry_in", onDemandEvery).Msg("certificate is late, too many hosts are new")
	default:
		h.failures++
		reason := reasonOf(err)
		wait := retryIn(h.failures, reason)
		h.due = time.Now().Add(wait)
		m.cfg.Metrics.failed(reason)
		event := m.log.Error()
		if !h.domain {
			event = m.log.Warn() // for its client to see to
		}
		event.Err(err).Str("host", h.name).Str("reason", reason).Str("hint", hints[reason]).Int("attempt", h.failures).
			Stringer("retry_in", wait).Msg("certificate could not be had")
	}
	return nil
}

// retryIn returns how long to wait after so many failures.
func retryIn(failures int, reason string) time.Duration {
	limit, wait := maxRetry, firstRetry
	switch reason {
	case reasonUnreachable:
		limit = maxUnreachable
	case reasonLimited:
		wait = time.Hour
	case reasonStorage, reasonOther: // such as a full disk, on which the account is lost that was just made
		wait = 2 * firstRetry
	case reasonChallenge, reasonRefused: // each counts against a limit of the directory's
		wait = time.Minute
	}
	for range failures - 1 {
		if wait *= 2; wait >= limit {
			return limit
		}
	}
	return wait
}

// everyLocked has renewals looked at often enough for the certificate of a host.
func (m *Manager) everyLocked(name string) {
	every := m.every
	for _, cert := range m.cache.AllMatchingCertificates(name) {
		every = max(min(every, cert.Lifetime()/100), minCheck)
	}
	if every != m.every {
		m.every = every
		options := m.options(every)
		options.Logger = newLogger(m)
		m.cache.SetOptions(options)
	}
}
