// Package route is the grammar of UPSTREAMS: which public route leads to which
// private upstream. The client parses what its user wrote; the server parses what the
// client announces, which is the same text in its canonical form.
//
//	http://127.0.0.1:8080                     every host: *=http://127.0.0.1:8080
//	example.com=http://app:8000               one host
//	*.example.com=https://app:8443            every host below example.com
//	example.com/api=http://api:9000           one host, paths at and below /api
//	example.com=h2c://grpc:50051              HTTP/2 without TLS, as gRPC mostly is
//	example.com=unix:///run/app.sock          HTTP over a unix socket
//	localhost:8001                            TCP: public port 8001
//	2222=localhost:22                         TCP: public port 2222
//
// Options of one upstream follow as a query: ?insecure=true (https: do not verify the
// certificate), ?host=name (send this Host to the upstream instead of the visitor's),
// ?proxy=v1 or v2 (begin each connection with a PROXY header that tells who the visitor is),
// ?http2=true (https, unix: the service is spoken HTTP/2 with, as h2c:// always is),
// ?wait=tcp or a path (visitors wait until the service is there, see [Wait]), ?allow=10.0.0.0/8
// (who may visit; several times for several networks), ?pass_auth=true (credentials that
// admitted a visitor are passed on).
package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// Scheme says how an upstream is reached.
type Scheme string

// The schemes of upstreams. Unix stands for HTTP over a unix socket in a host's route
// and for its bytes in a port's.
const (
	HTTP  Scheme = "http"
	HTTPS Scheme = "https"
	H2C   Scheme = "h2c"
	Unix  Scheme = "unix"
	TCP   Scheme = "tcp"
)

// Upstream is a private service and the route that leads to it.
type Upstream struct {
	Host string // "example.com", "*.example.com" or "*"; empty for a TCP route
	Path string // "" or "/prefix", without a slash at the end
	Port int    // the public port of a TCP route, else 0

	Scheme  Scheme
	Address string // "host:port", or the path of a unix socket

	Insecure    bool   // https: any certificate will do
	RewriteHost string // the Host that the upstream gets, if not the visitor's
	HTTP2       bool   // https, unix: speaks HTTP/2; see SpeaksHTTP2
	Proxy       int    // version of the PROXY protocol that the upstream wants, 1 or 2, or 0

	// What is the client's own business, or known to the server in another way.
	Wait     Wait   // whether visitors wait for the service
	Allow    string // networks that visitors may come from, separated by commas; not looked at here
	PassAuth bool   // credentials of visitors are passed on
}

// IsTCP reports whether the route is a public TCP port.
func (u Upstream) IsTCP() bool { return u.Port != 0 }

// SpeaksHTTP2 reports whether the upstream is spoken HTTP/2 with, and not HTTP/1.1. The
// server has to know before it has a stream, and the client makes sure of it.
func (u Upstream) SpeaksHTTP2() bool { return u.Scheme == H2C || u.HTTP2 }

// Route returns the public side: "example.com/api", "*", "2222".
func (u Upstream) Route() string {
	if u.IsTCP() {
		return strconv.Itoa(u.Port)
	}
	return u.Host + u.Path
}

// String returns the canonical form, which Parse takes back: route=target.
func (u Upstream) String() string {
	var b strings.Builder
	b.WriteString(u.Route())
	b.WriteByte('=')
	if u.Scheme != TCP {
		b.WriteString(string(u.Scheme) + "://")
	}
	b.WriteString(u.Address)
	query := url.Values{}
	if u.Insecure {
		query.Set("insecure", "true")
	}
	if u.RewriteHost != "" {
		query.Set("host", u.RewriteHost)
	}
	if u.HTTP2 {
		query.Set("http2", "true")
	}
	if u.Proxy != 0 {
		query.Set("proxy", "v"+strconv.Itoa(u.Proxy))
	}
	sep := "?"
	if len(query) > 0 {
		b.WriteString(sep + query.Encode())
		sep = "&"
	}
	// Readable: nothing in these needs escaping.
	if u.Wait.Kind != WaitUnset {
		b.WriteString(sep + "wait=" + u.Wait.String())
		sep = "&"
	}
	if u.PassAuth {
		b.WriteString(sep + "pass_auth=true")
		sep = "&"
	}
	if u.Allow != "" {
		b.WriteString(sep + "allow=" + strings.ReplaceAll(u.Allow, ",", "&allow="))
	}
	return b.String()
}

// List is the value of UPSTREAMS: upstreams separated by commas or white space.
type List []Upstream

// Decode parses the list and reports every fault in it. It implements envconfig.Decoder.
func (l *List) Decode(value string) error {
	out, err := ParseList(value)
	if err != nil {
		return err
	}
	*l = out
	return nil
}

// Strings returns the canonical form of every upstream.
func (l List) Strings() []string {
	out := make([]string, len(l))
	for i, u := range l {
		out[i] = u.String()
	}
	return out
}

