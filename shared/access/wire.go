package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// The policies of a client travel in its Hello as a JSON document, which both sides read
// strictly: what one of them does not know might be a restriction, so that it is an error
// and never ignored.
//
//	{"policies": [{"allow": ["10.0.0.0/8"], "salt": "…", "users": ["…"], "tokens": ["…"],
//	  "pass": true, "request": "X-Env: prod", "response": "-Server"}],
//	 "upstreams": [1, 0]}
//
// upstreams has a number for each upstream of the Hello, in their order: 0 for none, or n for
// the nth policy. Salts (16 bytes) and digests (SHA-256 of salt, "u" or "t", and
// user:password or the token) are in base64. Of the rest everything but what is said may be
// left out, but a policy says something.
type wireDocument struct {
	Policies  []wirePolicy `json:"policies"`
	Upstreams []int        `json:"upstreams"`
}

type wirePolicy struct {
	Allow    []netip.Prefix `json:"allow,omitempty"`
	Salt     []byte         `json:"salt,omitempty"`
	Users    [][]byte       `json:"users,omitempty"`
	Tokens   [][]byte       `json:"tokens,omitempty"`
	Pass     bool           `json:"pass,omitempty"`
	Request  string         `json:"request,omitempty"`
	Response string         `json:"response,omitempty"`
}

const (
	maxNetworks = 1024
	maxDigests  = MaxUsers // of a kind; auth.MaxTokens is no more
)

// Encode returns the document for policies by upstream, nil if none of them says anything.
// Those that are the same pointer are written once.
func Encode(policies []*Policy) (json.RawMessage, error) {
	doc := wireDocument{Upstreams: make([]int, len(policies))}
	number := map[*Policy]int{}
	for i, p := range policies {
		if p.IsZero() {
			continue
		}
		if number[p] == 0 {
			if len(p.Allow) > maxNetworks {
				return nil, fmt.Errorf("%d networks are more than %d", len(p.Allow), maxNetworks)
			}
			doc.Policies = append(doc.Policies, p.wire())
			number[p] = len(doc.Policies)
		}
		doc.Upstreams[i] = number[p]
	}
	if len(doc.Policies) == 0 {
		return nil, nil
	}
	return json.Marshal(doc)
}

func (p *Policy) wire() wirePolicy {
	w := wirePolicy{
		Allow: p.Allow, Salt: p.Creds.salt, Pass: p.Pass,
		Request: p.Request.String(), Response: p.Response.String(),
	}
	for _, d := range p.Creds.users {
		w.Users = append(w.Users, d[:])
	}
	for _, d := range p.Creds.tokens {
		w.Tokens = append(w.Tokens, d[:])
	}
	return w
}

// Decode reads a document for as many upstreams and returns their policies, nil for those
// that have none. No document at all is a policy for none.
func Decode(raw json.RawMessage, upstreams int) ([]*Policy, error) {
	out := make([]*Policy, upstreams)
	if len(raw) == 0 {
		return out, nil
	}
	var doc wireDocument
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("there is something behind it")
	}
	if len(doc.Upstreams) != upstreams {
		return nil, fmt.Errorf("it is for %d upstreams and not for %d", len(doc.Upstreams), upstreams)
	}
	if len(doc.Policies) > upstreams {
		return nil, fmt.Errorf("it has %d policies for %d upstreams", len(doc.Policies), upstreams)
	}
	policies := make([]*Policy, len(doc.Policies))
	for i, w := range doc.Policies {
		p, err := w.policy()
		if err != nil {
			return nil, fmt.Errorf("policy %d: %w", i+1, err)
		}
		policies[i] = p
	}
	for i, n := range doc.Upstreams {
		switch {
		case n < 0 || n > len(policies):
			return nil, fmt.Errorf("upstream %d has policy %d of %d", i, n, len(policies))
		case n > 0:
			out[i] = policies[n-1]
		}
	}
	return out, nil
}

// policy checks what a policy of ours holds anyway, and that it restricts or changes something:
// a list that is there and empty is no restriction that we know.
func (w wirePolicy) policy() (*Policy, error) {
	p := &Policy{Pass: w.Pass}
	salt := 0
	if len(w.Users)+len(w.Tokens) > 0 {
		salt, p.Creds.salt = saltSize, w.Salt
	}
	switch {
	case w.Allow != nil && len(w.Allow) == 0, w.Users != nil && len(w.Users) == 0, w.Tokens != nil && len(w.Tokens) == 0:
		return nil, errors.New("an empty list")
	case len(w.Allow) > maxNetworks, len(w.Users) > maxDigests, len(w.Tokens) > maxDigests:
		return nil, errors.New("a list that is too long")
	case len(w.Salt) != salt:
		return nil, fmt.Errorf("a salt of %d bytes instead of %d", len(w.Salt), salt)
	}
	for _, prefix := range w.Allow {
		if !prefix.IsValid() || prefix != prefix.Masked() {
			return nil, fmt.Errorf("%s is not a network", prefix)
		}
		p.Allow = append(p.Allow, prefix)
	}
	var err error
	if p.Creds.users, err = digests(w.Users); err != nil {
		return nil, err
	}
	if p.Creds.tokens, err = digests(w.Tokens); err != nil {
		return nil, err
	}
	if w.Request != "" {
		if err := p.Request.Decode(w.Request); err != nil {
			return nil, err
		}
	}
	if w.Response != "" {
		if err := p.Response.Decode(w.Response); err != nil {
			return nil, err
		}
	}
	if p.IsZero() {
		return nil, errors.New("it says nothing")
	}
	return p, nil
}

func digests(list [][]byte) ([]digest, error) {
	var out []digest
	for _, b := range list {
		var d digest
		if copy(d[:], b) != len(d) || len(b) != len(d) {
			return nil, fmt.Errorf("a digest of %d bytes instead of %d", len(b), len(d))
		}
		out = append(out, d)
	}
	return out, nil
}
