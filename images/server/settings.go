package main

import (
	"errors"
	"fmt"
	"net"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/adit-tunnel/adit/images/server/forward"
	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/images/server/tcp"
	"github.com/adit-tunnel/adit/images/server/trust"
	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/license"
)

type settings struct {
	config.Common
	Token           config.Secret       `required:"true" desc:"Shared secret of server and clients: 16 bytes or more; several, one per line or comma, are valid at once. A file is read again when it changes."`
	OperatorToken   config.Secret       `split_words:"true" desc:"Tokens of those who may read /status and /metrics, in place of TOKEN, which then only lets clients connect: they see nothing of one another. A file is read again when it changes."`
	Mode            mode                `default:"http" desc:"What visitors reach: http (hosts, on PORT), tcp (ports that clients ask for), or http,tcp."`
	Port            config.Port         `default:"8000" desc:"Where visitors connect with HTTP; with TLS_CERT or LETSENCRYPT_DOMAINS the default is 80."`
	HTTPSPort       config.Port         `envconfig:"HTTPS_PORT" default:"443" desc:"Where visitors connect with HTTPS, with TLS_CERT or LETSENCRYPT_DOMAINS. When clients share PORT, HTTPS is there too, and here only if this is set."`
	DataAddr        string              `split_words:"true" desc:"Address to listen on for visitors. Empty: all interfaces."`
	ControlPort     controlPort         `split_words:"true" default:"8123" desc:"Where clients connect. That of PORT (the word PORT means it) or of HTTPS_PORT: clients and visitors share it."`
	ControlAddr     string              `split_words:"true" desc:"Address to listen on for clients. Empty: all interfaces."`
	ControlPath     string              `split_words:"true" default:"/_adit" desc:"On a shared port: below which path the control plane lives. No upstream can have it."`
	AutoTLS         bool                `envconfig:"AUTO_TLS" default:"true" desc:"Make a CA and a certificate for the control plane; clients verify them by the token. false: plain HTTP, for behind a platform's TLS."`
	AutoTLSSAN      []string            `envconfig:"AUTO_TLS_SAN" desc:"More names and addresses for the certificate of auto-TLS. adit clients do not need them, other programs may."`
	AutoTLSDir      string              `envconfig:"AUTO_TLS_DIR" desc:"Folder that keeps the CA of auto-TLS over restarts. Empty: a new CA with each start."`
	TLSCert         config.Secret       `envconfig:"TLS_CERT" desc:"PEM certificate of your own, and those that lead to its CA: replaces auto-TLS on the control plane and turns on HTTPS for visitors. Several, one after the other, are told apart by the name that a visitor asks for. A file is read again when it changes."`
	TLSKey          config.Secret       `envconfig:"TLS_KEY" desc:"PEM key of TLS_CERT, or the keys of all of them, in any order."`
	Domains         acmeDomains         `envconfig:"LETSENCRYPT_DOMAINS" desc:"Hosts to get certificates for, separated by commas. on-demand, alone or among them: also every host that a client serves (never for * and wildcards)."`
	ACMEEmail       string              `envconfig:"LETSENCRYPT_EMAIL" desc:"Where Let's Encrypt may write to. Empty: nowhere."`
	ACMEIssuer      acmeDirectory       `envconfig:"LETSENCRYPT_ISSUER" default:"prod" desc:"prod, staging (to try things out: browsers do not trust it), or the URL of another ACME directory."`
	ACMEDir         string              `envconfig:"LETSENCRYPT_DIR" default:"/var/lib/adit" desc:"Folder that keeps certificates, their keys and the account: a volume, or each start asks for new ones and is soon refused."`
	ACMECA          config.Secret       `envconfig:"ACME_CA" desc:"PEM certificates of the authority that signed the ACME directory's own certificate, if that is a private one."`
	HTTPSRedirect   bool                `envconfig:"HTTPS_REDIRECT" default:"false" desc:"Send visitors without HTTPS there (308), as soon as their host has a certificate; with LETSENCRYPT_DOMAINS the default is true. Behind a proxy that ends TLS: those of whom it says so in X-Forwarded-Proto, see TRUSTED_PROXIES."`
	HSTS            hsts                `desc:"Have browsers insist on HTTPS: a time such as 8760h, or the value of Strict-Transport-Security such as max-age=31536000; includeSubDomains. Sent over HTTPS only, and not if the upstream sends its own."`
	LicenseKeys     config.Secret       `envconfig:"LICENSE_PUBLIC_KEY" desc:"Public keys, one per line or comma, or in PEM form: only clients with a licence that one of them verifies are admitted, and each may ask for what it covers. A file is read again when it changes. Empty: no licence is needed."`
	AllowHosts      routing.Hosts       `split_words:"true" desc:"HTTP: hosts that clients may ask for, such as example.com,*.example.com; * for all, with the default route. Empty: all."`
	AllowPorts      tcp.Ports           `split_words:"true" default:"1024-65535" desc:"TCP: ports and ranges of ports that clients may ask for, never those of the server itself."`
	TrustedProxies  trust.Proxies       `split_words:"true" desc:"Proxies in front of the server whose word on visitors (and clients, in HTTP mode) counts, in header fields and, with PROXY_PROTOCOL, in PROXY headers: addresses, CIDRs, and the presets fly, heroku, cloudfront, cloudflare, alb and private, separated by commas."`
	ProxyProtocol   bool                `split_words:"true" default:"false" desc:"Trusted proxies begin each connection with a PROXY header, version 1 or 2."`
	ForwardAllow    forward.Allow       `split_words:"true" desc:"What clients may reach by FORWARDS: host:port patterns such as 10.0.0.2:3000, *.internal:443, 10.0.0.0/8:5432. Empty: nothing."`
	AccessLog       bool                `split_words:"true" default:"false" desc:"Log every request and connection of visitors when it has ended: who, what, and how it went; no query, cookie or credential."`
	OpenTimeout     time.Duration       `split_words:"true" default:"3s" desc:"How long a client may take to connect an upstream before the next one is tried."`
	ResponseTimeout time.Duration       `split_words:"true" default:"60s" desc:"How long an upstream may take to begin its response before the visitor gets 504; 0 for no limit."`
	PingInterval    time.Duration       `split_words:"true" default:"15s" desc:"Time between pings to a client; one that is silent for two is dead."`
	DrainDelay      time.Duration       `split_words:"true" default:"0s" desc:"After SIGTERM: how long to go on accepting while not ready, for load balancers to notice."`
	H2C             bool                `envconfig:"H2C" default:"false" desc:"Serve HTTP/2 on PORT also to visitors who begin with it, without TLS. With TLS it is always served."`
	H2MaxRequests   int                 `envconfig:"H2_MAX_REQUESTS" default:"250" desc:"Most requests under way at once on one connection of HTTP/2."`
	MaxClients      int                 `split_words:"true" default:"0" desc:"Most clients at once; 0 for no limit."`
	MaxStreams      int                 `split_words:"true" default:"4096" desc:"Most streams (requests and connections under way) of one client at once."`
	MaxConnections  int                 `split_words:"true" default:"0" desc:"TCP: most connections of one port at once; 0 for no limit."`
	Lanes           bool                `default:"true" desc:"Let clients open a connection of its own for a stream that carries a lot, which is faster and leaves the others alone. false: one connection for everything."`
	MaxLanes        int                 `split_words:"true" default:"1024" desc:"Most such connections at once, of all clients; 0 for no limit. Each is a file descriptor, and a client has 8 at most."`
	URL             string              `desc:"For the status command: the server to ask, wss://host:8123, instead of the one of this container."`
	MetricsPort     config.OptionalPort `split_words:"true" default:"8124" desc:"Port of /metrics, /healthz and /readyz without a token; off for none."`

	ForVisitors
}