// Announced returns what a server is told of every upstream: its canonical form without
// what concerns the client alone.
func (l List) Announced() []string {
	out := make([]string, len(l))
	for i, u := range l {
		u.Wait, u.Allow, u.PassAuth = Wait{}, "", false
		out[i] = u.String()
	}
	return out
}

// ParseList parses upstreams separated by commas or white space. Two for the same
// route are a fault, since only one could be served.
func ParseList(value string) (List, error) {
	var (
		list List
		errs []error
		seen = map[string]bool{}
	)
	for _, field := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' }) {
		u, err := Parse(field)
		switch {
		case err != nil:
			errs = append(errs, err)
		case seen[u.Route()]:
			errs = append(errs, fmt.Errorf("%q: the route %s is there twice: run a second client to balance it over two upstreams", field, u.Route()))
		default:
			seen[u.Route()] = true
			list = append(list, u)
		}
	}
	if len(list) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("no upstream: write what to expose, for example http://127.0.0.1:8080"))
	}
	return list, errors.Join(errs...)
}

// Parse parses one upstream. Errors quote the text and say what to write instead.
func Parse(text string) (Upstream, error) {
	u, err := parse(text)
	if err != nil {
		return Upstream{}, fmt.Errorf("%q: %w", text, err)
	}
	return u, nil
}

func parse(text string) (u Upstream, err error) {
	public, target, ok := splitRoute(text)
	if u.Scheme, u.Address, err = parseTarget(target, &u); err != nil {
		return u, err
	}
	switch {
	case ok:
		if err := parsePublic(public, &u); err != nil {
			return u, err
		}
	case u.Scheme == TCP:
		_, port, _ := net.SplitHostPort(u.Address)
		u.Port, _ = strconv.Atoi(port)
	default:
		u.Host = "*"
	}
	switch {
	case !u.IsTCP() && u.Scheme == TCP:
		return u, fmt.Errorf("a host leads to http, https, h2c or unix: write %s=http://%s", u.Route(), u.Address)
	case u.IsTCP() && (u.Scheme == HTTP || u.Scheme == HTTPS || u.Scheme == H2C):
		return u, fmt.Errorf("a port carries plain bytes: write %s=%s", u.Route(), u.Address)
	case u.Insecure && u.Scheme != HTTPS:
		return u, errors.New("insecure=true is for https upstreams only")
	case u.RewriteHost != "" && u.IsTCP():
		return u, errors.New("host= is for HTTP upstreams only")
	case u.PassAuth && u.IsTCP():
		return u, errors.New("pass_auth=true is for HTTP upstreams only")
	case u.HTTP2 && (u.IsTCP() || u.Scheme != HTTPS && u.Scheme != Unix):
		return u, errors.New("http2=true is for https and unix upstreams: write h2c:// for HTTP/2 without TLS")
	case u.SpeaksHTTP2() && u.Proxy != 0:
		return u, errors.New("proxy= tells of one visitor for each connection, and connections of HTTP/2 are shared: leave it out")
	}
	return u, nil
}

// splitRoute cuts at the = that ends the route: one before any query or scheme.
func splitRoute(text string) (public, target string, ok bool) {
	i := strings.IndexByte(text, '=')
	if i < 0 || strings.Contains(text[:i], "://") || strings.Contains(text[:i], "?") {
		return "", text, false
	}
	return text[:i], text[i+1:], true
}

func parseTarget(text string, u *Upstream) (Scheme, string, error) {
	text, query, _ := strings.Cut(text, "?")
	if err := parseOptions(query, u); err != nil {
		return "", "", err
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		if err := checkHostPort(text); err != nil {
			return "", "", err
		}
		return TCP, text, nil
	}
	switch s := Scheme(strings.ToLower(scheme)); s {
	case HTTP, HTTPS, H2C:
		rest = strings.TrimSuffix(rest, "/")
		if strings.ContainsAny(rest, "/#") {
			return "", "", errors.New("an upstream is an address without a path: the visitor's path is passed on as it is")
		}
		if strings.Contains(rest, "@") {
			return "", "", errors.New("an upstream has no user or password in its address")
		}
		if host, err := netip.ParseAddr(strings.Trim(rest, "[]")); err == nil || !strings.Contains(rest, ":") {
			port := map[Scheme]string{HTTP: "80", HTTPS: "443", H2C: "80"}[s]
			if err == nil {
				rest = host.String()
			}
			if rest == "" {
				return "", "", errors.New("no host after " + scheme + "://")
			}
			rest = net.JoinHostPort(rest, port)
		}
		if err := checkHostPort(rest); err != nil {
			return "", "", err
		}
		return s, strings.ToLower(rest), nil
	case Unix:
		if !path.IsAbs(rest) || path.Clean(rest) != rest || rest == "/" || !plain(rest) {
			return "", "", errors.New("a unix socket is an absolute path: unix:///run/app.sock")
		}
		return s, rest, nil
	case TCP:
		if err := checkHostPort(rest); err != nil {
			return "", "", err
		}
		return s, rest, nil
	}
	return "", "", fmt.Errorf("unknown scheme %s://: use http://, https://, h2c://, unix:// or host:port for TCP", scheme)
}

func checkHostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("write http://host:port, https://host:port, unix:///path, or host:port for TCP")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
		return fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	if host == "" {
		return fmt.Errorf("no host before :%s: write localhost:%[1]s", port)
	}
	if strings.Contains(host, "/") || !plain(host) {
		return fmt.Errorf("%q is not a host name", host)
	}
	return nil
}

// plain reports whether s holds only printable ASCII that means nothing in a list, a
// URL or a shell.
func plain(s string) bool {
	for _, r := range s {
		if r <= ' ' || r > '~' || strings.ContainsRune("%\\\"<>^{|}#,?`", r) {
			return false
		}
	}
	return true
}

func parseOptions(query string, u *Upstream) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("options: %w", err)
	}
	for name, v := range values {
		if len(v) > 1 && name != "allow" {
			return fmt.Errorf("option %s is there twice", name)
		}
		switch name {
		case "insecure":
			if u.Insecure, err = strconv.ParseBool(v[0]); err != nil {
				return fmt.Errorf("insecure=%q: use true or false", v[0])
			}
		case "http2":
			if u.HTTP2, err = strconv.ParseBool(v[0]); err != nil {
				return fmt.Errorf("http2=%q: use true or false", v[0])
			}
		case "host":
			if u.RewriteHost = v[0]; !validHostHeader(u.RewriteHost) {
				return fmt.Errorf("host=%q is not a host name", u.RewriteHost)
			}
		case "proxy":
			switch v[0] {
			case "v1":
				u.Proxy = 1
			case "v2":
				u.Proxy = 2
			default:
				return fmt.Errorf("proxy=%q: use v1 or v2", v[0])
			}
		case "wait":
			if u.Wait, err = ParseWait(v[0]); err != nil {
				return fmt.Errorf("wait=%w", err)
			}
		case "allow":
			if err := checkAllow(v); err != nil {
				return err
			}
			u.Allow = strings.Join(v, ",")
		case "pass_auth":
			if u.PassAuth, err = strconv.ParseBool(v[0]); err != nil {
				return fmt.Errorf("pass_auth=%q: use true or false", v[0])
			}
		default:
			return fmt.Errorf("unknown option %q: use insecure, host, http2, proxy, wait, allow or pass_auth", name)
		}
	}
	return nil
}

// checkAllow looks only whether the values can be networks: whoever uses them parses them.
func checkAllow(values []string) error {
	for _, v := range values {
		if v == "" || strings.Trim(v, "0123456789abcdefABCDEF.:/") != "" {
			return fmt.Errorf("allow=%q is not a network: write an address or a CIDR such as 10.0.0.0/8, and allow= again for another", v)
		}
	}
	return nil
}

func validHostHeader(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for _, r := range s {
		if !isHostByte(r) && r != ':' && r != '[' && r != ']' {
			return false
		}
	}
	return true
}

// parsePublic reads the side before the =: a port, or a host with an optional path.
func parsePublic(text string, u *Upstream) error {
	if n, err := strconv.Atoi(text); err == nil {
		if n < 1 || n > 65535 || strconv.Itoa(n) != text {
			return fmt.Errorf("port %q is not a number from 1 to 65535", text)
		}
		u.Port = n
		return nil
	}
	host, prefix, slash := strings.Cut(text, "/")
	var err error
	if u.Host, err = parseHost(host); err != nil {
		return err
	}
	if slash {
		u.Path, err = parsePath("/" + prefix)
	}
	return err
}

func parseHost(host string) (string, error) {
	if host == "*" {
		return host, nil
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if strings.Trim(host, "0123456789") == "" && host != "" {
		return "", fmt.Errorf("%q is a number and not a host: write it without the dot for a port", host)
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return host, nil
	}
	if strings.Contains(host, ":") {
		return "", errors.New("a route has a host without a port: the server listens on its own")
	}
	name := strings.TrimPrefix(host, "*.")
	if name == "" || len(name) > 253 {
		return "", errors.New("no host before the =: write example.com=http://app:8000, or leave the = out to serve every host")
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || len(label) > 63 {
			return "", fmt.Errorf("%q is not a host name", host)
		}
		for _, r := range label {
			if r == '*' {
				return "", fmt.Errorf("%q: * stands alone or for the first label: *.example.com", host)
			}
			if r > '~' {
				return "", fmt.Errorf("%q: write the name in its ASCII form (xn--…)", host)
			}
			if !isHostByte(r) {
				return "", fmt.Errorf("%q is not a host name", host)
			}
		}
	}
	return host, nil
}

func isHostByte(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.'
}

func parsePath(p string) (string, error) {
	if !plain(p) {
		return "", fmt.Errorf("path %q: write a plain prefix such as /api", p)
	}
	clean := path.Clean(p)
	if clean != p && clean+"/" != p {
		return "", fmt.Errorf("path %q: write %s", p, clean)
	}
	if clean == "/" {
		return "", nil
	}
	return clean, nil
}
