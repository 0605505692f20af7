package edge

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/images/server/trust"
	"github.com/adit-tunnel/adit/shared/access"
)

// hopByHop are the header fields that end at this hop (RFC 9110 section 7.6.1, RFC 9112
// section 9), with those that older software treats so.
var hopByHop = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Te": true, "Trailer": true,
	"Transfer-Encoding": true, "Upgrade": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Http2-Settings": true,
}

// isForwarding reports whether the field tells an upstream who the visitor is: such
// fields are ours to set. Upstreams that turn names into variables (CGI, WSGI) take
// X_Forwarded_For for X-Forwarded-For, so those spellings count too.
func isForwarding(name string) bool {
	if trust.NamesVisitor(name) {
		return true
	}
	if name[0] != 'X' && name[0] != 'F' {
		return false
	}
	if strings.IndexByte(name, '_') >= 0 {
		name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
	return name == "Forwarded" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-")
}

// connectionTokens returns the fields that Connection names, canonical.
func connectionTokens(h http.Header) []string {
	var names []string
	for _, line := range h["Connection"] {
		for token := range strings.SplitSeq(line, ",") {
			if token = strings.TrimSpace(token); token != "" {
				names = append(names, http.CanonicalHeaderKey(token))
			}
		}
	}
	return names
}

// upgradeOf returns the protocol that the request asks to change to, or "". HTTP/2 by
// upgrade is never passed on: it would carry requests past every check. Nor is an upgrade
// with a body, which a server may ignore, or with HTTP/1.0, which it must ignore (RFC 9110
// section 7.8).
func upgradeOf(r *http.Request) string {
	h := r.Header
	if len(h["Upgrade"]) == 0 || !httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade") ||
		r.ContentLength != 0 || !r.ProtoAtLeast(1, 1) {
		return ""
	}
	protocol := strings.Join(h["Upgrade"], ", ")
	if httpguts.HeaderValuesContainsToken(h["Upgrade"], "h2c") || strings.ContainsAny(protocol, "\r\n") {
		return ""
	}
	return protocol
}

// visitor is who made a request, as told by the connection and by trusted proxies.
type visitor struct {
	addr  string // of the connection, without port
	proto string // "http" or "https"
	told  bool   // it is a trusted proxy that says proto
	host  string // as the visitor wrote it
	chain string // X-Forwarded-For, complete
	first string // the visitor proper
	port  uint16 // of first, if a trusted proxy tells it
	own   [trust.NumFields]string
}

// visitorOf looks at the connection and, when that comes from a trusted proxy, at what
// the proxy says.
func (e *Edge) visitorOf(r *http.Request, secure bool) visitor {
	v := visitorAt(hostOnly(r.RemoteAddr), r.Host, secure)
	if e.trustsAddr(v.addr) {
		said := trust.Said{
			For: strings.Join(r.Header["X-Forwarded-For"], ","), Proto: r.Header.Get("X-Forwarded-Proto"), Host: r.Header.Get("X-Forwarded-Host"),
		}
		for f := range trust.NumFields {
			if values := r.Header[f.String()]; len(values) == 1 {
				said.Own[f] = values[0]
			}
		}
		e.believe(&v, &said)
	}
	return v
}

// visitorAt is the visitor as the connection tells.
func visitorAt(addr, host string, secure bool) visitor {
	v := visitor{addr: addr, proto: "http", host: host, chain: addr, first: addr}
	if secure {
		v.proto = "https"
	}
	return v
}

// believe notes what a trusted proxy says.
func (e *Edge) believe(v *visitor, said *trust.Said) {
	peer, err := netip.ParseAddr(v.addr)
	if err != nil {
		return
	}
	told, ok := e.trusted.Resolve(peer, said)
	if !ok {
		return
	}
	v.chain, v.first, v.port, v.own = told.Chain, told.Addr.String(), told.Port, told.Own
	if told.Proto == "http" || told.Proto == "https" {
		v.proto, v.told = told.Proto, true
	}
	if _, err := routing.CleanHost(told.Host); err == nil && told.Host != "" && httpguts.ValidHostHeader(told.Host) {
		v.host = told.Host
	}
}

// address returns who the visitor is as "ip:port", given the other end of the connection.
// One that a trusted proxy tells of has port 0 unless it tells that, too.
func (v *visitor) address(remote string) string {
	if v.first == v.addr {
		return remote
	}
	return net.JoinHostPort(v.first, strconv.Itoa(int(v.port)))
}

// Address returns who made a request, "ip:port".
func (e *Edge) Address(r *http.Request) string {
	v := e.visitorOf(r, false)
	return v.address(r.RemoteAddr)
}

// Conn returns the connection of a request as the HTTP server knows it.
func (e *Edge) Conn(r *http.Request) net.Conn { return r.Context().Value(connKey).(*guardConn) }

func (e *Edge) trustsAddr(text string) bool {
	if e.trusted.Empty() {
		return false
	}
	addr, err := netip.ParseAddr(text)
	return err == nil && e.trusted.Contains(addr)
}

// hostOnly cuts the port off "ip:port" and the zone off an IPv6 address.
func hostOnly(addr string) string {
	if i := strings.LastIndexByte(addr, ':'); i >= 0 {
		addr = addr[:i]
	}
	addr = strings.Trim(addr, "[]")
	addr, _, _ = strings.Cut(addr, "%")
	return addr
}

// changes are what a head differs in from the visitor's for one backend.
type changes struct {
	host    string // instead of the visitor's, if not empty
	upgrade string // the protocol to change to, if not empty
	strip   bool   // Authorization ends here
	rules   *access.Rules
}

// drops reports whether a field of the visitor's does not get to the upstream; named are those
// that Connection names.
func (c *changes) drops(name string, named []string) bool {
	return hopByHop[name] || isForwarding(name) || name == "Content-Length" || name == "Host" || contains(named, name) ||
		c.strip && name == "Authorization" || c.rules.Drops(name)
}

// appendHead appends the head of the request as the upstream gets it: the visitor's,
// without what ends here, with forwarding fields of our own and what rules add.
func appendHead(b []byte, r *http.Request, v *visitor, c changes) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = appendTarget(b, r)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	if c.host != "" {
		b = append(b, c.host...)
	} else {
		b = append(b, r.Host...)
	}
	b = append(b, "\r\n"...)
	var named []string
	if len(r.Header["Connection"]) > 0 {
		named = connectionTokens(r.Header)
	}
	for name, values := range r.Header {
		if c.drops(name, named) {
			continue
		}
		b = appendField(b, name, values)
	}
	for _, f := range c.rules.Fields() {
		b = appendField(b, f.Name, []string{f.Value})
	}
	switch {
	case r.ContentLength > 0 || r.ContentLength == 0 && len(r.Header["Content-Length"]) > 0:
		b = appendContentLength(b, r.ContentLength)
	case r.ContentLength < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for name := range r.Trailer {
			if !c.rules.Drops(name) {
				b = appendField(b, "Trailer", []string{name})
			}
		}
	}
	if httpguts.HeaderValuesContainsToken(r.Header["Te"], "trailers") {
		b = append(b, "TE: trailers\r\n"...)
		if c.upgrade == "" {
			b = append(b, "Connection: TE\r\n"...)
		}
	}
	if c.upgrade != "" {
		b = append(b, "Connection: Upgrade\r\nUpgrade: "...)
		b = append(b, c.upgrade...)
		b = append(b, "\r\n"...)
	}
	return append(appendForwarding(b, v), "\r\n"...)
}

