package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/adit-tunnel/adit/images/client/agent"
	"github.com/adit-tunnel/adit/images/client/forward"
	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

type settings struct {
	config.Common
	URL       servers       `required:"true" desc:"Where the server's control plane is: wss://host:8123; several, separated by commas, are all connected."`
	Token     config.Secret `required:"true" desc:"Shared secret of server and clients. A file is read again when it changes."`
	License   config.Secret `desc:"The licence, where the server asks for one. A file is read again when it changes."`
	Upstreams route.List    `desc:"What to expose, separated by commas: http://127.0.0.1:8080 for every host, or example.com=http://app:8000, *.example.com/api=https://api:8443?insecure=true, unix:///run/app.sock."`
	Forwards  forward.List  `desc:"Local ports that lead to services of the server's network, if FORWARD_ALLOW there has them: 3000:10.0.0.2:3000, or 0.0.0.0:3000:10.0.0.2:3000 to listen on another address than 127.0.0.1."`

	BasicAuth         config.Each[config.Secret] `split_words:"true" desc:"user:password that visitors must give; several, one per line. A file is read again when it changes. BASIC_AUTH_2=off: none for the second upstream."`
	BearerToken       config.Each[config.Secret] `split_words:"true" desc:"Token that visitors must give, of 16 bytes or more; several, one per line or comma. With BASIC_AUTH, one of either admits. A file is read again when it changes."`
	AllowIPs          config.Each[config.CIDRs]  `envconfig:"ALLOW_IPS" desc:"Addresses and CIDRs that visitors may come from. Empty: all. One upstream can differ: http://app:8000?allow=10.0.0.0/8&allow=2001:db8::/32."`
	PassAuthorization config.Each[bool]          `split_words:"true" default:"false" desc:"Pass the credentials that were asked for here on to the upstream. One can differ: http://app:8000?pass_auth=true."`
	RequestHeaders    config.Each[access.Rules]  `split_words:"true" desc:"Changes of requests on their way to upstreams, one per line or comma: X-Env: prod sets, +X-Env: prod adds, -X-Env removes; \\, is a comma within a value."`
	ResponseHeaders   config.Each[access.Rules]  `split_words:"true" desc:"The same for responses of upstreams."`

	AutoTLS      bool                `envconfig:"AUTO_TLS" default:"true" desc:"Verify the server's own CA by the token. false: its certificate is from a public authority, as behind a platform's TLS, or URL is ws://."`
	TLSCA        config.Secret       `envconfig:"TLS_CA" desc:"PEM certificates of the authority that signed the server's certificate, instead of AUTO_TLS."`
	ClientID     string              `split_words:"true" desc:"Name of this client: up to 64 letters, digits, dots, dashes and underscores. Each client needs its own. Empty: random with each start."`
	WaitUpstream route.Wait          `split_words:"true" desc:"Have visitors wait (503) while an upstream does not answer: tcp (it can be connected), or a path that it must answer, such as /healthz or /healthz=200-299. One upstream can differ: http://app:8000?wait=/up, ?wait=off."`
	WaitInterval time.Duration       `split_words:"true" default:"5s" desc:"Time between two checks of WAIT_UPSTREAM, and the longest that one may take."`
	DialTimeout  time.Duration       `split_words:"true" default:"10s" desc:"How long connecting an upstream may take."`
	PingInterval time.Duration       `split_words:"true" default:"15s" desc:"Time between pings to a server; one that is silent for two is dead."`
	Lanes        bool                `default:"true" desc:"Open a connection of its own for a stream that carries a lot, which is faster and leaves the others alone. false: one connection for everything."`
	MetricsPort  config.OptionalPort `split_words:"true" default:"8125" desc:"Port of /metrics, /healthz and /readyz; off for none."`
}

// servers is the value of URL.
type servers []*url.URL

