package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

const (
	// MinToken is the least length of a token in bytes.
	MinToken = 16
	// MaxToken is the greatest length of a token in bytes; it keeps a request header within what proxies carry.
	MaxToken = 4096
	// MaxTokens is how many tokens may be valid at once. Every check costs a comparison with each.
	MaxTokens = 64
)

// ErrNoToken is returned by ParseTokens for a list that holds no token.
var ErrNoToken = errors.New("holds no token: set one, for example the output of: openssl rand -hex 32 " +
	"(lines that begin with # are comments)")

// ParseTokens reads a list of tokens separated by commas or newlines. Space around a token, blank entries,
// lines that begin with # and repetitions are dropped. A token consists of MinToken to MaxToken visible ASCII
// characters. Errors give the place of a bad token in the list, never the token; all of them are joined. No
// token at all is ErrNoToken.
func ParseTokens(s string) ([]string, error) {
	var tokens []string
	var faults []error
	n := 0
	for line := range strings.Lines(s) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for token := range strings.SplitSeq(line, ",") {
			token = strings.TrimSpace(token)
			if token == "" {
				continue
			}
			n++
			if err := checkToken(token); err != nil {
				if len(faults) < 8 { // a wrong file can have any number of lines
					faults = append(faults, fmt.Errorf("token %d %w", n, err))
				}
				continue
			}
			if !slices.Contains(tokens, token) {
				tokens = append(tokens, token)
			}
			if len(tokens) > MaxTokens {
				return nil, fmt.Errorf("token %d is one too many: at most %d may be valid at once", n, MaxTokens)
			}
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if len(tokens) == 0 {
		return nil, ErrNoToken
	}
	return tokens, nil
}

func checkToken(token string) error {
	switch {
	case token[0] == '#':
		return errors.New("begins with #: a comment stands on a line of its own")
	case !visible(token):
		return errors.New("contains a space, a control character or a character outside ASCII, " +
			"which cannot travel in a header: make one with: openssl rand -hex 32")
	case len(token) < MinToken:
		return fmt.Errorf("has %d bytes, fewer than %d, and could be guessed: make one with: openssl rand -hex 32",
			len(token), MinToken)
	case len(token) > MaxToken:
		return fmt.Errorf("has %d bytes, more than %d", len(token), MaxToken)
	}
	return nil
}

// visible tells whether s is made of nothing but visible ASCII characters.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Tokens is the set of tokens that are valid now. It is safe for concurrent use; the zero value, like an empty
// list, admits nobody.
type Tokens struct {
	set atomic.Pointer[tokenSet]
}

// tokenSet is never changed once it is published.
type tokenSet struct {
	list    []string
	digests [][sha256.Size]byte
}

// NewTokens returns a set that holds the tokens of list, as ParseTokens returns it.
func NewTokens(list []string) *Tokens {
	t := &Tokens{}
	t.Set(list)
	return t
}

// Set replaces all tokens at once: a request that is being checked sees the old list or the new one. Empty
// strings are dropped: an empty token is never valid.
func (t *Tokens) Set(list []string) {
	set := &tokenSet{}
	for _, token := range list {
		if token == "" {
			continue
		}
		set.list = append(set.list, token)
		set.digests = append(set.digests, sha256.Sum256([]byte(token)))
	}
	t.set.Store(set)
}

// List returns a copy of the tokens that are valid now.
func (t *Tokens) List() []string {
	set := t.set.Load()
	if set == nil {
		return nil
	}
	return slices.Clone(set.list)
}

// Valid reports whether token is one of the valid ones. The time it takes depends on the length of token and on
// how many are valid, not on their content nor on which of them matches: digests of one length are compared,
// in constant time, and all of them every time.
func (t *Tokens) Valid(token string) bool {
	set := t.set.Load()
	if set == nil || token == "" {
		return false
	}
	digest := sha256.Sum256([]byte(token))
	match := 0
	for i := range set.digests {
		match |= subtle.ConstantTimeCompare(digest[:], set.digests[i][:])
	}
	return match == 1
}
