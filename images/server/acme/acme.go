// Package acme gets certificates for visitors' hosts from an ACME directory (RFC 8555), such as Let's Encrypt, keeps
// them in a folder, and renews them.
//
// The protocol, the storage, OCSP and renewals are certmagic's. What is decided here is which hosts are to have a
// certificate, and when the next attempt is made (hosts.go); which one a visitor gets, and who may answer a challenge
// (serve.go); what a failure is called (reason.go); and what is logged and counted (log.go, metrics.go).
//
// Hosts are wanted because they are in Config.Domains, or because a client serves them (on demand). Nothing that a
// visitor does causes a certificate to be asked for.
package acme

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	stdlog "log"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/rs/zerolog"
)

// Directories by the names that settings have for them.
const (
	Production = certmagic.LetsEncryptProductionCA
	Staging    = certmagic.LetsEncryptStagingCA
)

// Config is what a Manager needs.
type Config struct {
	Domains []string // hosts that always have a certificate, in lower case
	// Served returns the hosts that clients serve now, in lower case; nil: there are no
	// certificates on demand.
	Served func() []string
	// Covered reports whether another certificate is used for a host; nil: for none.
	Covered func(host string) bool

	Directory string         // URL of the ACME directory
	Roots     *x509.CertPool // whom the directory's own TLS is trusted by; nil: the system's
	Email     string         // contact of the account; may be empty
	Dir       string         // where certificates, keys and the account are kept

	// The ports on which visitors reach us, and the address that they are bound on.
	Addr                string
	HTTPPort, HTTPSPort int

	Metrics *Metrics
	Log     zerolog.Logger
}

// Manager has the certificates. It is safe for concurrent use.
type Manager struct {
	cfg    Config
	log    zerolog.Logger
	cache  *certmagic.Cache
	magic  *certmagic.Config
	issuer *certmagic.ACMEIssuer
	wake   chan struct{} // capacity 1

	mu        sync.Mutex
	hosts     map[string]*host // wanted, or so lately
	seen      time.Time        // when they were last brought up to date
	running   int              // how many workers make attempts
	budget    budget
	upkeeping bool
	checked   time.Time     // when renewals were last looked at
	every     time.Duration // how often they are
	told      string        // the last error of a renewal that was logged
	cleaned   time.Time     // when the folder was last cleared of what is out of date
}

// New returns a Manager, whose Run does all the work. There is one in a process: certmagic keeps much to itself that all
// its users share, and the standard logger is ours from then on. An error says that the folder cannot be used.
func New(cfg Config) (*Manager, error) {
	if err := testDir(cfg.Dir); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), hosts: map[string]*host{},
		budget: budget{tokens: onDemandBurst, at: time.Now()}, every: maxCheck, cleaned: time.Now(),
	}
	logger := newLogger(m)
	storage := &certmagic.FileStorage{Path: cfg.Dir}
	options := m.options(maxCheck)
	options.Logger = logger
	m.cache = certmagic.NewCache(options)
	m.magic = certmagic.New(m.cache, certmagic.Config{Storage: storage, Logger: logger, OnEvent: m.event})
	email := cfg.Email
	if email == "" {
		email = " " // stands for none: at an empty one certmagic asks on the terminal
	}
	testDirectory := ""
	if cfg.Directory == Production {
		testDirectory = Staging // for attempts after a failed one, which have no limits there that matter
	}
	stdlog.SetFlags(0)
	stdlog.SetOutput(standard{m})
	m.issuer = certmagic.NewACMEIssuer(m.magic, certmagic.ACMEIssuer{
		CA: cfg.Directory, TestCA: testDirectory, Email: email, Agreed: true, TrustedRoots: cfg.Roots,
		ListenHost: strings.Trim(cfg.Addr, "[]"), AltHTTPPort: cfg.HTTPPort, AltTLSALPNPort: cfg.HTTPSPort, Logger: logger,
	})
	m.magic.Issuers = []certmagic.Issuer{m.issuer}
	cfg.Metrics.observe(m)
	return m, nil
}

