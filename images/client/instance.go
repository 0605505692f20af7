package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/adit-tunnel/adit/images/client/agent"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/status"
)

// fetchStatus asks the servers in turn for the status document, as the client connects.
func fetchStatus(ctx context.Context, s any) (status.Document, error) {
	cfg := s.(*settings)
	token, err := cfg.token(cfg.Token.Value())
	if err != nil {
		return status.Document{}, config.Fault("TOKEN", "%w", err)
	}
	if len(cfg.URL) == 0 {
		return status.Document{}, config.Fault("URL", "is required: write wss://host:8123")
	}
	var errs []error
	for _, u := range cfg.URL {
		doc, err := fetchFrom(ctx, cfg, u, token)
		if err == nil {
			return doc, nil
		}
		errs = append(errs, err)
	}
	return status.Document{}, errors.Join(errs...)
}

func fetchFrom(ctx context.Context, cfg *settings, u *url.URL, token string) (status.Document, error) {
	tlsConfig, err := agent.TLSConfig(ctx, cfg.tlsMode(), u, token, []byte(cfg.TLSCA.Value()))
	if err != nil {
		return status.Document{}, err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: tlsConfig}
	defer transport.CloseIdleConnections()
	at := u.JoinPath("status")
	at.Scheme = strings.Replace(u.Scheme, "ws", "http", 1)
	return status.Fetch(ctx, &http.Client{Transport: transport, Timeout: 10 * time.Second}, at.String(), token)
}

// probe says where the health of this container's client is answered.
func probe(s any) (string, *http.Client, error) {
	cfg := s.(*settings)
	switch {
	case cfg.MetricsPort.Off():
		return "", nil, config.Fault("METRICS_PORT", "is off: the health check needs it")
	case cfg.MetricsPort == 0:
		return "", nil, config.Fault("METRICS_PORT", "is 0: a port that was picked freely is not known here")
	}
	host := strings.Trim(cfg.MetricsAddr, "[]")
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(int(cfg.MetricsPort))), nil, nil
}
