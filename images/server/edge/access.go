package edge

import (
	"errors"
	"net/http"
	"net/netip"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/access"
)

// Who may visit is checked in two places, which every request passes before a stream is
// opened or taken for it: the policy for all visitors in welcome, and that of each backend in
// admits; on the fast path both are in the admits of a connection. Both have to be met. A visitor gets to those backends of a route whose own policy
// admits him, and is turned away if there is none.

// realm is what browsers show with the question for a password.
const realm = "adit"

var (
	notAllowed   = refusal{http.StatusForbidden, "this address may not visit", false}
	unauthorized = refusal{http.StatusUnauthorized, "credentials are needed that are accepted here", false}
	throttled    = refusal{http.StatusTooManyRequests, "too many wrong credentials from this address, wait before the next", false}
)

// admission is what the policies say of a request.
type admission struct {
	addr      netip.Addr     // of the visitor
	strips    bool           // by the policy for all: Authorization ends here
	stripsNow bool           // by it or by that of the backend that is tried now
	verdict   access.Verdict // the refusal to answer with, unless a backend admits
	by        *access.Policy // whose that is, nil if there is none
}

// welcome checks the policy for all visitors. It reports false when it has answered.
func (x *exchange) welcome() bool {
	all := x.e.door.All()
	if all == nil {
		return true
	}
	v := x.e.door.Check(all, x.admission.addr, x.r.Header["Authorization"])
	x.admission.strips = v.Strips
	if !v.Admits() {
		x.admission.verdict, x.admission.by = v, all
		x.turnAway()
	}
	return v.Admits()
}

// admits checks the policy of a backend.
func (x *exchange) admits(b *routing.Backend) bool {
	a := &x.admission
	a.stripsNow = a.strips
	if b.Access == nil {
		return true
	}
	v := x.e.door.Check(b.Access, a.addr, x.r.Header["Authorization"])
	if v.Admits() {
		a.stripsNow = a.strips || v.Strips
		return true
	}
	// Among refusals one that the visitor can do something about.
	if a.by == nil || a.verdict.Reason == access.Address {
		a.verdict, a.by = v, b.Access
	}
	return false
}

// admits is welcome and admits of an exchange in one, for a request on the fast path. Whom a
// policy does not admit goes the long way, to be turned away there or taken to another
// backend, and so does a request with a head to be changed by rules.
func (c *guardConn) admits(b *routing.Backend) bool {
	f, all := &c.fast, c.fast.edge.door.All()
	f.strips = false
	if all == nil && b.Access == nil {
		return true
	}
	if b.Access.ChangesHeads() {
		return false
	}
	addr, _ := netip.ParseAddr(c.fastVisitor().first)
	var lines []string
	if f.request.authorizationLine != nil {
		lines = []string{string(f.request.authorization)}
	}
	for _, p := range [...]*access.Policy{all, b.Access} {
		v := f.edge.door.Check(p, addr, lines)
		if !v.Admits() {
			return false
		}
		f.strips = f.strips || v.Strips
	}
	return true
}

// turnedAway reports whether err stands for no more than that no policy admits the visitor.
func (x *exchange) turnedAway(err error) bool {
	return x.admission.by != nil && errors.Is(err, errNoBackend)
}

// turnAway answers a visitor whom no policy admits.
func (x *exchange) turnAway() {
	a := &x.admission
	reason, wait := x.e.door.Refuse(a.verdict, a.addr, x.name)
	switch reason {
	case access.Address:
		x.refuse(notAllowed)
	case access.Throttled:
		x.retryAfter = wait
		x.refuse(throttled)
	default:
		x.challenges = a.by.Challenges(realm)
		x.refuse(unauthorized)
	}
}

// changes returns what the request's head is to differ in for the backend that is tried now.
func (x *exchange) changes() changes {
	return changes{
		host: x.backend.Upstream.RewriteHost, upgrade: x.upgrade, strip: x.admission.stripsNow, rules: requestRules(x.backend),
	}
}

// requestRules returns how the backend has the request's head changed.
func requestRules(b *routing.Backend) *access.Rules {
	if b.Access == nil {
		return &noRules
	}
	return &b.Access.Request
}

// responseRules returns how the backend has the response's head changed.
func responseRules(b *routing.Backend) *access.Rules {
	if b.Access == nil {
		return &noRules
	}
	return &b.Access.Response
}

var noRules access.Rules
