// Package access decides who may visit an upstream: from which addresses, and with which
// credentials.
//
// A [Policy] is what the owner of an upstream declares (or that of a server, for all of
// them), and Check applies it to one request: first the address, then the credentials,
// which travel as
//
//	Authorization: Basic base64(user:password)
//	Authorization: Bearer TOKEN
//
// If a policy has both kinds, one of either admits. credentials.go reads them from settings
// and from requests, headers.go has the rules by which heads are changed on the way, wire.go
// is how a client declares policies to its server, and door.go is what the server has in
// addition: counting, logging, and slowing down of those who guess.
//
// A policy holds no password and no token, only salted digests: it may lie about in memory
// and travel to the server without giving away more than a visitor does who knows them. The
// digest is a fast one, because it is computed for each request: a password that a
// dictionary has can be found from it, as from most files of passwords, and so can one that
// is short. A random one cannot.
//
// Nothing here ever logs a credential, or returns one in an error. All comparisons are of
// digests of equal length, in constant time, and with every credential each time.
package access

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/adit-tunnel/adit/shared/config"
)

// The reasons for which a request is refused: values of a field of logs and of a label of
// metrics.
const (
	Address   = "address"   // it does not come from one of the networks
	Missing   = "missing"   // no credentials
	Malformed = "malformed" // an Authorization header that is not understood, or several
	Wrong     = "wrong"     // credentials that are not among those of the policy
	Throttled = "throttled" // any of the last two from an address that has failed too often
)

// Reasons are all of them.
var Reasons = []string{Address, Missing, Malformed, Wrong, Throttled}

// Policy says who may visit, and what becomes of the head of a request and its response. A
// nil Policy, like the zero Policy, admits everybody and changes nothing. It is not changed
// once it is in use.
type Policy struct {
	Allow config.CIDRs // nil: from everywhere
	Creds Credentials  // none: nobody is asked for any
	// Pass leaves the Authorization header that was asked for here in the request; otherwise
	// it ends here.
	Pass     bool
	Request  Rules // for heads on their way to the upstream
	Response Rules // for heads on their way back
}

// IsZero reports whether the policy says nothing.
func (p *Policy) IsZero() bool {
	return p == nil || p.Allow == nil && p.Creds.IsZero() && !p.Pass && p.Request.IsZero() && p.Response.IsZero()
}

// ChangesHeads reports whether there are rules for heads.
func (p *Policy) ChangesHeads() bool {
	return p != nil && !(p.Request.IsZero() && p.Response.IsZero())
}

// OnlyAddresses reports whether the policy says nothing that only HTTP can do.
func (p *Policy) OnlyAddresses() bool {
	return p == nil || p.Creds.IsZero() && !p.Pass && p.Request.IsZero() && p.Response.IsZero()
}

// Verdict is what a policy says of a request.
type Verdict struct {
	Reason string // "" if it is admitted
	// Strips: the Authorization header ends here. The policy has used it, and does not say
	// that it is to be passed on.
	Strips bool
}

// Admits reports whether the visitor may pass.
func (v Verdict) Admits() bool { return v.Reason == "" }

// AllowsAddr reports whether visitors may come from the address. One that is not known is
// in no network.
func (p *Policy) AllowsAddr(addr netip.Addr) bool {
	return p == nil || p.Allow == nil || p.Allow.Contains(addr)
}

// Check says whether the policy admits a request from the address with these Authorization
// lines. It may be called by any goroutine.
func (p *Policy) Check(addr netip.Addr, authorization []string) Verdict {
	return p.check(addr, authorization, nil)
}

// check is Check for a door, which may have something against looking at credentials from
// the address; nil for none.
func (p *Policy) check(addr netip.Addr, authorization []string, door *Door) Verdict {
	switch {
	case !p.AllowsAddr(addr):
		return Verdict{Reason: Address}
	case p == nil || p.Creds.IsZero():
		return Verdict{}
	}
	kind, credential, reason := parseAuthorization(authorization)
	if reason != "" {
		return Verdict{Reason: reason}
	}
	var k knownKey
	isKnown := false
	if door != nil {
		k = door.known.key(addr, credential)
		if isKnown = door.known.has(k); !isKnown && door.throttle.Delay(addr) > 0 {
			return Verdict{Reason: Throttled}
		}
	}
	if !p.Creds.holds(kind, credential) {
		return Verdict{Reason: Wrong}
	}
	if door != nil && !isKnown {
		door.known.add(k)
	}
	return Verdict{Strips: !p.Pass}
}

// Challenges returns the values of the WWW-Authenticate lines (RFC 9110 section 11.6.1) that
// tell a visitor what is asked for in the realm: a word, or several, without quotes.
func (p *Policy) Challenges(realm string) []string {
	var list []string
	if p != nil && len(p.Creds.users) > 0 {
		list = append(list, `Basic realm="`+realm+`", charset="UTF-8"`) // RFC 7617
	}
	if p != nil && len(p.Creds.tokens) > 0 {
		list = append(list, `Bearer realm="`+realm+`"`) // RFC 6750
	}
	return list
}

// String says who may visit in a way that is fit for a log: without credentials.
func (p *Policy) String() string {
	if p == nil {
		return "everyone"
	}
	var who []string
	if n := len(p.Creds.users); n > 0 {
		who = append(who, count(n, "user"))
	}
	if n := len(p.Creds.tokens); n > 0 {
		who = append(who, count(n, "bearer token"))
	}
	text := strings.Join(who, " or ")
	if text == "" {
		text = "everyone"
	}
	if p.Allow != nil {
		const most = 8
		text += " from " + p.Allow[:min(len(p.Allow), most)].String()
		if more := len(p.Allow) - most; more > 0 {
			text += " and " + count(more, "other network")
		}
	}
	return text
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

// Same reports whether two policies of one route say the same, as far as that can be told:
// credentials are compared by their number, since each client salts its own.
func (p *Policy) Same(other *Policy) bool {
	if p.IsZero() || other.IsZero() {
		return p.IsZero() && other.IsZero()
	}
	return len(p.Creds.users) == len(other.Creds.users) && len(p.Creds.tokens) == len(other.Creds.tokens) &&
		slices.Equal(p.Allow, other.Allow) && p.Pass == other.Pass &&
		p.Request.String() == other.Request.String() && p.Response.String() == other.Response.String()
}
