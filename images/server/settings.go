package main

import (
	"errors"
	"fmt"
	"net"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/adit-tunnel/adit/images/server/tcp"
	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/license"
)

type settings struct {
	config.Common
	Token           config.Secret       `required:"true" desc:"Shared secret of server and clients: 16 bytes or more; several, one per line or comma, are valid at once. A file is read again when it changes."`
	Mode            mode                `default:"http" desc:"What visitors reach: http (hosts, on PORT), tcp (ports that clients ask for), or http,tcp."`
	Port            config.Port         `default:"8000" desc:"Where visitors connect with HTTP; with TLS_CERT the default is 80."`
	HTTPSPort       config.Port         `envconfig:"HTTPS_PORT" default:"443" desc:"Where visitors connect with HTTPS, with TLS_CERT. When clients share PORT, HTTPS is there too, and here only if this is set."`
	DataAddr        string              `split_words:"true" desc:"Address to listen on for visitors. Empty: all interfaces."`
	ControlPort     controlPort         `split_words:"true" default:"8123" desc:"Where clients connect. That of PORT (the word PORT means it) or of HTTPS_PORT: clients and visitors share it."`
	ControlAddr     string              `split_words:"true" desc:"Address to listen on for clients. Empty: all interfaces."`
	ControlPath     string              `split_words:"true" default:"/_adit" desc:"On a shared port: below which path the control plane lives. No upstream can have it."`
	AutoTLS         bool                `envconfig:"AUTO_TLS" default:"true" desc:"Make a CA and a certificate for the control plane; clients verify them by the token. false: plain HTTP, for behind a platform's TLS."`
	AutoTLSSAN      []string            `envconfig:"AUTO_TLS_SAN" desc:"More names and addresses for the certificate of auto-TLS. adit clients do not need them, other programs may."`
	AutoTLSDir      string              `envconfig:"AUTO_TLS_DIR" desc:"Folder that keeps the CA of auto-TLS over restarts. Empty: a new CA with each start."`
	TLSCert         config.Secret       `envconfig:"TLS_CERT" desc:"PEM certificate chain of your own: replaces auto-TLS on the control plane and turns on HTTPS for visitors. A file is read again when it changes."`
	TLSKey          config.Secret       `envconfig:"TLS_KEY" desc:"PEM key of TLS_CERT."`
	LicenseKeys     config.Secret       `envconfig:"LICENSE_PUBLIC_KEY" desc:"Public keys, one per line or comma, or in PEM form: only clients with a licence that one of them verifies are admitted, and each may ask for what it covers. A file is read again when it changes. Empty: no licence is needed."`
	AllowPorts      tcp.Ports           `split_words:"true" default:"1024-65535" desc:"TCP: ports and ranges of ports that clients may ask for, never those of the server itself."`
	TrustedProxies  config.CIDRs        `split_words:"true" desc:"Addresses and CIDRs of proxies in front of the data plane whose X-Forwarded-For, -Proto and -Host count, and whose PROXY headers do with PROXY_PROTOCOL."`
	ProxyProtocol   bool                `split_words:"true" default:"false" desc:"Trusted proxies begin each connection with a PROXY header, version 1 or 2."`
	OpenTimeout     time.Duration       `split_words:"true" default:"3s" desc:"How long a client may take to connect an upstream before the next one is tried."`
	ResponseTimeout time.Duration       `split_words:"true" default:"60s" desc:"How long an upstream may take to begin its response before the visitor gets 504; 0 for no limit."`
	PingInterval    time.Duration       `split_words:"true" default:"15s" desc:"Time between pings to a client; one that is silent for two is dead."`
	DrainDelay      time.Duration       `split_words:"true" default:"0s" desc:"After SIGTERM: how long to go on accepting while not ready, for load balancers to notice."`
	MaxClients      int                 `split_words:"true" default:"0" desc:"Most clients at once; 0 for no limit."`
	MaxStreams      int                 `split_words:"true" default:"4096" desc:"Most streams (requests and connections under way) of one client at once."`
	MaxConnections  int                 `split_words:"true" default:"0" desc:"TCP: most connections of one port at once; 0 for no limit."`
	URL             string              `desc:"For the status command: the server to ask, wss://host:8123, instead of the one of this container."`
	MetricsPort     config.OptionalPort `split_words:"true" default:"8124" desc:"Port of /metrics, /healthz and /readyz without a token; off for none."`
}

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
	case control != 0 && s.TLSCert.IsSet() && control == s.HTTPSPort:
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

// https reports whether HTTPS_PORT is opened.
func (s *settings) https() bool {
	switch {
	case !s.TLSCert.IsSet():
		return false
	case s.shared() == "PORT":
		return config.Given("HTTPS_PORT") && s.HTTPSPort != s.port()
	}
	return true
}

// port is PORT, whose default depends on whether visitors are served with HTTPS too.
func (s *settings) port() config.Port {
	if s.TLSCert.IsSet() && !config.Given("PORT") {
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
	if s.MaxConnections < 0 {
		fault("MAX_CONNECTIONS", "%d is negative: use 0 for no limit", s.MaxConnections)
	}
	if s.ProxyProtocol && len(s.TrustedProxies) == 0 {
		fault("PROXY_PROTOCOL", "is true, but TRUSTED_PROXIES is not set: set it to the addresses of the proxies that send the header")
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
