package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/license"
)

// rereadEvery is how often files of secrets are looked at. A change counts once it
// looks the same twice, so it is taken up within two of these.
const rereadEvery = 2 * time.Second

func newTokens(token config.Secret) *auth.Tokens {
	list, _ := auth.ParseTokens(token.Value()) // checked with the settings
	return auth.NewTokens(list)
}

// newOperators returns the tokens for the status, those of clients if there are no others.
func newOperators(cfg *settings, clients *auth.Tokens) *auth.Tokens {
	if !cfg.OperatorToken.IsSet() {
		return clients
	}
	return newTokens(cfg.OperatorToken)
}

// newKeys returns the public keys of licences, nil if none are needed.
func newKeys(key config.Secret) *atomic.Pointer[license.Keys] {
	if !key.IsSet() {
		return nil
	}
	keys, _ := license.ParseKeys(key.Value()) // checked with the settings
	p := new(atomic.Pointer[license.Keys])
	p.Store(&keys)
	return p
}

// watchTokens returns what takes up a changed file of tokens until its context ends, and calls
// changed then. A file that holds no valid token changes nothing.
func watchTokens(token config.Secret, tokens *auth.Tokens, changed func(), log zerolog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		_ = token.Watch(ctx, rereadEvery, func(value string) {
			list, err := auth.ParseTokens(value)
			if err != nil {
				log.Error().Err(err).Str("file", token.File()).Msg("the new tokens are not valid, the old ones stay")
				return
			}
			tokens.Set(list)
			log.Info().Int("tokens", len(list)).Str("file", token.File()).Msg("took up changed tokens")
			changed()
		})
		return nil
	}
}

// watchKeys is watchTokens for LICENSE_PUBLIC_KEY_FILE.
func watchKeys(key config.Secret, keys *atomic.Pointer[license.Keys], changed func(), log zerolog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		_ = key.Watch(ctx, rereadEvery, func(value string) {
			next, err := license.ParseKeys(value)
			if err != nil {
				log.Error().Err(err).Str("file", key.File()).Msg("the new keys of licences are not valid, the old ones stay")
				return
			}
			keys.Store(&next)
			log.Info().Strs("keys", next.IDs()).Str("file", key.File()).Msg("took up changed keys of licences")
			changed()
		})
		return nil
	}
}
