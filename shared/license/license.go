// Package license is the signed capability that lets a client in: a JWT, signed with Ed25519
// ("alg": "EdDSA"), of at most MaxSize bytes, that travels as
//
//	Adit-License: JWT
//
// in the handshake of a session. A vendor signs one for each customer with a private key
// that stays at home; a server needs only the public key to tell whom it admits and what
// each may ask for, and keeps no list of customers. The claims:
//
//	sub          whom it is for: 1 to 128 printable characters; required
//	exp          when it ends, in seconds since 1970; required
//	nbf, iat     when it begins, and when it was issued; neither may be in the future
//	hosts        the hosts that the client may serve: ["shop.example.com", "*.example.org", "*"]
//	ports        the TCP ports that it may serve: [2222, "8000-8999"]
//	max_clients  how many clients with the same sub may be connected at once
//	iss, jti     for whoever keeps account of licences
//
// What is left out is not limited; an empty list allows nothing. A pattern of hosts covers
// what the same text covers in UPSTREAMS: "*.example.org" every name below example.org, and
// not example.org itself, "*" everything. Times may be off by Leeway.
//
// Reading is strict, since a licence is a promise: a claim that is not in the list above
// could be a restriction that this version does not know, or a misspelt one, so it is
// refused, and so is a header parameter other than alg, typ ("JWT") and kid. kid names the
// key, by its RFC 7638 thumbprint: one that is not ours is refused, and a licence without it
// is tried with every key. Nothing in a licence can bring a key along.
//
// A licence is a bearer credential: nothing here logs one, or quotes it in an error.
package license

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// Header carries the licence in the handshake of a session.
	Header = "Adit-License"
	// MaxSize is the greatest length of a licence in bytes; it keeps a request header within
	// what proxies carry.
	MaxSize = 4096
	// Leeway is how much the clocks of issuer and verifier may differ: a licence is good from
	// that long before it begins until that long after it ends.
	Leeway = time.Minute

	maxSubject = 128
	maxHosts   = 256
	maxPorts   = 256
	maxMaximum = 1 << 30
)

// License is what a licence says.
type License struct {
	Subject    string
	Issuer     string
	ID         string
	Expires    time.Time
	NotBefore  time.Time // zero: from ever
	IssuedAt   time.Time // zero: not said
	Hosts      []string  // nil: any
	Ports      []Ports   // nil: any
	MaxClients int       // 0: any number
	// KeyID is the thumbprint of the key that verified it; Read leaves it empty.
	KeyID string
}

// Ports are the ports from First to Last.
type Ports struct{ First, Last int }

func (p Ports) String() string {
	if p.First == p.Last {
		return fmt.Sprint(p.First)
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// AllowsHost reports whether the licence covers a host as it stands in UPSTREAMS, which may
// be a pattern itself: a wildcard is covered by the same one or a wider one.
func (l License) AllowsHost(host string) bool {
	return l.Hosts == nil || slices.ContainsFunc(l.Hosts, func(pattern string) bool { return covers(pattern, host) })
}

func covers(pattern, host string) bool {
	pattern, host = strings.ToLower(pattern), strings.ToLower(strings.TrimSuffix(host, "."))
	if pattern == "*" || pattern == host {
		return true
	}
	below, wildcard := strings.CutPrefix(pattern, "*")
	// What is left of *.example.com is more than its dot, also of the pattern *.b.example.com.
	return wildcard && host != "*" && len(host) > len(below) && strings.HasSuffix(host, below)
}

// AllowsPort reports whether the licence covers a TCP port.
func (l License) AllowsPort(port int) bool {
	return l.Ports == nil || slices.ContainsFunc(l.Ports, func(p Ports) bool { return p.First <= port && port <= p.Last })
}

// Ends is when the licence is no longer good: Leeway after it expires.
func (l License) Ends() time.Time { return l.Expires.Add(Leeway) }

// HostsText returns the hosts for people: "any", "none" or the list, shortened.
func (l License) HostsText() string { return listText(l.Hosts, l.Hosts == nil, 8) }

// AllHosts is HostsText with all of them.
func (l License) AllHosts() string { return listText(l.Hosts, l.Hosts == nil, maxHosts) }

// PortsText is HostsText for ports.
func (l License) PortsText() string { return listText(l.portTexts(), l.Ports == nil, 8) }

// AllPorts is PortsText with all of them.
func (l License) AllPorts() string { return listText(l.portTexts(), l.Ports == nil, maxPorts) }

func (l License) portTexts() []string {
	texts := make([]string, len(l.Ports))
	for i, p := range l.Ports {
		texts[i] = p.String()
	}
	return texts
}

func listText(list []string, any bool, most int) string {
	switch {
	case any:
		return "any"
	case len(list) == 0:
		return "none"
	case len(list) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}

// Error is why a licence is not good. It never quotes the licence beyond its claims.
type Error struct {
	Claim  string // that failed, one of those above, or unknown, signature, header or format
	Reason string // with what to do
}

func (e *Error) Error() string { return "the licence is not good (" + e.Claim + "): " + e.Reason }

func faultf(claim, format string, args ...any) *Error {
	return &Error{Claim: claim, Reason: fmt.Sprintf(format, args...)}
}