// Decode implements envconfig.Decoder.
func (s *servers) Decode(value string) error {
	var errs []error
	*s = nil
	seen := map[string]bool{}
	for _, text := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }) {
		u, err := agent.ParseURL(text)
		switch {
		case err != nil:
			errs = append(errs, err)
		case seen[u.Host]:
			errs = append(errs, fmt.Errorf("%s is there twice", u.Host))
		default:
			seen[u.Host] = true
			*s = append(*s, u)
		}
	}
	if len(*s) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("holds no URL: write wss://host:8123"))
	}
	return errors.Join(errs...)
}

// String is what the env command prints.
func (s servers) String() string {
	var out []string
	for _, u := range s {
		out = append(out, u.String())
	}
	return strings.Join(out, ",")
}

// Validate checks what the types do not.
func (s *settings) Validate() error {
	var errs []error
	fault := func(name, format string, args ...any) { errs = append(errs, config.Fault(name, format, args...)) }
	if _, err := s.token(s.Token.Value()); err != nil {
		fault("TOKEN", "%w", err)
	}
	if s.License.IsSet() {
		if _, _, err := readLicense(s.License.Value()); err != nil {
			fault("LICENSE", "%w", err)
		}
	}
	if s.TLSCA.IsSet() && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.TLSCA.Value())) {
		fault("TLS_CA", "holds no certificate in PEM form")
	}
	for _, u := range s.URL {
		if u.Scheme == "ws" && s.AutoTLS && !s.TLSCA.IsSet() {
			fault("URL", "%s sends the token in clear text: write wss://%s, or set AUTO_TLS=false if that is what you want", u, u.Host)
		}
		if u.Scheme == "ws" && s.TLSCA.IsSet() {
			fault("URL", "%s uses no TLS, but TLS_CA is set: write wss://%s", u, u.Host)
		}
	}
	if s.ClientID != "" && (len(s.ClientID) > 64 || strings.Trim(s.ClientID, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_") != "") {
		fault("CLIENT_ID", "%q is not 1 to 64 letters, digits, dots, dashes or underscores", s.ClientID)
	}
	if len(s.Upstreams)+len(s.Forwards) == 0 {
		fault("UPSTREAMS", "is not set, and neither is FORWARDS: set what to expose, or what to reach, or both")
	}
	doc, err := newVisitors(s).document(s)
	if err != nil {
		errs = append(errs, err)
	}
	if err := s.fits(doc); err != nil {
		fault("UPSTREAMS", "%w", err)
	}
	if s.WaitInterval < 100*time.Millisecond {
		fault("WAIT_INTERVAL", "%s is too short: set 100ms or more, with a unit as in 5s", s.WaitInterval)
	}
	if s.DialTimeout < 100*time.Millisecond {
		fault("DIAL_TIMEOUT", "%s is too short: set 100ms or more, with a unit as in 3s", s.DialTimeout)
	}
	if s.PingInterval < 100*time.Millisecond {
		fault("PING_INTERVAL", "%s is too short: set 100ms or more, with a unit as in 15s", s.PingInterval)
	}
	return errors.Join(errs...)
}

// fits reports whether a server can be told of the upstreams and who may visit them.
func (s *settings) fits(access json.RawMessage) error {
	_, err := agent.Hello(strings.Repeat("x", 64), math.MaxUint64, s.Upstreams, make(tunnel.Waiting, (len(s.Upstreams)+7)/8), access, tunnel.CapabilityForward)
	return err
}

// token returns the first of the tokens: a client that shares a file with its server
// finds several there during a rotation, the newest first.
func (s *settings) token(value string) (string, error) {
	list, err := auth.ParseTokens(value)
	if err != nil {
		return "", err
	}
	return list[0], nil
}

// ca returns TLS_CA, again from its file if it has one.
func (s *settings) ca() string {
	if path := s.TLSCA.File(); path != "" {
		if content, err := os.ReadFile(path); err == nil && len(bytes.TrimSpace(content)) > 0 {
			return string(content)
		}
	}
	return s.TLSCA.Value()
}

func (s *settings) tlsMode() agent.TLSMode {
	switch {
	case s.TLSCA.IsSet():
		return agent.TLSCustom
	case s.AutoTLS:
		return agent.TLSAuto
	}
	return agent.TLSPublic
}
