// Package trust says who the visitor is when proxies stand in front of the data plane.
// A proxy writes down in header fields who came to it, and so can everybody else: what
// counts depends on whose connection brought it. [Proxies] is the value of
// TRUSTED_PROXIES, [Proxies.Resolve] the look at a request.
//
// # How a visitor is found
//
// Each hop is looked at, beginning with the peer of the connection. One that is no
// trusted proxy is the visitor: nothing it says about others counts. One that is a trusted
// proxy tells of the hop before it, and there we go on:
//
//  1. A platform with a field of its own, which it sets anew whatever the visitor sent
//     (Fly-Client-IP, CF-Connecting-IP), tells by that, if it is there once and is an
//     address.
//  2. Everybody else appends to X-Forwarded-For the address that it was connected from:
//     the rightmost entry that has not been used yet is the hop before it. What stands
//     left of the visitor's entry is hearsay.
//
// A platform stands for one hop, so that a visitor who comes from the addresses that its
// proxies have too (a neighbour in the VPC of a load balancer, say) cannot pretend to be
// one more of them. Networks that are listed as such may be several hops.
//
// presets.go has what is known of the platforms, and where from.
package trust

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/hostport"
)

// Proxies is the value of TRUSTED_PROXIES: presets, networks and addresses.
type Proxies struct {
	platforms []*platform // in their order
	networks  config.CIDRs
	text      string
}

// Decode implements envconfig.Decoder. It reports all items that it does not know.
func (p *Proxies) Decode(value string) error {
	var (
		out   Proxies
		items []string
		errs  []error
	)
	for item := range strings.SplitSeq(value, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		items = append(items, item)
		var network config.CIDRs
		word := strings.ToLower(item)
		switch preset := presets[word]; {
		case word == "private":
			out.networks = append(out.networks, private...)
		case preset != nil:
			out.platforms = append(out.platforms, preset)
		case network.Decode(item) != nil:
			errs = append(errs, fmt.Errorf("%q is not a network: use addresses, CIDRs such as 10.0.0.0/8, and the presets %s, separated by commas", item, presetNames))
		default:
			out.networks = append(out.networks, network...)
		}
	}
	out.text = strings.Join(items, ",")
	if out.ambiguous() {
		errs = append(errs, errors.New("fly stands for 172.16.0.0/12, as something else in the list does: whether Fly-Client-IP counts cannot be told, so leave one of them out"))
	}
	*p = out
	return errors.Join(errs...)
}

// ambiguous reports whether a platform with a field of its own has addresses that may be
// those of other proxies, who let the visitor's own go through.
func (p *Proxies) ambiguous() bool {
	overlaps := func(a, b config.CIDRs) bool {
		return slices.ContainsFunc(a, func(p netip.Prefix) bool { return slices.ContainsFunc(b, p.Overlaps) })
	}
	for _, pf := range p.platforms {
		if pf != presets["fly"] {
			continue
		}
		if overlaps(pf.prefixes, p.networks) ||
			slices.ContainsFunc(p.platforms, func(other *platform) bool { return other != pf && overlaps(pf.prefixes, other.prefixes) }) {
			return true
		}
	}
	return false
}

// String returns the text that Decode takes.
func (p Proxies) String() string { return p.text }

// Empty reports whether nobody is trusted.
func (p Proxies) Empty() bool { return len(p.platforms) == 0 && len(p.networks) == 0 }

// Contains reports whether addr is one of the proxies.
func (p Proxies) Contains(addr netip.Addr) bool {
	_, ok := p.find(addr, 0)
	return ok
}

// find returns the platform that addr belongs to, of those that are not in used; nil and
// true if it is in one of the networks.
func (p *Proxies) find(addr netip.Addr, used uint) (*platform, bool) {
	addr = addr.Unmap().WithZone("")
	for _, pf := range p.platforms {
		if used&pf.bit == 0 && pf.prefixes.Contains(addr) {
			return pf, true
		}
	}
	return nil, p.networks.Contains(addr)
}

// Said is what the fields of a request say of the visitor, whoever wrote them.
type Said struct {
	For   string            // X-Forwarded-For, its lines joined by commas
	Proto string            // X-Forwarded-Proto, the first
	Host  string            // X-Forwarded-Host, the first
	Own   [NumFields]string // of the platforms; "" for one that is there more than once, or not at all
}

// Visitor is who a request comes from.
type Visitor struct {
	Addr netip.Addr
	Port uint16 // 0: not known
	// Chain is the X-Forwarded-For for whoever comes next: Addr and the proxies behind it,
	// with the peer of the connection as the last.
	Chain string
	// Proto and Host are what the visitor used as a proxy tells, "" if none does.
	Proto, Host string
	// Own are the fields of platforms that were believed.
	Own [NumFields]string
}

// maxHops bounds the proxies of one request: more than that is somebody playing.
const maxHops = 16

// Resolve returns the visitor of a request that peer has sent, and false if peer is no
// trusted proxy: then it is the visitor itself.
func (p *Proxies) Resolve(peer netip.Addr, said *Said) (Visitor, bool) {
	peer = peer.Unmap().WithZone("")
	pf, ok := p.find(peer, 0)
	if !ok {
		return Visitor{}, false
	}
	v := Visitor{Addr: peer, Chain: peer.String()}
	if pf == nil || pf.tellsProto {
		v.Proto = said.Proto
	}
	if pf == nil {
		v.Host = said.Host
	}
	left := said.For // what has not been used of it
	used := uint(0)
	for range maxHops {
		var hop netip.AddrPort
		if pf != nil {
			used |= pf.bit
			hop, left, ok = pf.before(said, left, &v)
		} else {
			hop, left, ok = cutLast(left)
		}
		if !ok {
			break
		}
		v.Addr, v.Port = hop.Addr(), hop.Port()
		v.Chain = v.Addr.String() + ", " + v.Chain
		if pf, ok = p.find(v.Addr, used); !ok {
			break
		}
	}
	return v, true
}

// cutLast takes the last entry off X-Forwarded-For. It returns false when there is none,
// or it is no address: with that ends what is known.
func cutLast(list string) (hop netip.AddrPort, left string, ok bool) {
	for list != "" {
		i := strings.LastIndexByte(list, ',')
		entry := strings.Trim(list[i+1:], " \t")
		list = list[:max(i, 0)]
		if entry != "" {
			hop, ok = parseHop(entry)
			return hop, list, ok
		}
	}
	return hop, "", false
}

// parseHop reads an address as proxies write them down: with or without a port, IPv6 in
// brackets or, if there is no port, without.
func parseHop(s string) (netip.AddrPort, bool) {
	if strings.HasPrefix(s, "[") {
		inside, rest, ok := strings.Cut(s[1:], "]")
		addr, err := netip.ParseAddr(inside)
		if !ok || err != nil || !addr.Is6() {
			return netip.AddrPort{}, false
		}
		if rest == "" {
			return plain(addr, 0), true
		}
		port, ok := hostport.Port(strings.TrimPrefix(rest, ":"))
		return plain(addr, port), ok && rest[0] == ':'
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return plain(addr, 0), true
	}
	host, rest, _ := strings.Cut(s, ":")
	addr, err := netip.ParseAddr(host)
	port, ok := hostport.Port(rest)
	return plain(addr, port), ok && err == nil
}

// plain has no zone, which means nothing elsewhere, and no IPv4 in IPv6.
func plain(addr netip.Addr, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(addr.Unmap().WithZone(""), port)
}
