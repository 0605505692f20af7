package trust

import (
	"net/netip"
	"strings"
	"testing"
)

// deliver is what each platform makes of the fields that a visitor has sent, as documented:
// the visitor's own X-Forwarded-For stays in front, and what the platform does not set goes
// through.
var deliver = map[string]struct {
	peer string
	do   func(s *Said, visitor string)
}{
	"heroku":       {"10.1.2.3", func(s *Said, visitor string) { s.append(visitor) }},
	"alb":          {"172.31.4.5", func(s *Said, visitor string) { s.append(visitor) }},
	"private":      {"192.168.7.7", func(s *Said, visitor string) { s.append(visitor) }},
	"198.51.100.1": {"198.51.100.1", func(s *Said, visitor string) { s.append(visitor) }},
	"fly": {"172.16.1.1", func(s *Said, visitor string) {
		s.append(visitor)
		s.append("2a09:8280:1::1")
		s.Own[FlyClientIP] = visitor
	}},
	"cloudflare": {"104.16.0.1", func(s *Said, visitor string) {
		s.append(visitor)
		s.Own[CFConnectingIP] = visitor
	}},
	"cloudfront": {"130.176.0.1", func(s *Said, visitor string) { s.append(visitor) }},
}

func (s *Said) append(addr string) {
	if s.For != "" {
		s.For += ","
	}
	s.For += addr
}

// FuzzForged has a visitor send whatever it likes through each of the presets, and
// directly: the address that is believed stays the true one.
func FuzzForged(f *testing.F) {
	f.Add("6.6.6.6", "6.6.6.6", "6.6.6.6", "6.6.6.6:1", "https", "evil")
	f.Add("10.0.0.1, 172.16.0.1,fd00::1, 162.158.0.1", "162.158.0.1", "172.16.0.1", "130.176.0.1:1", "", "")
	f.Add(",,\"[::1]:80", "::ffff:6.6.6.6", " ", ":", "gopher", "")
	f.Fuzz(func(t *testing.T, chain, fly, cf, cloudfront, proto, host string) {
		const visitor = "203.0.113.7"
		all := []string{"heroku,cloudfront,cloudflare,alb,private,198.51.100.1", "fly,heroku,cloudfront,cloudflare,198.51.100.1"}
		for preset, platform := range deliver {
			for _, trusted := range append(all, preset) {
				if !strings.Contains(trusted, preset) {
					continue
				}
				p := decode(t, trusted)
				s := Said{For: chain, Proto: proto, Host: host, Own: [NumFields]string{fly, cf, cloudfront}}
				if _, ok := p.Resolve(netip.MustParseAddr(visitor), &s); ok {
					t.Fatalf("%s: the visitor itself is trusted", trusted)
				}
				platform.do(&s, visitor)
				v, ok := p.Resolve(netip.MustParseAddr(platform.peer), &s)
				if !ok || v.Addr.String() != visitor {
					t.Fatalf("%s behind %s: got %s from %+v", trusted, preset, v.Addr, s)
				}
				if !strings.HasSuffix(v.Chain, platform.peer) || !strings.HasPrefix(v.Chain, visitor+", ") {
					t.Fatalf("%s behind %s: chain %q", trusted, preset, v.Chain)
				}
				if preset != "private" && trusted == preset && preset != "198.51.100.1" && v.Host != "" {
					t.Fatalf("%s: the visitor's X-Forwarded-Host %q was believed", preset, v.Host)
				}
			}
		}
	})
}