// maxH2Requests bounds what one connection of a visitor may ask this server to hold.
const maxH2Requests = 10_000

// mode is what the data plane serves.
type mode struct{ HTTP, TCP bool }

// Decode implements envconfig.Decoder.
func (m *mode) Decode(value string) error {
	*m = mode{}
	for _, word := range strings.Split(value, ",") {
		switch strings.ToLower(strings.TrimSpace(word)) {
		case "http":
			m.HTTP = true
		case "tcp":
			m.TCP = true
		default:
			return fmt.Errorf("unknown mode %q: use http, tcp, or http,tcp", word)
		}
	}
	return nil
}

// names returns "http", "tcp" or both.
func (m mode) names() (names []string) {
	if m.HTTP {
		names = append(names, "http")
	}
	if m.TCP {
		names = append(names, "tcp")
	}
	return names
}

func (m mode) String() string { return strings.Join(m.names(), ",") }

// controlPort is CONTROL_PORT: a number, or the word PORT for wherever visitors connect. A
// platform that picks that one gives it to the process, and there is no shell to repeat it.
type controlPort struct {
	number config.Port
	same   bool
}

// Decode implements envconfig.Decoder.
func (p *controlPort) Decode(value string) error {
	switch value {
	case "PORT", "$PORT", "${PORT}", "$(PORT)":
		*p = controlPort{same: true}
		return nil
	}
	p.same = false
	return p.number.Decode(value)
}