// options are those of certmagic's cache, with the interval at which renewals are looked at.
func (m *Manager) options(every time.Duration) certmagic.CacheOptions {
	return certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.magic, nil },
		RenewCheckInterval: every,
	}
}

// testDir makes sure of a folder for secrets that can be written to.
func testDir(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(dir, ".writable-*"); err == nil {
			_, err = f.Write(make([]byte, 4<<10)) // a full disk shows
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("certificates cannot be kept in %s: %w: make it a folder that user id %d may write to, or set another", dir, err, os.Getuid())
	}
	return nil
}

const (
	// maxCheck is how often renewals are looked at, more often if certificates live for hours only.
	maxCheck = 10 * time.Minute
	minCheck = time.Second
	// cleanEvery is how often the folder is cleared of certificates that expired expiredGrace ago.
	cleanEvery   = 24 * time.Hour
	expiredGrace = 30 * 24 * time.Hour
	// gather is how long changes are collected before they are looked at.
	gather = 50 * time.Millisecond
)

// Run gets and renews certificates until ctx ends, and returns nil then.
func (m *Manager) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer func() {
		work.Wait()
		m.cache.Stop()
		certmagic.CleanUpOwnLocks(context.WithoutCancel(ctx), newLogger(m))
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	armed := false // for a change: another one must not put off the step, or changes that never stop would forever
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
			if !armed {
				armed = true
				timer.Reset(gather)
			}
		case <-timer.C:
			armed = false
			timer.Reset(m.step(ctx, &work, time.Now()))
		}
	}
}

// Changed says that Config.Served may return something else now.
func (m *Manager) Changed() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// step begins all that is due, and returns when there is more to do.
func (m *Manager) step(ctx context.Context, work *sync.WaitGroup, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wantLocked(now)
	for m.running < parallel {
		h := m.dueLocked(now)
		if h == nil {
			break
		}
		m.running++
		work.Go(func() {
			for h := h; h != nil; { // one after the other: many may only have to be loaded
				h = m.finish(h, m.attempt(ctx, h))
			}
			m.Changed()
		})
	}
	if now.Sub(m.checked) >= m.every && !m.upkeeping {
		m.checked, m.upkeeping = now, true
		work.Go(func() { m.upkeep(ctx, now) })
	}
	return max(min(m.nextLocked(now), m.checked.Add(m.every).Sub(now)), gather)
}

// upkeep has certmagic renew what is due, and clears the folder now and then.
func (m *Manager) upkeep(ctx context.Context, now time.Time) {
	_ = m.cache.RenewManagedCertificates(ctx) // what fails is logged
	m.mu.Lock()
	m.upkeeping = false
	clean := now.Sub(m.cleaned) >= cleanEvery
	if clean {
		m.cleaned = now
	}
	m.mu.Unlock()
	if clean {
		_ = certmagic.CleanStorage(ctx, m.magic.Storage, certmagic.CleanStorageOptions{
			Logger: newLogger(m), OCSPStaples: true, ExpiredCerts: true, ExpiredCertGracePeriod: expiredGrace,
		})
	}
}

// attempt loads the certificate of a host, or gets one.
func (m *Manager) attempt(ctx context.Context, h *host) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	attempts := h.failures
	ctx = context.WithValue(ctx, certmagic.AttemptsCtxKey, &attempts)
	_, err := m.magic.CacheManagedCertificate(ctx, h.name)
	switch {
	case err == nil:
		m.log.Info().Str("host", h.name).Time("not_after", m.notAfter(h.name)).Msg("certificate loaded")
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if !h.domain && !m.spend() {
			return errBudget
		}
		err = m.magic.ObtainCertSync(ctx, h.name)
	case ctx.Err() != nil:
		return err
	default:
		m.log.Warn().Err(err).Str("host", h.name).Msg("the certificate that was kept cannot be used, another one is got")
		err = m.magic.RenewCertSync(ctx, h.name, true)
	}
	if err != nil {
		return err
	}
	if _, err = m.magic.CacheManagedCertificate(ctx, h.name); err == nil {
		m.log.Info().Str("host", h.name).Time("not_after", m.notAfter(h.name)).Str("directory", m.cfg.Directory).Msg("certificate issued")
	}
	return err
}
