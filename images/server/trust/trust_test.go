package trust

import (
	"net/netip"
	"strings"
	"testing"
)

func decode(tb testing.TB, value string) Proxies {
	tb.Helper()
	var p Proxies
	if err := p.Decode(value); err != nil {
		tb.Fatal(err)
	}
	return p
}

// said builds what the fields of a request say from lines such as "Fly-Client-IP: 1.2.3.4".
func said(lines ...string) *Said {
	var s Said
	var chain []string
	seen := map[Field]int{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "X-Forwarded-For":
			chain = append(chain, value)
		case "X-Forwarded-Proto":
			s.Proto = value
		case "X-Forwarded-Host":
			s.Host = value
		}
		for f := range NumFields {
			if strings.EqualFold(f.String(), name) {
				if seen[f]++; seen[f] == 1 {
					s.Own[f] = value
				} else {
					s.Own[f] = ""
				}
			}
		}
	}
	s.For = strings.Join(chain, ",")
	return &s
}

func TestResolve(t *testing.T) {
	const (
		fly        = "172.16.5.6"
		app        = "2a09:8280:1::1" // the app's own address, at the end of X-Forwarded-For
		heroku     = "10.1.2.3"
		cloudflare = "162.158.1.2"
		cloudfront = "15.158.27.206"
		visitor    = "203.0.113.7"
		evil       = "X-Forwarded-For: 6.6.6.6"
	)
	for _, tt := range []struct {
		name, trusted, peer string
		fields              []string
		addr                string // "": the peer is not trusted
		port                uint16
		chain, proto, host  string
		own                 string // that was believed
	}{
		{name: "nobody is trusted", peer: heroku, fields: []string{evil}},
		{name: "a peer that is not trusted", trusted: "10.0.0.0/8", peer: visitor, fields: []string{evil, "X-Forwarded-Proto: https"}},
		{name: "the proxy says nothing", trusted: "10.0.0.0/8", peer: heroku, addr: heroku, chain: heroku},
		{name: "one hop", trusted: "10.0.0.0/8", peer: heroku, fields: []string{"X-Forwarded-For: " + visitor, "X-Forwarded-Proto: https", "X-Forwarded-Host: a.example"},
			addr: visitor, chain: visitor + ", " + heroku, proto: "https", host: "a.example"},
		{name: "several hops, and hearsay", trusted: "10.0.0.0/8", peer: heroku, fields: []string{"X-Forwarded-For: 6.6.6.6, " + visitor + ", 10.9.9.9"},
			addr: visitor, chain: visitor + ", 10.9.9.9, " + heroku},
		{name: "several lines", trusted: "10.0.0.0/8", peer: heroku, fields: []string{evil, "X-Forwarded-For: " + visitor, "X-Forwarded-For: 10.9.9.9"},
			addr: visitor, chain: visitor + ", 10.9.9.9, " + heroku},
		{name: "empty entries", trusted: "10.0.0.0/8", peer: heroku, fields: []string{"X-Forwarded-For: 6.6.6.6,, " + visitor + " , ,\t", "X-Forwarded-For: "},
			addr: visitor, chain: visitor + ", " + heroku},
		{name: "nonsense ends it", trusted: "10.0.0.0/8", peer: heroku, fields: []string{"X-Forwarded-For: 6.6.6.6, unknown, 10.9.9.9"},
			addr: "10.9.9.9", chain: "10.9.9.9, " + heroku},
		{name: "nothing but proxies", trusted: "private", peer: "127.0.0.1", fields: []string{"X-Forwarded-For: 10.0.0.1, 192.168.1.1"},
			addr: "10.0.0.1", chain: "10.0.0.1, 192.168.1.1, 127.0.0.1"},
		{name: "a port", trusted: "10.0.0.0/8", peer: heroku, fields: []string{"X-Forwarded-For: 6.6.6.6:1, " + visitor + ":4711"},
			addr: visitor, port: 4711, chain: visitor + ", " + heroku},
		{name: "IPv6", trusted: "2001:db8::/32", peer: "2001:db8::1", fields: []string{"X-Forwarded-For: 6.6.6.6, 2a00::7, 2001:db8::2"},
			addr: "2a00::7", chain: "2a00::7, 2001:db8::2, 2001:db8::1"},
		{name: "IPv6 in brackets, with a port", trusted: "10.0.0.0/8", peer: heroku, fields: []string{"X-Forwarded-For: 6.6.6.6, [2A00:0::7]:443"},
			addr: "2a00::7", port: 443, chain: "2a00::7, " + heroku},
		{name: "IPv6 in brackets", trusted: "10.0.0.0/8", peer: heroku, fields: []string{"X-Forwarded-For: 6.6.6.6, [2a00::7]"}, addr: "2a00::7", chain: "2a00::7, " + heroku},
		{name: "IPv4 in IPv6", trusted: "10.0.0.0/8", peer: "::ffff:" + heroku, fields: []string{"X-Forwarded-For: " + visitor + ", ::ffff:10.9.9.9"},
			addr: visitor, chain: visitor + ", 10.9.9.9, " + heroku},
		{name: "a zone", trusted: "fe80::/10", peer: "fe80::1%eth0", fields: []string{"X-Forwarded-For: fe80::2%\";host=evil"}, addr: "fe80::2", chain: "fe80::2, fe80::1"},
		{name: "fields of platforms that are not trusted", trusted: "10.0.0.0/8", peer: heroku,
			fields: []string{"X-Forwarded-For: " + visitor, "Fly-Client-IP: 6.6.6.6", "CF-Connecting-IP: 6.6.6.6", "CloudFront-Viewer-Address: 6.6.6.6:1"},
			addr:   visitor, chain: visitor + ", " + heroku},

		{name: "heroku", trusted: "heroku", peer: heroku, fields: []string{"X-Forwarded-For: 6.6.6.6," + visitor, "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "Fly-Client-IP: 6.6.6.6"},
			addr: visitor, chain: visitor + ", " + heroku, proto: "https"},
		{name: "heroku, a visitor from a router's network", trusted: "heroku", peer: heroku, fields: []string{"X-Forwarded-For: 6.6.6.6, 10.7.7.7"},
			addr: "10.7.7.7", chain: "10.7.7.7, " + heroku},
		{name: "heroku behind cloudflare", trusted: "heroku,cloudflare", peer: heroku, fields: []string{"X-Forwarded-For: 6.6.6.6, " + visitor + ", " + cloudflare, "CF-Connecting-IP: " + visitor},
			addr: visitor, chain: visitor + ", " + cloudflare + ", " + heroku, own: visitor},
		{name: "heroku, past cloudflare", trusted: "heroku,cloudflare", peer: heroku, fields: []string{"X-Forwarded-For: " + cloudflare + ", " + visitor, "CF-Connecting-IP: 6.6.6.6"},
			addr: visitor, chain: visitor + ", " + heroku},

		{name: "alb", trusted: "alb", peer: "172.31.1.1", fields: []string{evil + ", 192.168.1.1, " + visitor + ":555", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil"},
			addr: visitor, port: 555, chain: visitor + ", 172.31.1.1", proto: "https"},
		{name: "alb, a visitor in the VPC", trusted: "alb", peer: "172.31.1.1", fields: []string{evil + ", 172.31.5.5"}, addr: "172.31.5.5", chain: "172.31.5.5, 172.31.1.1"},
		{name: "alb behind cloudfront", trusted: "alb,cloudfront", peer: "172.31.1.1",
			fields: []string{evil + ", " + visitor + ", " + cloudfront, "CloudFront-Viewer-Address: " + visitor + ":46532"},
			addr:   visitor, port: 46532, chain: visitor + ", " + cloudfront + ", 172.31.1.1", own: visitor + ":46532"},

		{name: "fly", trusted: "fly", peer: fly, fields: []string{evil + ", " + visitor + ", " + app, "Fly-Client-IP: " + visitor, "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "CF-Connecting-IP: 6.6.6.6"},
			addr: visitor, chain: visitor + ", " + fly, proto: "https", own: visitor},
		{name: "fly, a visitor from the proxy's network", trusted: "fly", peer: fly, fields: []string{evil + ", 172.16.9.9, " + app, "Fly-Client-IP: 172.16.9.9"},
			addr: "172.16.9.9", chain: "172.16.9.9, " + fly, own: "172.16.9.9"},
		{name: "fly, another app of the organisation", trusted: "fly", peer: "fdaa:0:1::3", fields: []string{evil, "Fly-Client-IP: 6.6.6.6"}},
		{name: "fly, twice the field", trusted: "fly", peer: fly, fields: []string{"Fly-Client-IP: 6.6.6.6", "Fly-Client-IP: 7.7.7.7", "X-Forwarded-For: " + visitor},
			addr: visitor, chain: visitor + ", " + fly},
		{name: "fly, nonsense", trusted: "fly", peer: fly, fields: []string{"Fly-Client-IP: me", "X-Forwarded-For: " + visitor}, addr: visitor, chain: visitor + ", " + fly},
		{name: "fly, a zone", trusted: "fly", peer: fly, fields: []string{"Fly-Client-IP: fe80::1%evil", "X-Forwarded-For: " + visitor}, addr: visitor, chain: visitor + ", " + fly},
		{name: "fly behind cloudflare", trusted: "cloudflare,fly", peer: fly, fields: []string{evil + ", " + visitor + ", " + cloudflare + ", " + app, "Fly-Client-IP: " + cloudflare, "CF-Connecting-IP: " + visitor},
			addr: visitor, chain: visitor + ", " + cloudflare + ", " + fly, own: cloudflare + " " + visitor},
		{name: "fly, past cloudflare", trusted: "fly,cloudflare", peer: fly, fields: []string{evil + ", " + visitor + ", " + app, "Fly-Client-IP: " + visitor, "CF-Connecting-IP: 6.6.6.6"},
			addr: visitor, chain: visitor + ", " + fly, own: visitor},
		{name: "fly behind a proxy of one's own", trusted: "fly,198.51.100.1", peer: fly, fields: []string{evil + ", " + visitor + ", 198.51.100.1, " + app, "Fly-Client-IP: 198.51.100.1"},
			addr: visitor, chain: visitor + ", 198.51.100.1, " + fly, own: "198.51.100.1"},

		{name: "cloudflare", trusted: "cloudflare", peer: cloudflare, fields: []string{evil + ", " + visitor, "CF-Connecting-IP: " + visitor, "True-Client-IP: 6.6.6.6", "X-Forwarded-Host: evil", "X-Forwarded-Proto: https"},
			addr: visitor, chain: visitor + ", " + cloudflare, proto: "https", own: visitor},
		{name: "cloudflare, IPv6", trusted: "cloudflare", peer: "2400:cb00::5", fields: []string{evil, "CF-Connecting-IP: 2a00::7"}, addr: "2a00::7", chain: "2a00::7, 2400:cb00::5", own: "2a00::7"},
		{name: "cloudflare, another proxy of Cloudflare's before", trusted: "cloudflare", peer: cloudflare, fields: []string{evil + ", 2a06:98c0:3600::103", "CF-Connecting-IP: 2a06:98c0:3600::103"},
			addr: "2a06:98c0:3600::103", chain: "2a06:98c0:3600::103, " + cloudflare, own: "2a06:98c0:3600::103"},
		{name: "cloudflare, its fields taken away", trusted: "cloudflare", peer: cloudflare, addr: cloudflare, chain: cloudflare},
		{name: "a proxy of one's own behind cloudflare", trusted: "cloudflare,10.0.0.5", peer: "10.0.0.5", fields: []string{evil + ", " + visitor + ", " + cloudflare, "CF-Connecting-IP: " + visitor, "X-Forwarded-Host: a.example"},
			addr: visitor, chain: visitor + ", " + cloudflare + ", 10.0.0.5", host: "a.example", own: visitor},

		{name: "cloudfront", trusted: "cloudfront", peer: cloudfront, fields: []string{evil + ", " + visitor, "X-Forwarded-Host: evil", "X-Forwarded-Proto: https"},
			addr: visitor, chain: visitor + ", " + cloudfront},
		{name: "cloudfront, with the policy", trusted: "cloudfront", peer: cloudfront, fields: []string{evil + ", " + visitor, "CloudFront-Viewer-Address: " + visitor + ":46532"},
			addr: visitor, port: 46532, chain: visitor + ", " + cloudfront, own: visitor + ":46532"},
		{name: "cloudfront, with the policy, IPv6", trusted: "cloudfront", peer: "2600:9000:1000::9", fields: []string{evil + ", 2a00::7", "CloudFront-Viewer-Address: 2a00:0::7:46532"},
			addr: "2a00::7", port: 46532, chain: "2a00::7, 2600:9000:1000::9", own: "2a00:0::7:46532"},
		{name: "cloudfront, the visitor's own field", trusted: "cloudfront", peer: cloudfront, fields: []string{evil + ", " + visitor, "CloudFront-Viewer-Address: 6.6.6.6:1"},
			addr: visitor, chain: visitor + ", " + cloudfront},
		{name: "cloudfront, nothing but the field", trusted: "cloudfront", peer: cloudfront, fields: []string{"CloudFront-Viewer-Address: 6.6.6.6:1"}, addr: cloudfront, chain: cloudfront},
		{name: "cloudfront, a field without a port", trusted: "cloudfront", peer: cloudfront, fields: []string{"X-Forwarded-For: " + visitor, "CloudFront-Viewer-Address: " + visitor},
			addr: visitor, chain: visitor + ", " + cloudfront},

		{name: "private", trusted: "private", peer: "192.168.1.1", fields: []string{evil + ", " + visitor + ", fd00::1, ::1", "X-Forwarded-Host: a.example", "X-Forwarded-Proto: https", "Fly-Client-IP: 6.6.6.6"},
			addr: visitor, chain: visitor + ", fd00::1, ::1, 192.168.1.1", host: "a.example", proto: "https"},
		{name: "a preset counts before a network", trusted: "private,heroku", peer: heroku, fields: []string{"X-Forwarded-For: " + visitor, "X-Forwarded-Host: evil"}, addr: visitor, chain: visitor + ", " + heroku},
		{name: "a preset and, behind it, a network", trusted: "private,heroku", peer: heroku, fields: []string{"X-Forwarded-For: " + visitor + ", 10.5.5.5"}, addr: visitor, chain: visitor + ", 10.5.5.5, " + heroku},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := decode(t, tt.trusted)
			v, ok := p.Resolve(netip.MustParseAddr(tt.peer), said(tt.fields...))
			if ok != (tt.addr != "") {
				t.Fatalf("trusted: %t", ok)
			}
			if !ok {
				if v != (Visitor{}) {
					t.Errorf("got %+v of a peer that is not trusted", v)
				}
				return
			}
			if own := strings.TrimSpace(strings.Join(v.Own[:], " ")); v.Addr.String() != tt.addr || v.Port != tt.port || v.Chain != tt.chain || v.Proto != tt.proto || v.Host != tt.host || own != tt.own {
				t.Errorf("got %s port %d, chain %q, proto %q, host %q, believed %q\nwant %s port %d, chain %q, proto %q, host %q, believed %q",
					v.Addr, v.Port, v.Chain, v.Proto, v.Host, own, tt.addr, tt.port, tt.chain, tt.proto, tt.host, tt.own)
			}
		})
	}
}

func TestHopsAreBounded(t *testing.T) {
	p := decode(t, "private")
	v, _ := p.Resolve(netip.MustParseAddr("10.0.0.1"), &Said{For: strings.Repeat("10.0.0.2,", 20_000)})
	if n := strings.Count(v.Chain, ","); n != maxHops {
		t.Errorf("the chain has %d hops, want %d", n, maxHops)
	}
	p = decode(t, "fly")
	v, _ = p.Resolve(netip.MustParseAddr("172.16.0.1"), &Said{For: strings.Repeat("10.0.0.2,", 20_000), Own: [NumFields]string{FlyClientIP: "1.2.3.4"}})
	if v.Chain != "1.2.3.4, 172.16.0.1" {
		t.Errorf("chain is %q", v.Chain)
	}
}

func TestParseHop(t *testing.T) {
	for text, want := range map[string]string{
		"1.2.3.4": "1.2.3.4:0", "1.2.3.4:80": "1.2.3.4:80", "1.2.3.4:65535": "1.2.3.4:65535", "::1": "[::1]:0", "[::1]": "[::1]:0", "[::1]:1": "[::1]:1",
		"[::ffff:1.2.3.4]:1": "1.2.3.4:1", "::ffff:1.2.3.4": "1.2.3.4:0",
		"": "", "1.2.3.4:": "", "1.2.3.4:0": "", "1.2.3.4:65536": "", "1.2.3.4:+1": "", "1.2.3.4:80:80": "", "1.2.3": "", "01.2.3.4": "", "[1.2.3.4]": "",
		"[::1": "", "[::1]1": "", "[::1]:": "", "[]": "", "[": "", ":": "", ":80": "", "unknown": "", "_hidden": "", "\"1.2.3.4\"": "", "1.2.3.4 ": "",
	} {
		got, ok := parseHop(text)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%q: got %s, %t, want %q", text, got, ok, want)
		}
	}
}

