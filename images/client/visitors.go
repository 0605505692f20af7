package main

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"

	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/route"
)

// off is what an upstream has in place of credentials that others ask for.
const off = "off"

// byPlace are values of a variable: for all under 0, and for the upstreams that have their own
// by their place, from 1.
type byPlace[T any] map[int]T

func (b byPlace[T]) forPlace(place int) T {
	if value, ok := b[place]; ok {
		return value
	}
	return b[0]
}

func (b byPlace[T]) owns(place int) bool {
	_, ok := b[place]
	return ok
}

// visitors are the credentials that admit visitors, as BASIC_AUTH and BEARER_TOKEN have them
// at the moment.
type visitors struct {
	users, tokens byPlace[string]
}

func newVisitors(s *settings) visitors {
	return visitors{valuesOf(&s.BasicAuth), valuesOf(&s.BearerToken)}
}

func valuesOf(e *config.Each[config.Secret]) byPlace[string] {
	values := byPlace[string]{0: e.All.Value()}
	for _, place := range e.Places() {
		own, _ := e.Own(place)
		values[place] = own.Value()
	}
	return values
}

// parseEach reads what all the values of a variable hold, nothing if one is not set or off.
func parseEach(name string, values byPlace[string], parse func(string) ([]string, error)) (byPlace[[]string], error) {
	var errs []error
	out := byPlace[[]string]{}
	for _, place := range slices.Sorted(maps.Keys(values)) {
		value := values[place]
		out[place] = nil
		if value == "" || place > 0 && value == off {
			continue
		}
		list, err := parse(value)
		out[place] = list
		errs = append(errs, faults(variable(name, place), err))
	}
	return out, errors.Join(errs...)
}

// faults says of each of joined errors which variable it is about.
func faults(name string, err error) error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return config.Fault(name, "%w", err)
	}
	var errs []error
	for _, e := range joined.Unwrap() {
		errs = append(errs, config.Fault(name, "%w", e))
	}
	return errors.Join(errs...)
}

// variable is the name of a setting for the upstream at a place, 0 for all.
func variable(name string, place int) string {
	if place == 0 {
		return name
	}
	return name + "_" + strconv.Itoa(place)
}

// policies returns who may visit each upstream. Those that have nothing of their own share
// one. The error has every fault.
func (v visitors) policies(s *settings) ([]*access.Policy, error) {
	if len(s.Upstreams) == 0 {
		return nil, nil // which is a fault already
	}
	users, errUsers := parseEach("BASIC_AUTH", v.users, access.ParseUsers)
	tokens, errTokens := parseEach("BEARER_TOKEN", v.tokens, access.ParseTokens)
	errs := []error{errUsers, errTokens, s.checkPlaces()}
	common := &access.Policy{
		Allow: s.AllowIPs.All, Creds: access.NewCredentials(users[0], tokens[0]), Pass: s.PassAuthorization.All,
		Request: s.RequestHeaders.All, Response: s.ResponseHeaders.All,
	}
	commonPort := &access.Policy{Allow: s.AllowIPs.All}
	list := make([]*access.Policy, len(s.Upstreams))
	for i, u := range s.Upstreams {
		place := i + 1
		allow, err := s.allow(u, place)
		errs = append(errs, err)
		own := s.owns(place) || u.Allow != "" || u.PassAuth
		switch {
		case u.IsTCP() && !own:
			list[i] = commonPort
		case u.IsTCP():
			list[i] = &access.Policy{Allow: allow}
		case !own:
			list[i] = common
		default:
			p := &access.Policy{
				Allow: allow, Creds: common.Creds, Pass: s.PassAuthorization.For(place) || u.PassAuth,
				Request: s.RequestHeaders.For(place), Response: s.ResponseHeaders.For(place),
			}
			if users.owns(place) || tokens.owns(place) {
				p.Creds = access.NewCredentials(users.forPlace(place), tokens.forPlace(place))
			}
			list[i] = p
		}
		if u.IsTCP() {
			errs = append(errs, s.checkPort(u, place, "BASIC_AUTH", v.users), s.checkPort(u, place, "BEARER_TOKEN", v.tokens))
		}
	}
	return list, errors.Join(errs...)
}

// places are those of upstreams with something of their own, by variable.
func (s *settings) places() []owners {
	return []owners{
		{"BASIC_AUTH", s.BasicAuth.Places()}, {"BEARER_TOKEN", s.BearerToken.Places()}, {"ALLOW_IPS", s.AllowIPs.Places()},
		{"PASS_AUTHORIZATION", s.PassAuthorization.Places()}, {"REQUEST_HEADERS", s.RequestHeaders.Places()}, {"RESPONSE_HEADERS", s.ResponseHeaders.Places()},
	}
}

