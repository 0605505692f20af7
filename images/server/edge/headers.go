package edge

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"golang.org/x/net/http/httpguts"
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
	addr  string // without port
	proto string // "http" or "https"
	host  string // as the visitor wrote it
	chain string // X-Forwarded-For, complete
	first string // the visitor proper: the first address of the chain that can be trusted
}

// visitorOf looks at the connection and, when that comes from a trusted proxy, at what
// the proxy says.
func (e *Edge) visitorOf(r *http.Request, secure bool) visitor {
	v := visitor{addr: hostOnly(r.RemoteAddr), proto: "http", host: r.Host}
	if secure {
		v.proto = "https"
	}
	v.chain, v.first = v.addr, v.addr
	if len(e.trusted) == 0 {
		return v
	}
	if addr, err := netip.ParseAddr(v.addr); err != nil || !e.trusts(addr) {
		return v
	}
	if proto := r.Header.Get("X-Forwarded-Proto"); proto == "http" || proto == "https" {
		v.proto = proto
	}
	if host := r.Header.Get("X-Forwarded-Host"); host != "" && httpguts.ValidHostHeader(host) {
		v.host = host
	}
	// Each proxy appends the address that it saw: the rightmost that is not a trusted
	// proxy's own is the visitor's, and what stands left of it is hearsay.
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		addr, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		addr = addr.WithZone("").Unmap()
		v.chain = addr.String() + ", " + v.chain
		v.first = addr.String()
		if !e.trusts(addr) {
			break
		}
	}
	return v
}

// Address returns who made a request, "ip:port"; a visitor of whom a trusted proxy tells
// has port 0.
func (e *Edge) Address(r *http.Request) string {
	if v := e.visitorOf(r, false); v.first != v.addr {
		return net.JoinHostPort(v.first, "0")
	}
	return r.RemoteAddr
}

func (e *Edge) trusts(addr netip.Addr) bool {
	addr = addr.Unmap()
	for _, p := range e.trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
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

// appendHead appends the head of the request as the upstream gets it: the visitor's,
// without what ends here, with forwarding fields of our own.
func appendHead(b []byte, r *http.Request, v *visitor, rewriteHost, upgrade string) []byte {
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = appendTarget(b, r)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	if rewriteHost != "" {
		b = append(b, rewriteHost...)
	} else {
		b = append(b, r.Host...)
	}
	b = append(b, "\r\n"...)
	var named []string
	if len(r.Header["Connection"]) > 0 {
		named = connectionTokens(r.Header)
	}
	for name, values := range r.Header {
		if hopByHop[name] || isForwarding(name) || name == "Content-Length" || name == "Host" || contains(named, name) {
			continue
		}
		b = appendField(b, name, values)
	}
	switch {
	case r.ContentLength > 0 || r.ContentLength == 0 && len(r.Header["Content-Length"]) > 0:
		b = appendContentLength(b, r.ContentLength)
	case r.ContentLength < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for name := range r.Trailer {
			b = appendField(b, "Trailer", []string{name})
		}
	}
	if httpguts.HeaderValuesContainsToken(r.Header["Te"], "trailers") {
		b = append(b, "TE: trailers\r\n"...)
		if upgrade == "" {
			b = append(b, "Connection: TE\r\n"...)
		}
	}
	if upgrade != "" {
		b = append(b, "Connection: Upgrade\r\nUpgrade: "...)
		b = append(b, upgrade...)
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
	return append(b, "\r\n"...)
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
