package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/config"
)

// watchInterval is how often the file of BASIC_AUTH is looked at.
const watchInterval = 5 * time.Second

// guard lets through to next who may connect and knows a password, as far as these are set.
// It does not slow down who guesses: behind a tunnel all visitors have the address of its
// client, which is where to set a password against the world.
type guard struct {
	allow    config.CIDRs
	basic    config.Secret
	policy   atomic.Pointer[access.Policy]
	interval time.Duration
	log      zerolog.Logger
	next     http.Handler
}

func newGuard(allow config.CIDRs, basic config.Secret, log zerolog.Logger, next http.Handler) (*guard, error) {
	g := &guard{allow: allow, basic: basic, interval: watchInterval, log: log, next: next}
	var users []string
	if basic.IsSet() {
		var err error
		if users, err = access.ParseUsers(basic.Value()); err != nil {
			return nil, config.Fault("BASIC_AUTH", "%w", err)
		}
	}
	g.set(users)
	return g, nil
}

func (g *guard) set(users []string) {
	g.policy.Store(&access.Policy{Allow: g.allow, Creds: access.NewCredentials(users, nil)})
}

// watch takes over new passwords from their file until ctx ends.
func (g *guard) watch(ctx context.Context) error {
	err := g.basic.Watch(ctx, g.interval, func(value string) {
		users, err := access.ParseUsers(value)
		if err != nil {
			g.log.Warn().Err(err).Str("file", g.basic.File()).Msg("password file changed, keeping the old password")
			return
		}
		g.set(users)
		g.log.Info().Int("users", len(users)).Str("file", g.basic.File()).Msg("password changed")
	})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch the password: %w", err)
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	addr, _ := netip.ParseAddrPort(r.RemoteAddr) // one that is not known is in no network
	policy := g.policy.Load()
	switch verdict := policy.Check(addr.Addr(), r.Header["Authorization"]); {
	case verdict.Admits():
		g.next.ServeHTTP(w, r)
	case verdict.Reason == access.Address:
		refuse(w, http.StatusForbidden, "forbidden: this address may not connect")
	default:
		w.Header()["Www-Authenticate"] = policy.Challenges("adit fileserver")
		refuse(w, http.StatusUnauthorized, "unauthorized: this file server asks for a user and a password")
	}
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	fmt.Fprintln(w, message)
}
