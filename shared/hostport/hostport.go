// Package hostport reads "host:port" strictly: what passes means the same to whoever reads
// it next, a resolver included.
package hostport

import (
	"errors"
	"net"
	"net/netip"
	"strings"
)

// Parse takes "host:port" apart, IPv6 in brackets. The host is an address in its usual form
// and without a zone, or a name in lower case without a dot at the end.
func Parse(text string) (host string, port uint16, err error) {
	host, rest, err := net.SplitHostPort(text)
	if err != nil {
		return "", 0, errors.New("is not host:port, with IPv6 in brackets")
	}
	port, ok := Port(rest)
	if !ok {
		return "", 0, errors.New("has no port from 1 to 65535 at its end")
	}
	if host, ok = Host(host); !ok {
		return "", 0, errors.New("has neither a name nor an address before its port")
	}
	return host, port, nil
}

// Host returns a host as Parse does, and false if it is none.
func Host(text string) (string, bool) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Unmap().String(), addr.Zone() == ""
	}
	name := strings.ToLower(strings.TrimSuffix(text, "."))
	return name, isName(name)
}

// Port reads a port from 1 to 65535 in its usual form: digits without a leading zero.
func Port(text string) (uint16, bool) {
	if text == "" || len(text) > 5 || text[0] == '0' {
		return 0, false
	}
	n := 0
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
		n = 10*n + int(text[i]-'0')
	}
	return uint16(n), n <= 65535
}

// isName reports whether s is a name as they are looked up (RFC 1123 section 2.1, with
// underscores), and no address in an unusual spelling, which a resolver might take for one.
func isName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	letter := false
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			switch c := label[i]; {
			case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			default:
				return false
			}
		}
		letter = label[0] < '0' || label[0] > '9' // of the last label: 127.1 and 0x7f.1 are addresses to some
	}
	return letter
}
