package main

import (
	"context"
	"errors"
	"sync"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/config"
)

// ForVisitors are the settings of who may visit.
type ForVisitors struct {
	BasicAuth         config.Secret `split_words:"true" desc:"HTTP: user:password that visitors of all hosts must give; several, one per line. A file is read again when it changes."`
	BearerToken       config.Secret `split_words:"true" desc:"HTTP: token that visitors of all hosts must give, of 16 bytes or more; several, one per line or comma. With BASIC_AUTH, one of either admits. A file is read again when it changes."`
	AllowIPs          config.CIDRs  `envconfig:"ALLOW_IPS" desc:"Addresses and CIDRs that visitors of all hosts and ports may come from. Empty: all."`
	PassAuthorization bool          `split_words:"true" default:"false" desc:"Pass the credentials that were asked for here on to upstreams."`
}

// visitors is the policy for the visitors of all routes, with the credentials of the moment.
type visitors struct {
	cfg  *settings
	door *access.Door
	log  zerolog.Logger

	mu            sync.Mutex
	users, tokens string // values of BASIC_AUTH and BEARER_TOKEN
}

// newVisitors returns the visitors of the settings, and the door that they pass. count is
// told of every refusal.
func newVisitors(cfg *settings, count func(string), log zerolog.Logger) (*visitors, error) {
	v := &visitors{cfg: cfg, log: log, users: cfg.BasicAuth.Value(), tokens: cfg.BearerToken.Value()}
	policy, err := cfg.policy(v.users, v.tokens)
	if err != nil {
		return nil, err
	}
	v.door = access.NewDoor(policy, count, log)
	if all := v.door.All(); all != nil {
		log.Info().Stringer("visitors", all).Msg("who may visit")
	}
	if cfg.Mode.TCP && !policy.Creds.IsZero() {
		log.Warn().Msg("BASIC_AUTH and BEARER_TOKEN are for hosts: TCP ports cannot ask for credentials, and are open as far as ALLOW_IPS lets visitors in")
	}
	return v, nil
}

// policy returns the policy for all with these values of BASIC_AUTH and BEARER_TOKEN. The
// error has every fault.
func (s *settings) policy(users, tokens string) (*access.Policy, error) {
	var (
		errs []error
		list [2][]string
	)
	for i, v := range []struct {
		name, value string
		parse       func(string) ([]string, error)
	}{{"BASIC_AUTH", users, access.ParseUsers}, {"BEARER_TOKEN", tokens, access.ParseTokens}} {
		if v.value == "" {
			continue
		}
		var err error
		if list[i], err = v.parse(v.value); err != nil {
			errs = append(errs, config.Fault(v.name, "%w", err))
		}
		if !s.Mode.HTTP {
			errs = append(errs, config.Fault(v.name, "is for hosts, but MODE=%s: TCP ports cannot ask for credentials; unset it, and say who may connect by ALLOW_IPS", s.Mode))
		}
	}
	return &access.Policy{Allow: s.AllowIPs, Creds: access.NewCredentials(list[0], list[1]), Pass: s.PassAuthorization}, errors.Join(errs...)
}

// watch returns what takes up changed files of credentials, one for each variable, until its
// context ends.
func (v *visitors) watch() []func(context.Context) error {
	one := func(secret config.Secret, value *string) func(context.Context) error {
		return func(ctx context.Context) error {
			_ = secret.Watch(ctx, rereadEvery, func(next string) { v.take(secret.File(), value, next) })
			return nil
		}
	}
	return []func(context.Context) error{one(v.cfg.BasicAuth, &v.users), one(v.cfg.BearerToken, &v.tokens)}
}

// take takes up a new value, one of ours, if it is good.
func (v *visitors) take(file string, value *string, next string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := *value
	*value = next
	policy, err := v.cfg.policy(v.users, v.tokens)
	if err != nil {
		*value = before
		v.log.Error().Err(err).Str("file", file).Msg("the new credentials of visitors are not valid, the old ones stay")
		return
	}
	v.door.Set(policy)
	v.log.Info().Str("file", file).Msg("took up changed credentials of visitors")
}
