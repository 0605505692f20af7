package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// CIDRs is a list of networks.
type CIDRs []netip.Prefix

// Decode accepts networks such as 10.0.0.0/8 and single addresses, separated by
// commas, and at least one.
func (c *CIDRs) Decode(value string) error {
	var list CIDRs
	for _, item := range splitList(value) {
		prefix, err := parsePrefix(item)
		if err != nil {
			return fmt.Errorf("%q is not a network: use addresses or CIDRs such as 10.0.0.0/8, separated by commas", item)
		}
		list = append(list, prefix)
	}
	if len(list) == 0 { // no restriction at all is not what it looks like
		return errors.New("holds no network: write addresses or CIDRs such as 10.0.0.0/8, separated by commas")
	}
	*c = list
	return nil
}

// parsePrefix also turns IPv4 networks written as IPv6 into plain IPv4 ones, as
// netip matches the two families strictly apart.
func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("parse address %q", s)
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}

// Contains tells whether addr is in one of the networks. An IPv4 address within
// IPv6 counts as what it is, and a zone does not matter.
func (c CIDRs) Contains(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, prefix := range c {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

func (c CIDRs) String() string {
	items := make([]string, len(c))
	for i, prefix := range c {
		items[i] = prefix.String()
	}
	return strings.Join(items, ",")
}
