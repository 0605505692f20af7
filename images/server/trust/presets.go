package trust

import (
	"net/netip"
	"strings"

	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/hostport"
)

// platform is a preset for proxies of which is known what they write, and what they let
// pass from the visitor. None of them sets X-Forwarded-Host or takes it away, so that of
// all of them it counts for nothing.
type platform struct {
	bit      uint
	prefixes config.CIDRs
	// tellsProto says that X-Forwarded-Proto is the platform's.
	tellsProto bool
	// own is the field that the platform sets; NumFields: none.
	own Field
	// confirmed says that the field counts only as far as the entry of X-Forwarded-For
	// agrees: it has the port, too.
	confirmed bool
}

// Field is a header field in which a platform tells who the visitor is.
type Field int

// The fields that count, each from its own platform only.
const (
	FlyClientIP Field = iota
	CFConnectingIP
	CloudFrontViewerAddress
	NumFields
)

var fieldNames = [NumFields]string{"Fly-Client-Ip", "Cf-Connecting-Ip", "Cloudfront-Viewer-Address"}

// String returns the name of the field, in canonical form.
func (f Field) String() string { return fieldNames[f] }

// FieldOf returns the field of that name, in any case.
func FieldOf[S string | []byte](name S) (Field, bool) {
	for f := range NumFields {
		if len(name) == len(fieldNames[f]) && same(name, lowerNames[f], '-') {
			return f, true
		}
	}
	return NumFields, false
}

var lowerNames = func() (out [NumFields]string) {
	for f, name := range fieldNames {
		out[f] = strings.ToLower(name)
	}
	return out
}()

const presetNames = "fly, heroku, cloudfront, cloudflare, alb and private"

// presets are the platforms that TRUSTED_PROXIES names by a word; private, the one word more,
// stands for networks. What they rest on was looked up in November 2026.
//
//   - fly: Fly's proxy connects to a Machine from 172.16.0.0/12 of the host. It sets
//     Fly-Client-IP to the address that connected to it, whatever the visitor sent, and
//     X-Forwarded-Proto. (X-Forwarded-For ends in the app's own public address, which
//     only the operator knows.) https://fly.io/docs/networking/request-headers/
//     The private network of an organisation, fdaa::/16, is not in it: who comes from there
//     is another app, not the proxy.
//   - heroku: routers connect from 10.0.0.0/8, append to X-Forwarded-For, and set
//     X-Forwarded-Proto. https://devcenter.heroku.com/articles/http-routing
//   - alb: an application load balancer connects from its subnets in the VPC, in private
//     addresses; those of IPv6 are public, and have to be listed. It appends to
//     X-Forwarded-For (unless its attribute xff_header_processing.mode says otherwise),
//     with the port if xff_client_port is on, and sets X-Forwarded-Proto.
//     https://docs.aws.amazon.com/elasticloadbalancing/latest/application/x-forwarded-headers.html
//   - cloudflare: the published list, https://www.cloudflare.com/ips/, which has been the
//     same since 2021. CF-Connecting-IP and X-Forwarded-Proto are Cloudflare's.
//     True-Client-IP is not, unless that is turned on.
//     https://developers.cloudflare.com/fundamentals/reference/http-headers/
//   - cloudfront: the ranges called CLOUDFRONT_ORIGIN_FACING in
//     https://ip-ranges.amazonaws.com/ip-ranges.json, of 2026-10-06: all of IPv4, which
//     changes a few times a year, and of IPv6 CloudFront's own blocks. The many /56 in the
//     space of the regions come and go, and have to be listed if an origin with IPv6 sees them.
//     An address that is missing here costs the knowledge of the visitors behind it, and
//     lets nobody pretend anything. CloudFront appends to X-Forwarded-For and removes
//     X-Forwarded-Proto. CloudFront-Viewer-Address is there if an origin request policy asks
//     for it; since nothing says what happens to a visitor's own otherwise, it counts as far as
//     X-Forwarded-For agrees, and adds the port.
//     https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/RequestAndResponseBehaviorCustomOrigin.html
var presets = map[string]*platform{
	"fly":    {bit: 1, own: FlyClientIP, tellsProto: true, prefixes: networks("172.16.0.0/12")},
	"heroku": {bit: 2, own: NumFields, tellsProto: true, prefixes: networks("10.0.0.0/8")},
	"alb":    {bit: 4, own: NumFields, tellsProto: true, prefixes: networks("10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16")},
	"cloudflare": {bit: 8, own: CFConnectingIP, tellsProto: true, prefixes: networks(`
		173.245.48.0/20, 103.21.244.0/22, 103.22.200.0/22, 103.31.4.0/22, 141.101.64.0/18, 108.162.192.0/18,
		190.93.240.0/20, 188.114.96.0/20, 197.234.240.0/22, 198.41.128.0/17, 162.158.0.0/15, 104.16.0.0/13,
		104.24.0.0/14, 172.64.0.0/13, 131.0.72.0/22,
		2400:cb00::/32, 2606:4700::/32, 2803:f800::/32, 2405:b500::/32, 2405:8100::/32, 2a06:98c0::/29, 2c0f:f248::/32`)},
	"cloudfront": {bit: 16, own: CloudFrontViewerAddress, confirmed: true, prefixes: networks(`
		3.29.57.0/26, 3.172.0.0/18, 3.172.64.0/18, 13.124.199.0/24, 15.158.0.0/16, 18.68.0.0/16, 24.110.128.0/17,
		52.46.0.0/18, 52.82.128.0/23, 52.82.134.0/23, 54.182.128.0/20, 54.182.144.0/21, 54.182.154.0/23, 54.182.156.0/22,
		54.182.160.0/21, 54.182.172.0/22, 54.182.176.0/21, 54.182.184.0/22, 54.182.188.0/23, 54.182.224.0/21,
		54.182.240.0/21, 54.182.248.0/22, 54.239.134.0/23, 54.239.170.0/23, 54.239.204.0/22, 54.239.208.0/21,
		64.252.64.0/18, 64.252.128.0/18, 70.132.0.0/18, 130.176.0.0/18, 130.176.64.0/21, 130.176.72.0/22, 130.176.76.0/24,
		130.176.78.0/23, 130.176.80.0/22, 130.176.86.0/23, 130.176.88.0/21, 130.176.96.0/19, 130.176.128.0/21,
		130.176.136.0/23, 130.176.140.0/22, 130.176.144.0/20, 130.176.160.0/19, 130.176.192.0/19, 204.246.166.0/24,
		205.251.218.0/24, 2600:9000:1000::/36, 2600:9000:5200::/40, 2600:9000:6000::/36`)},
}