// controlPort is CONTROL_PORT as a number.
func (s *settings) controlPort() config.Port {
	if s.ControlPort.same {
		return s.port()
	}
	return s.ControlPort.number
}

// shared returns the variable whose port clients and visitors share, "" if each have
// theirs.
func (s *settings) shared() string {
	if !s.Mode.HTTP || s.DataAddr != s.ControlAddr && !(everywhere(s.DataAddr) && everywhere(s.ControlAddr)) {
		return ""
	}
	switch control := s.controlPort(); {
	case s.ControlPort.same, control != 0 && control == s.port():
		return "PORT"
	case control != 0 && s.visitorTLS() && control == s.HTTPSPort:
		return "HTTPS_PORT"
	}
	return ""
}

// reservedPath is the path that no upstream can have, "" if there is none.
func (s *settings) reservedPath() string {
	if s.shared() == "" {
		return ""
	}
	return s.ControlPath
}

// controlTLS reports whether clients connect with TLS.
func (s *settings) controlTLS() bool { return s.AutoTLS || s.TLSCert.IsSet() }

// visitorTLS reports whether visitors have HTTPS.
func (s *settings) visitorTLS() bool { return s.TLSCert.IsSet() || s.Domains.isSet() }

// https reports whether HTTPS_PORT is opened.
func (s *settings) https() bool {
	switch {
	case !s.visitorTLS():
		return false
	case s.shared() == "PORT":
		return config.Given("HTTPS_PORT") && s.HTTPSPort != s.port()
	}
	return true
}

// port is PORT, whose default depends on whether visitors are served with HTTPS too.
func (s *settings) port() config.Port {
	if s.visitorTLS() && !config.Given("PORT") {
		return 80
	}
	return s.Port
}