// owners are the places of upstreams that have a variable of their own.
type owners struct {
	variable string
	places   []int
}

// owns reports whether the upstream at the place has something of its own.
func (s *settings) owns(place int) bool {
	for _, o := range s.places() {
		if slices.Contains(o.places, place) {
			return true
		}
	}
	return false
}

// checkPlaces refuses variables for upstreams that are not there, or cannot heed them.
func (s *settings) checkPlaces() error {
	var errs []error
	for _, o := range s.places() {
		name := o.variable
		for _, place := range o.places {
			if place > len(s.Upstreams) {
				errs = append(errs, config.Fault(variable(name, place), "there is no upstream %d: the last of UPSTREAMS is number %d", place, len(s.Upstreams)))
				continue
			}
			u := s.Upstreams[place-1]
			switch name {
			case "REQUEST_HEADERS", "RESPONSE_HEADERS", "PASS_AUTHORIZATION":
				if u.IsTCP() {
					errs = append(errs, config.Fault(variable(name, place), "the upstream %s is a TCP port, which has no headers: unset it", u.Route()))
				}
			case "ALLOW_IPS":
				if u.Allow != "" {
					errs = append(errs, config.Fault(variable(name, place), "the upstream %s has ?allow= too: write one of them", u.Route()))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// checkPort refuses credentials for a TCP port, which cannot ask for them: one that all others
// need must not be left open without a word.
func (s *settings) checkPort(u route.Upstream, place int, name string, values byPlace[string]) error {
	switch own := values[place]; {
	case own == off:
		return nil
	case own != "":
		return config.Fault(variable(name, place), "the upstream %s is a TCP port, which cannot ask for credentials: unset it, and say who may connect by ?allow=10.0.0.0/8", u.Route())
	case values[0] != "":
		return config.Fault(name, "the upstream %s is a TCP port, which cannot ask for credentials: set %s=off to serve it without, and say who may connect by ?allow=10.0.0.0/8", u.Route(), variable(name, place))
	}
	return nil
}

// allow returns from where visitors of the upstream may come.
func (s *settings) allow(u route.Upstream, place int) (config.CIDRs, error) {
	if u.Allow == "" {
		return s.AllowIPs.For(place), nil
	}
	var list config.CIDRs
	if err := list.Decode(u.Allow); err != nil {
		return nil, config.Fault("UPSTREAMS", "allow of %s: %w", u.Route(), err)
	}
	return list, nil
}

// document returns what a server is told, nil if everybody may visit.
func (v visitors) document(s *settings) (json.RawMessage, error) {
	policies, err := v.policies(s)
	if err != nil {
		return nil, err
	}
	doc, err := access.Encode(policies)
	if err != nil {
		return nil, config.Fault("ALLOW_IPS", "%w", err)
	}
	return doc, nil
}

// watchVisitors returns what takes up changed files of credentials of visitors until its
// context ends, one for each.
func (c *credentials) watchVisitors() (watchers []func(context.Context) error) {
	watch := func(name string, e *config.Each[config.Secret], values byPlace[string]) {
		for place := range values {
			secret := e.All
			if place > 0 {
				secret, _ = e.Own(place)
			}
			if secret.File() == "" {
				continue
			}
			watchers = append(watchers, func(ctx context.Context) error {
				_ = secret.Watch(ctx, rereadEvery, func(value string) {
					c.takeVisitors(variable(name, place), secret.File(), func(value string) (before string) {
						before, values[place] = values[place], value
						return before
					}, value)
				})
				return nil
			})
		}
	}
	watch("BASIC_AUTH", &c.cfg.BasicAuth, c.visitors.users)
	watch("BEARER_TOKEN", &c.cfg.BearerToken, c.visitors.tokens)
	return watchers
}

// takeVisitors takes up a new value of a variable, which swap puts in place of the old one, if
// it is good.
func (c *credentials) takeVisitors(name, file string, swap func(string) string, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := swap(value)
	doc, err := c.visitors.document(c.cfg)
	if err == nil {
		err = c.cfg.fits(doc)
	}
	if err != nil {
		swap(before)
		c.log.Error().Err(err).Str("variable", name).Str("file", file).Msg("the new credentials of visitors are not valid, the old ones stay")
		return
	}
	c.access = doc
	c.changedLocked()
	c.log.Info().Str("variable", name).Str("file", file).Msg("took up changed credentials of visitors")
}

// Access returns who may visit, as a server is told, nil for everybody.
func (c *credentials) Access() json.RawMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.access
}