func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		name, value, text string
		in, out           string // an address of theirs, and one that is not
	}{
		{"nothing", " , ", "", "", "10.0.0.1"},
		{"networks", "10.0.0.0/8, ::1", "10.0.0.0/8,::1", "::1", "11.0.0.1"},
		{"a preset", "Heroku", "Heroku", "10.1.1.1", "172.16.0.1"},
		{"mixed", "fly,192.0.2.1 , cloudflare", "fly,192.0.2.1,cloudflare", "192.0.2.1", "10.0.0.1"},
		{"fly", "fly", "fly", "172.31.255.1", "fdaa::1"},
		{"alb", "alb", "alb", "192.168.0.1", "127.0.0.1"},
		{"cloudflare", "cloudflare", "cloudflare", "::ffff:104.27.255.255", "104.28.0.0"},
		{"cloudfront", "cloudfront", "cloudfront", "24.110.128.0", "13.32.0.1"},
		{"private", "private", "private", "fd12::1", "100.64.0.1"},
		{"private, this machine", "private", "private", "127.0.0.1", "169.254.169.254"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := decode(t, tt.value)
			if p.String() != tt.text {
				t.Errorf("String is %q, want %q", p, tt.text)
			}
			if p.Empty() != (tt.in == "") {
				t.Errorf("Empty: %t", p.Empty())
			}
			if tt.in != "" && !p.Contains(netip.MustParseAddr(tt.in)) {
				t.Errorf("%s is not one of them", tt.in)
			}
			if p.Contains(netip.MustParseAddr(tt.out)) {
				t.Errorf("%s is one of them", tt.out)
			}
		})
	}
	var p Proxies
	err := p.Decode("fly,everyone,10.0.0.0/8,aws")
	if err == nil {
		t.Fatal("everyone is trusted")
	}
	for _, want := range []string{`"everyone" is not a network`, `"aws" is not a network`, "fly, heroku, cloudfront, cloudflare, alb and private"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

func TestAmbiguousPresets(t *testing.T) {
	for value, want := range map[string]bool{
		"fly,alb": true, "private,fly": true, "fly,172.17.0.0/16": true, "172.16.0.1,fly": true, "fly,0.0.0.0/0": true,
		"fly,fly": false, "fly,heroku,cloudflare,cloudfront,10.0.0.0/8,192.168.0.0/16,::/0": false, "alb,private,heroku": false, "alb,172.17.0.0/16": false,
	} {
		var p Proxies
		if err := p.Decode(value); (err != nil) != want || want && !strings.Contains(err.Error(), "leave one of them out") {
			t.Errorf("%s: %v, want an error: %t", value, err, want)
		}
	}
}

func TestNamesVisitor(t *testing.T) {
	for name, want := range map[string]bool{
		"Fly-Client-Ip": true, "fly-client-ip": true, "CF_CONNECTING_IP": true, "Cf-Connecting-Ip": true, "True-Client-Ip": true, "X-Client_IP": true,
		"Cloudfront-Viewer-Address": true, "Client-Ip": true,
		"": false, "Cookie": false, "Content-Type": false, "Fly-Region": false, "Cf-Ray": false, "X-Client-Id": false, "Fly-Client-Ipx": false,
		"X-Forwarded-For": false, strings.Repeat("x", 100): false,
	} {
		if NamesVisitor(name) != want || NamesVisitor([]byte(name)) != want {
			t.Errorf("%s: want %t", name, want)
		}
	}
	for f := range NumFields {
		if !NamesVisitor(f.String()) {
			t.Errorf("%s is not known to name the visitor", f)
		}
	}
}
