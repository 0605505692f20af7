package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/adit-tunnel/adit/shared/hostport"
)

// Allow is the value of FORWARD_ALLOW: patterns of hosts and ports, of which
//
//	10.0.0.2:3000        is an address
//	10.0.0.0/8:5432      a network
//	[fd00::/8]:80-89     one of IPv6, and a range of ports
//	db.internal:5432     a name
//	*.internal:443       every name below internal
//	10.0.0.2:*           every port
//
// Addresses and networks are compared with where a connection would go, whatever name it
// was asked for by. Names are compared with the name that was asked for, and wherever it
// leads is allowed but for what [special] says.
type Allow []pattern

// pattern is one host, network or name, and ports.
type pattern struct {
	network     netip.Prefix // invalid: it is a name
	name        string       // in lower case; "*.example" as ".example"
	first, last uint16       // ports
	text        string
}

const example = "write host:port, such as 10.0.0.2:3000, *.internal:443, 10.0.0.0/8:5432 or [fd00::/8]:80-89, separated by commas"

// Decode implements envconfig.Decoder. It reports all patterns that are wrong.
func (a *Allow) Decode(value string) error {
	var (
		out  Allow
		errs []error
	)
	for text := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }) {
		p, err := parsePattern(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q %w", text, err))
			continue
		}
		out = append(out, p)
	}
	if len(out) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("holds no pattern: "+example))
	}
	*a = out
	return errors.Join(errs...)
}

// String returns the text that Decode takes.
func (a Allow) String() string {
	var out []string
	for _, p := range a {
		out = append(out, p.text)
	}
	return strings.Join(out, ",")
}

func parsePattern(text string) (p pattern, err error) {
	p.text = text
	host, ports, err := splitHostPort(text)
	if err != nil {
		return p, err
	}
	if p.first, p.last, err = parsePorts(ports); err != nil {
		return p, err
	}
	if prefix, err := netip.ParsePrefix(host); err == nil {
		p.network = prefix.Masked()
		if prefix.Addr().Is4In6() {
			return p, errors.New("is IPv4 written as IPv6: write it plainly")
		}
		if special(p.network) && !p.exact() {
			return p, errors.New("is a network of addresses that have to be named one by one: loopback, link-local, multicast and those of cloud metadata")
		}
		return p, nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return p, errors.New("has a zone, which means nothing to others: leave it out")
		}
		addr = addr.Unmap()
		p.network = netip.PrefixFrom(addr, addr.BitLen())
		return p, nil
	}
	below, all := strings.CutPrefix(host, "*.")
	name, ok := hostport.Host(below)
	if _, err := netip.ParseAddr(name); err == nil || !ok {
		return p, errors.New("has no address, network or name before its port: " + example)
	}
	if p.name = name; all {
		p.name = "." + name
	}
	return p, nil
}

// exact reports whether the pattern names a single address.
func (p *pattern) exact() bool { return p.network.IsValid() && p.network.IsSingleIP() }

func splitHostPort(text string) (host, ports string, err error) {
	if inside, rest, ok := strings.Cut(strings.TrimPrefix(text, "["), "]:"); ok && text[0] == '[' {
		return inside, rest, nil
	}
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", "", errors.New("has no port: " + example)
	}
	if strings.IndexByte(text, ':') != i {
		return "", "", errors.New("has more than one colon: IPv6 goes in brackets, as in [fd00::2]:3000")
	}
	return text[:i], text[i+1:], nil
}

func parsePorts(text string) (first, last uint16, err error) {
	if text == "*" {
		return 1, 65535, nil
	}
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	first, ok := hostport.Port(low)
	last, ok2 := hostport.Port(high)
	if !ok || !ok2 || first > last {
		return 0, 0, errors.New("has neither a port nor a range of ports from 1 to 65535 behind the colon, such as 5432 or 8000-8999; * is all")
	}
	return first, last, nil
}

// guarded are addresses that have to be named by themselves to be allowed: what is this
// machine, its link, or everybody, and where clouds tell the machine that asks its own
// secrets, as far as that is not link-local.
var guarded = [...]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/128"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
	netip.MustParsePrefix("fd00:ec2::254/128"),  // Amazon
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
}

// nat64 is the prefix by which a translator reaches IPv4 (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// special reports whether all addresses of a network are guarded.
func special(network netip.Prefix) bool {
	if addr := network.Addr(); nat64.Contains(addr) && network.Bits() >= nat64.Bits() {
		raw := addr.As16()
		network = netip.PrefixFrom(netip.AddrFrom4([4]byte(raw[12:])), network.Bits()-nat64.Bits())
	}
	return slices.ContainsFunc(guarded[:], func(g netip.Prefix) bool {
		return g.Bits() <= network.Bits() && g.Contains(network.Addr())
	})
}

// names reports whether a pattern allows the name and port. localhost, as such, stands
// for the addresses that it always has: it allows loopback, as exact tells.
func (a Allow) names(name string, port uint16) (ok, loopback bool) {
	for i := range a {
		p := &a[i]
		switch {
		case p.network.IsValid() || port < p.first || port > p.last:
		case p.name == name:
			ok, loopback = true, loopback || name == "localhost"
		case p.name[0] == '.' && strings.HasSuffix(name, p.name):
			ok = true
		}
	}
	return ok, loopback
}

// address reports whether a pattern allows the address and port, and whether one names just
// this address.
func (a Allow) address(addr netip.Addr, port uint16) (ok, exact bool) {
	for i := range a {
		p := &a[i]
		if p.network.IsValid() && port >= p.first && port <= p.last && p.network.Contains(addr) {
			ok, exact = true, exact || p.exact()
		}
	}
	return ok, exact
}

// networks reports whether a name, wherever it leads, may be allowed for the port.
func (a Allow) networks(port uint16) bool {
	for i := range a {
		if p := &a[i]; p.network.IsValid() && port >= p.first && port <= p.last {
			return true
		}
	}
	return false
}