// appendTarget appends the request target as the visitor wrote it, in origin form
// (RFC 9112 section 3.2).
func appendTarget(b []byte, r *http.Request) []byte {
	if strings.HasPrefix(r.RequestURI, "/") || r.RequestURI == "*" {
		return append(b, r.RequestURI...)
	}
	return append(b, r.URL.RequestURI()...)
}

func appendForwarding(b []byte, v *visitor) []byte {
	b = append(b, "X-Forwarded-For: "...)
	b = append(b, v.chain...)
	b = append(b, "\r\nX-Forwarded-Proto: "...)
	b = append(b, v.proto...)
	b = append(b, "\r\nX-Forwarded-Host: "...)
	b = append(b, v.host...)
	b = append(b, "\r\nX-Real-Ip: "...)
	b = append(b, v.first...)
	b = append(b, "\r\nForwarded: for="...) // RFC 7239
	b = appendNode(b, v.first)
	b = append(b, ";host=\""...)
	b = append(b, v.host...)
	b = append(b, "\";proto="...)
	b = append(b, v.proto...)
	b = append(b, "\r\n"...)
	for f := range trust.NumFields {
		if v.own[f] != "" {
			b = appendField(b, f.String(), v.own[f:f+1])
		}
	}
	return b
}

// appendNode appends an address as RFC 7239 section 6 wants it: IPv6 in quoted brackets.
func appendNode(b []byte, addr string) []byte {
	if !strings.Contains(addr, ":") {
		return append(b, addr...)
	}
	b = append(b, "\"["...)
	b = append(b, addr...)
	return append(b, "]\""...)
}

func appendField(b []byte, name string, values []string) []byte {
	for _, value := range values {
		b = append(b, name...)
		b = append(b, ": "...)
		b = append(b, value...)
		b = append(b, "\r\n"...)
	}
	return b
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// copyHeader copies the upstream's header fields to the visitor's, without those that
// end here.
func copyHeader(to, from http.Header) {
	var named []string
	if len(from["Connection"]) > 0 {
		named = connectionTokens(from)
	}
	for name, values := range from {
		if !hopByHop[name] && !contains(named, name) {
			to[name] = values
		}
	}
	if _, ok := to["Content-Type"]; !ok {
		to["Content-Type"] = nil // or the server would guess one
	}
}