// private are the addresses of private networks and of this machine: RFC 1918, RFC 4193 and
// loopback.
var private = networks("10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 127.0.0.0/8, fc00::/7, ::1")

func networks(list string) (out config.CIDRs) {
	if err := out.Decode(list); err != nil {
		panic(err)
	}
	return out
}

// before returns the hop before the platform's proxy, and what is left of X-Forwarded-For
// then. A field of the platform's that was believed is noted in v.
func (pf *platform) before(said *Said, list string, v *Visitor) (hop netip.AddrPort, left string, ok bool) {
	if pf.own == NumFields || said.Own[pf.own] == "" {
		return cutLast(list)
	}
	value := strings.Trim(said.Own[pf.own], " \t")
	if pf.confirmed {
		hop, left, ok = cutLast(list)
		if named, valid := parseViewer(value); ok && valid && named.Addr() == hop.Addr() {
			hop, v.Own[pf.own] = named, value
		}
		return hop, left, ok
	}
	named, ok := parseHop(value)
	if !ok || strings.Contains(value, "%") {
		return cutLast(list)
	}
	v.Own[pf.own] = value
	for range maxHops { // go on left of its entry, if there is one
		if hop, list, ok = cutLast(list); ok && hop.Addr() == named.Addr() {
			return named, list, true
		}
	}
	return named, "", true
}

// parseViewer reads CloudFront-Viewer-Address: an address, a colon and the port, also for
// IPv6 without brackets.
func parseViewer(s string) (netip.AddrPort, bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netip.AddrPort{}, false
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s[:i], "["), "]"))
	port, ok := hostport.Port(s[i+1:])
	return plain(addr, port), ok && err == nil
}

// naming are fields that platforms and proxies name a visitor's address in, beside
// X-Forwarded-For and its kind. Programs take a visitor's word for theirs where no such proxy
// is.
var naming = [...]string{
	"fly-client-ip", "cf-connecting-ip", "cf-connecting-ipv6", "cf-pseudo-ipv4", "cloudfront-viewer-address",
	"true-client-ip", "client-ip", "x-client-ip", "x-cluster-client-ip", "fastly-client-ip", "x-remote-ip", "x-remote-addr",
	"x-originating-ip", "x-original-forwarded-for", "x-envoy-external-address", "x-azure-clientip", "x-azure-socketip",
	"x-appengine-user-ip", "x-appengine-remote-addr", "proxy-client-ip", "wl-proxy-client-ip",
}

// byLength are those names by their length.
var byLength = func() (out [32][]string) {
	for _, name := range naming {
		out[len(name)] = append(out[len(name)], name)
	}
	return out
}()

// NamesVisitor reports whether a field of this name, in any case, is one that names the
// visitor's address. Underscores count as dashes, as they do to programs that turn names
// into variables.
func NamesVisitor[S string | []byte](name S) bool {
	if len(name) >= len(byLength) {
		return false
	}
	for _, known := range byLength[len(name)] {
		if same(name, known, '_') {
			return true
		}
	}
	return false
}

// same reports whether name, of the same length, is known, which is in lower case, in any
// case, with dash for a dash too.
func same[S string | []byte](name S, known string, dash byte) bool {
	for i := range len(known) {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c == dash:
			c = '-'
		}
		if c != known[i] {
			return false
		}
	}
	return true
}
