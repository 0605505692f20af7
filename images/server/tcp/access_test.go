package tcp

import (
	"fmt"
	"net"
	"testing"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

func networks(t testing.TB, text string) *access.Policy {
	t.Helper()
	var c config.CIDRs
	must(t, c.Decode(text))
	return &access.Policy{Allow: c}
}

// TestAddresses lets in visitors from where the policies say: that for all, and that of each
// client. Who is turned away is reset before any stream is opened.
func TestAddresses(t *testing.T) {
	const address = "127.0.0.1"
	for _, c := range []struct {
		name            string
		all, one, other string // networks; "" for no policy
		trustedly       string // the visitor that a proxy tells of, "" for none
		oneIn, otherIn  bool
	}{
		{name: "everybody", oneIn: true, otherIn: true},
		{name: "for all: in", all: address, oneIn: true, otherIn: true},
		{name: "for all: out", all: "10.0.0.0/8"},
		{name: "one", one: "10.0.0.0/8", otherIn: true},
		{name: "the other", one: "127.0.0.0/8", other: "::1", oneIn: true},
		{name: "neither", one: "10.0.0.0/8", other: "::1"},
		{name: "both have to be met", all: "10.0.0.0/8", one: address},
		{name: "who a proxy tells of: in", all: "192.0.2.0/24", trustedly: "192.0.2.7", oneIn: true, otherIn: true},
		{name: "who a proxy tells of: out", all: address, trustedly: "192.0.2.7"},
		{name: "IPv4 in IPv6", one: "192.0.2.0/24", other: "::1", trustedly: "::ffff:192.0.2.7", oneIn: true},
		{name: "IPv6", one: "2001:db8::/32", other: "::1", trustedly: "2001:db8::7", oneIn: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, func(cfg *Config) {
				if c.all != "" {
					cfg.Door = access.NewDoor(networks(t, c.all), nil, zerolog.Nop())
				}
				if c.trustedly != "" {
					cfg.Visitor = func(conn net.Conn) (Visitor, error) {
						return Visitor{Addr: &net.TCPAddr{IP: net.ParseIP(c.trustedly), Port: 1}, Local: conn.LocalAddr()}, nil
					}
				}
			})
			port := freeport.New(t)
			for name, text := range map[string]string{"one": c.one, "other": c.other} {
				if s.access = nil; text != "" {
					s.access = networks(t, text)
				}
				s.connect(t, says(name), port)
			}
			seen := map[string]bool{}
			for range 4 {
				if !c.oneIn && !c.otherIn {
					wantRefused(t, port)
					continue
				}
				conn := visit(t, port)
				seen[hears(t, conn)] = true
				conn.Close()
				eventually(t, func() bool { return s.busy() == 0 })
			}
			if seen["one"] != c.oneIn || seen["other"] != c.otherIn {
				t.Errorf("served by %v", seen)
			}
			refused := 0.0
			if !c.oneIn && !c.otherIn {
				refused = 4
			}
			eventually(t, func() bool { return s.metric(t, "adit_tcp_refused_connections_total", "address") == refused })
			if n := s.metric(t, "tcp_dataplane_connections_total", fmt.Sprint(port)); n != 4 {
				t.Errorf("%v connections", n)
			}
		})
	}
}
