// Command client is the private side of adit: it connects out to one or several servers
// and carries what their visitors want to the upstreams next to it.
//
// There is an agent (agent/) for each server, which keeps a session with it, and a
// dialer (upstream/) for the private services; forward/ is the opposite direction. credentials.go
// has the token and the licence of the moment, visitors.go who may visit; instance.go is what the status and
// healthcheck commands ask.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/oklog/run"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/client/agent"
	"github.com/adit-tunnel/adit/images/client/forward"
	"github.com/adit-tunnel/adit/images/client/upstream"
	"github.com/adit-tunnel/adit/shared/cli"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/service"
	"github.com/adit-tunnel/adit/shared/telemetry"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

func main() {
	os.Exit(cli.Program{
		Name:     "client",
		Summary:  "the private side of adit: exposes upstreams through a server",
		Settings: func() any { return new(settings) },
		Common:   func(s any) config.Common { return s.(*settings).Common },
		Serve: func(ctx context.Context, s any, log zerolog.Logger) error {
			return serve(ctx, s.(*settings), log)
		},
		Status: fetchStatus,
		Probe:  probe,
		Needs:  needs,
	}.Run(os.Args[1:], os.Stdout, os.Stderr))
}

// serve runs until a signal, until ctx ends or until a listener breaks off.
func serve(ctx context.Context, cfg *settings, log zerolog.Logger) error {
	id := cfg.ClientID
	if id == "" {
		id = randomID()
	}
	reg := telemetry.NewRegistry("client")
	counters := new(tunnel.Counters)
	metrics := agent.NewMetrics(reg, counters)
	creds, err := newCredentials(cfg, reg, log)
	if err != nil {
		return err
	}

	dialer := upstream.Dialer{Timeout: cfg.DialTimeout}
	health := upstream.NewHealth(upstream.HealthConfig{
		Upstreams: cfg.Upstreams, Wait: cfg.WaitUpstream, Interval: cfg.WaitInterval, Dialer: dialer, Log: log,
	}, reg)

	var forwarder *forward.Forwarder
	var up func() // the agents call it
	if len(cfg.Forwards) > 0 {
		forwarder = forward.New(forward.Config{Forwards: cfg.Forwards, Metrics: forward.NewMetrics(reg), Log: log})
		if err := forwarder.Listen(); err != nil {
			return err
		}
		defer forwarder.Close()
		up = forwarder.Up
	}

	var g run.Group
	var drain service.Drain // the agents first; their state can be seen meanwhile
	var agents []*agent.Agent
	if !cfg.MetricsPort.Off() {
		l, err := service.Listen("METRICS_PORT", cfg.MetricsAddr, int(cfg.MetricsPort))
		if err != nil {
			return err
		}
		defer l.Close()
		ready := func() error { return errors.Join(anyConnected(agents), health.Err()) }
		srv := &http.Server{Handler: telemetry.Handler(reg, ready), ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute}
		g.Add(drain.Last(service.HTTP("metrics", srv, l, time.Second, log)))
	}
	for _, u := range cfg.URL {
		a := agent.New(agent.Config{
			Server: u, Token: creds.Token, License: creds.License, Access: creds.Access, Changed: creds.Changed, TLS: cfg.tlsMode(), CA: cfg.ca,
			ClientID: id, Upstreams: cfg.Upstreams, PingInterval: cfg.PingInterval, Drain: cfg.DrainTimeout,
			Lanes: cfg.Lanes, Dialer: dialer, Health: health, Forwards: forwarder != nil, Up: up, Counters: counters, Metrics: metrics, Log: log,
		})
		metrics.Watch(a)
		if forwarder != nil {
			forwarder.Use(a)
		}
		agents = append(agents, a)
		g.Add(drain.First(service.Background(ctx, a.Run)))
	}
	if forwarder != nil {
		g.Add(drain.First(service.Background(ctx, forwarder.Run)))
	}
	g.Add(service.Background(ctx, health.Run))
	g.Add(service.Background(ctx, creds.watchToken))
	g.Add(service.Background(ctx, creds.watchLicense))
	for _, watch := range creds.watchVisitors() {
		g.Add(service.Background(ctx, watch))
	}
	g.Add(service.Background(ctx, creds.remind))
	g.Add(service.Signals(ctx))
	return g.Run()
}

// anyConnected says why the client is not ready: no server can send it a visitor.
func anyConnected(agents []*agent.Agent) error {
	for _, a := range agents {
		if a.Connected() {
			return nil
		}
	}
	return errors.New("not connected to any server")
}

func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
