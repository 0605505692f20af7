package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	_ "golang.org/x/crypto/x509roots/fallback" // a scratch image has no certificate authorities of its own

	"github.com/adit-tunnel/adit/images/server/proxy"
	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/autotls"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/status"
)

// The status and healthcheck commands talk to the server that runs in the same
// container, found by the same settings; status also to the one that URL names.

// fetchStatus asks the control plane, whose certificate it verifies as a client does.
func fetchStatus(ctx context.Context, s any) (status.Document, error) {
	cfg := s.(*settings)
	tokens, err := auth.ParseTokens(cfg.Token.Value())
	if err != nil {
		return status.Document{}, config.Fault("TOKEN", "%w", err)
	}
	operators := tokens
	if cfg.OperatorToken.IsSet() {
		if operators, err = auth.ParseTokens(cfg.OperatorToken.Value()); err != nil {
			return status.Document{}, config.Fault("OPERATOR_TOKEN", "%w", err)
		}
	}
	base, secure, err := controlURL(cfg)
	if err != nil {
		return status.Document{}, err
	}
	transport := &http.Transport{}
	if cfg.URL == "" {
		transport.DialContext = localDialer(cfg)
	}
	switch {
	case !secure:
	case cfg.URL != "":
		transport.Proxy = http.ProxyFromEnvironment
		if cfg.AutoTLS {
			transport.TLSClientConfig, err = autotls.Fetch(ctx, base, tokens[0], nil)
		}
	case cfg.TLSCert.IsSet():
		transport.TLSClientConfig, err = pinned(cfg)
	default:
		transport.TLSClientConfig, err = autotls.Fetch(ctx, base, tokens[0], transport)
	}
	if err != nil {
		return status.Document{}, err
	}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	return status.Fetch(ctx, client, strings.TrimSuffix(base, "/")+"/status", operators[0])
}

// controlURL returns where the control plane is, as an http or https URL.
func controlURL(cfg *settings) (base string, secure bool, err error) {
	if cfg.URL == "" {
		secure = cfg.controlTLS()
		scheme := "http"
		if secure {
			scheme = "https"
		}
		base, err = localURL("CONTROL_PORT", scheme, cfg.ControlAddr, int(cfg.controlPort()))
		if err == nil {
			base += cfg.reservedPath()
		}
		return base, secure, err
	}
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return "", false, config.Fault("URL", "is no URL of a server: write wss://host:8123")
	}
	switch u.Scheme {
	case "wss", "https":
		u.Scheme, secure = "https", true
	case "ws", "http":
		u.Scheme = "http"
	default:
		return "", false, config.Fault("URL", "has the scheme %q: use wss:// (or ws:// for a server without TLS)", u.Scheme)
	}
	return u.String(), secure, nil
}

// pinned accepts exactly the certificates that the server was given, whatever their names.
func pinned(cfg *settings) (*tls.Config, error) {
	pairs, err := autotls.NewKeyPairs(readKeyPairs(cfg), zerolog.Nop())
	if err != nil {
		return nil, config.Fault("TLS_CERT", "%w", err)
	}
	return &tls.Config{
		InsecureSkipVerify: true, // #nosec G402 -- VerifyConnection does it
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 || !pairs.Serves(cs.PeerCertificates[0]) {
				return errors.New("the control port serves another certificate than TLS_CERT")
			}
			return nil
		},
	}, nil
}

// probe says where the health of this container's server is answered.
func probe(s any) (string, *http.Client, error) {
	cfg := s.(*settings)
	if !cfg.MetricsPort.Off() {
		base, err := localURL("METRICS_PORT", "http", cfg.MetricsAddr, int(cfg.MetricsPort))
		return base, nil, err
	}
	local := *cfg
	local.URL = ""
	base, _, err := controlURL(&local)
	return base, &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, DialContext: localDialer(cfg),
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // #nosec G402 -- nothing is told, and "alive" by whoever has the port
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, err
}

// localDialer connects to a port of this container. One that visitors share may want to
// be told by a PROXY header who comes, also by us.
func localDialer(cfg *settings) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil && cfg.ProxyProtocol && cfg.shared() != "" {
			if err = proxy.Announce(conn, cfg.TrustedProxies.Contains); err != nil {
				conn.Close()
			}
		}
		return conn, err
	}
}

func localURL(variable, scheme, host string, port int) (string, error) {
	if port == 0 {
		return "", config.Fault(variable, "is 0: a port that was picked freely is not known here")
	}
	if host == "" || host == "0.0.0.0" || host == "::" || host == "[::]" {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port)), nil
}
