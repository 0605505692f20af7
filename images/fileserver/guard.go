package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/config"
)

// watchInterval is how often the file of BASIC_AUTH is looked at.
const watchInterval = 5 * time.Second

// guard lets through to next who may connect and knows the password, as far as these are set.
type guard struct {
	allow config.CIDRs
	basic config.Secret
	// digest is the SHA-256 of "user:password", nil if none is asked for: digests are of equal length, so that their
	// comparison takes the same time whatever was guessed.
	digest   atomic.Pointer[[sha256.Size]byte]
	interval time.Duration
	log      zerolog.Logger
	next     http.Handler
}

func newGuard(allow config.CIDRs, basic config.Secret, log zerolog.Logger, next http.Handler) *guard {
	g := &guard{allow: allow, basic: basic, interval: watchInterval, log: log, next: next}
	if basic.IsSet() {
		g.set(basic.Value())
	}
	return g
}

func (g *guard) set(credentials string) {
	digest := sha256.Sum256([]byte(credentials))
	g.digest.Store(&digest)
}

// watch takes over a new password from its file until ctx ends.
func (g *guard) watch(ctx context.Context) error {
	err := g.basic.Watch(ctx, g.interval, func(value string) {
		if err := checkBasicAuth(value); err != nil {
			g.log.Warn().Err(err).Str("file", g.basic.File()).Msg("password file changed, keeping the old password")
			return
		}
		g.set(value)
		g.log.Info().Str("file", g.basic.File()).Msg("password changed")
	})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch the password: %w", err)
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(g.allow) > 0 {
		addr, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !g.allow.Contains(addr.Addr()) {
			refuse(w, http.StatusForbidden, "forbidden: this address may not connect")
			return
		}
	}
	if want := g.digest.Load(); want != nil {
		user, password, ok := r.BasicAuth()
		got := sha256.Sum256([]byte(user + ":" + password))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 || !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="adit fileserver", charset="UTF-8"`)
			refuse(w, http.StatusUnauthorized, "unauthorized: this file server asks for a user and a password")
			return
		}
	}
	g.next.ServeHTTP(w, r)
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	fmt.Fprintln(w, message)
}