var cleanPath = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$`)

// Validate checks what the types do not.
func (s *settings) Validate() error {
	var errs []error
	fault := func(name, format string, args ...any) { errs = append(errs, config.Fault(name, format, args...)) }
	if _, err := auth.ParseTokens(s.Token.Value()); err != nil {
		fault("TOKEN", "%w", err)
	}
	if s.OperatorToken.IsSet() {
		operators, err := auth.ParseTokens(s.OperatorToken.Value())
		if err != nil {
			fault("OPERATOR_TOKEN", "%w", err)
		}
		clients := newTokens(s.Token)
		if slices.ContainsFunc(operators, clients.Valid) {
			fault("OPERATOR_TOKEN", "holds one that TOKEN holds, too, so that clients could read the status: make another with: openssl rand -hex 32")
		}
	}
	if s.LicenseKeys.IsSet() {
		if _, err := license.ParseKeys(s.LicenseKeys.Value()); err != nil {
			fault("LICENSE_PUBLIC_KEY", "%w", err)
		}
	}
	switch cert, key := s.TLSCert.IsSet(), s.TLSKey.IsSet(); {
	case cert && !key:
		fault("TLS_KEY", "is not set, but TLS_CERT is: set both")
	case key && !cert:
		fault("TLS_CERT", "is not set, but TLS_KEY is: set both")
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"OPEN_TIMEOUT", s.OpenTimeout}, {"PING_INTERVAL", s.PingInterval}} {
		if d.value < 100*time.Millisecond {
			fault(d.name, "%s is too short: set 100ms or more, with a unit as in 3s", d.value)
		}
	}
	if s.ResponseTimeout < 0 {
		fault("RESPONSE_TIMEOUT", "%s is negative: use 0 for no limit", s.ResponseTimeout)
	}
	if s.DrainDelay < 0 {
		fault("DRAIN_DELAY", "%s is negative: use 0s for none", s.DrainDelay)
	}
	if s.MaxClients < 0 {
		fault("MAX_CLIENTS", "%d is negative: use 0 for no limit", s.MaxClients)
	}
	if s.MaxLanes < 0 {
		fault("MAX_LANES", "%d is negative: use 0 for no limit, or LANES=false for none", s.MaxLanes)
	}
	if s.MaxConnections < 0 {
		fault("MAX_CONNECTIONS", "%d is negative: use 0 for no limit", s.MaxConnections)
	}
	if s.ProxyProtocol && s.TrustedProxies.Empty() {
		fault("PROXY_PROTOCOL", "is true, but TRUSTED_PROXIES is not set: set it to the addresses of the proxies that send the header")
	}
	if s.H2MaxRequests < 1 || s.H2MaxRequests > maxH2Requests {
		fault("H2_MAX_REQUESTS", "%d is out of range: set 1 to %d", s.H2MaxRequests, maxH2Requests)
	}
	if s.MaxStreams < 1 {
		fault("MAX_STREAMS", "%d is too few: set 1 or more", s.MaxStreams)
	}
	for _, san := range s.AutoTLSSAN {
		if net.ParseIP(san) == nil && strings.ContainsAny(san, ":/ ") {
			fault("AUTO_TLS_SAN", "%q is neither a name nor an address: write them without port and scheme", san)
		}
	}
	if !cleanPath.MatchString(s.ControlPath) || path.Clean(s.ControlPath) != s.ControlPath || len(s.ControlPath) > 100 {
		fault("CONTROL_PATH", "%q is not a path to keep clear of upstreams: write one such as /_adit, of letters, digits, and ._~- between slashes, without one at the end", s.ControlPath)
	}
	_, err := s.policy(s.BasicAuth.Value(), s.BearerToken.Value())
	errs = append(append(errs, err), s.validateACME()...)
	errs = append(errs, s.validateHTTPS()...)
	return errors.Join(append(errs, s.samePorts()...)...)
}

// listener is a port that is bound.
type listener struct {
	name, addr string
	port       int
}

// listeners returns the ports that are bound from the start.
func (s *settings) listeners() (list []listener) {
	if s.Mode.HTTP {
		list = append(list, listener{"PORT", s.DataAddr, int(s.port())})
		if s.https() {
			list = append(list, listener{"HTTPS_PORT", s.DataAddr, int(s.HTTPSPort)})
		}
	}
	if s.shared() == "" {
		list = append(list, listener{"CONTROL_PORT", s.ControlAddr, int(s.controlPort())})
	}
	if !s.MetricsPort.Off() {
		list = append(list, listener{"METRICS_PORT", s.MetricsAddr, int(s.MetricsPort)})
	}
	return list
}

// samePorts finds ports that would be bound twice, which otherwise looks as if another
// program had them.
func (s *settings) samePorts() (errs []error) {
	list := s.listeners()
	for i, l := range list {
		for _, other := range list[:i] {
			if l.port == 0 || l.port != other.port || !everywhere(l.addr) && !everywhere(other.addr) && l.addr != other.addr {
				continue
			}
			or := ""
			switch l.name {
			case "METRICS_PORT":
				or = ", or METRICS_PORT to off"
			case "CONTROL_PORT": // the addresses are why it is not shared
				or = ", or DATA_ADDR and CONTROL_ADDR to the same for clients and visitors to share it"
			}
			errs = append(errs, config.Fault(l.name, "%d is %s too: set one of them to another%s", l.port, other.name, or))
		}
	}
	return errs
}

// everywhere reports whether a listener on addr is on all interfaces.
func everywhere(addr string) bool {
	ip := net.ParseIP(strings.Trim(addr, "[]"))
	return addr == "" || ip != nil && ip.IsUnspecified()
}
