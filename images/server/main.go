// Command server is the public side of adit: clients connect to its control plane, and
// visitors reach what the clients expose through its data plane.
//
// The parts, in the order in which main.go builds them: the routing table; the control
// plane (control/), where sessions of clients come from; the data plane (edge/), which
// opens streams on them; and metrics. data.go has visitors served, by oneport/ where both
// planes share a listener. tls.go makes their certificates, with acme/ those for visitors,
// credentials.go takes up changed tokens and keys, visitors.go has the policy for all
// visitors, license.go makes licences, forwards.go lets clients reach services of this
// network, and instance.go is what the status and healthcheck commands ask.
package main

import (
	"context"
	"net/http"
	"os"
	"time"

	"github.com/oklog/run"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/server/control"
	"github.com/adit-tunnel/adit/images/server/edge"
	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/images/server/tcp"
	"github.com/adit-tunnel/adit/shared/auth"
	"github.com/adit-tunnel/adit/shared/cli"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/service"
	"github.com/adit-tunnel/adit/shared/telemetry"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

func main() {
	os.Exit(cli.Program{
		Name:     "server",
		Summary:  "the public side of adit, a tunnel to private HTTP and TCP services",
		Settings: func() any { return new(settings) },
		Common:   func(s any) config.Common { return s.(*settings).Common },
		Serve: func(ctx context.Context, s any, log zerolog.Logger) error {
			return serve(ctx, s.(*settings), log)
		},
		Status:   fetchStatus,
		Probe:    probe,
		Needs:    needs,
		Commands: []cli.Command{licenses()},
	}.Run(os.Args[1:], os.Stdout, os.Stderr))
}

// serve runs until a signal, until ctx ends or until a listener breaks off.
func serve(ctx context.Context, cfg *settings, log zerolog.Logger) error {
	service.StandardLog(log) // the HTTP/2 client has no other
	bound, err := listen(cfg)
	if err != nil {
		return err
	}
	defer bound.close()
	reg := telemetry.NewRegistry("server")
	counters := new(tunnel.Counters)
	tokens, keys := newTokens(cfg.Token), newKeys(cfg.LicenseKeys)
	operators := newOperators(cfg, tokens)
	metrics := control.NewMetrics(reg, cfg.Mode.names(), counters)
	throttle := auth.NewThrottle()
	failed := auth.Recorder(throttle, metrics.AuthFailed, log)
	certs, err := newCertificates(cfg, tokens, func(r *http.Request) { failed(r, auth.Wrong) }, reg, log)
	if err != nil {
		return err
	}

	var webMetrics *edge.Metrics
	turnedAway := func(string) {}
	if cfg.Mode.HTTP {
		webMetrics = edge.NewMetrics(reg)
		turnedAway = webMetrics.TurnedAway
	}
	visitors, err := newVisitors(cfg, turnedAway, log)
	if err != nil {
		return err
	}
	var (
		table *routing.Table
		web   *edge.Edge
		ports *tcp.Plane
		idle  = func() {}
	)
	accessLog := newAccessLog(cfg, log)
	if cfg.Mode.HTTP {
		table = new(routing.Table)
		web = edge.New(edge.Config{
			Table: table, Trusted: cfg.TrustedProxies, OpenTimeout: cfg.OpenTimeout, ResponseTimeout: cfg.ResponseTimeout,
			Drain: cfg.DrainTimeout, Metrics: webMetrics, Door: visitors.door, Log: log, Reserved: reservedPaths(cfg),
			HTTPS: cfg.tell(bound, &certs), H2C: cfg.H2C, MaxRequests: cfg.H2MaxRequests, MaxStreams: cfg.MaxStreams, AccessLog: accessLog,
		})
		defer web.Close()
		idle = web.CloseIdle
	}
	if certs.acme, err = newACME(cfg, bound, table, certs.own, reg, log); err != nil {
		return err
	}
	if cfg.Mode.TCP {
		ports = tcp.New(tcp.Config{
			Addr: cfg.DataAddr, Allow: cfg.AllowPorts, Reserved: bound.numbers(), OpenTimeout: cfg.OpenTimeout,
			Drain: cfg.DrainTimeout, MaxConns: cfg.MaxConnections, Visitor: visitorReader(cfg), Metrics: tcp.NewMetrics(reg), Log: log,
			AccessLog: accessLog, Door: visitors.door,
		})
		defer ports.Close()
	}
	forwards, serveForward := newForwards(cfg, bound, reg, log, accessLog)
	var plane *control.Control
	observe := telemetry.Handler(reg, func() error { return plane.Ready() })
	plane = control.New(control.Config{
		Tokens: tokens, Operators: operators, Keys: keys, Throttle: throttle, Table: table, Ports: ports, CA: certs.ca, Observe: observe, Mode: cfg.Mode.String(),
		Forward:      serveForward,
		PingInterval: cfg.PingInterval, Drain: cfg.DrainTimeout, MaxClients: cfg.MaxClients, MaxStreams: cfg.MaxStreams, Pending: bound.pending,
		Lanes: cfg.Lanes, MaxLanes: cfg.MaxLanes,
		Hosts: cfg.AllowHosts, Reserved: cfg.reservedPath(), Leaving: idle, Counters: counters, Metrics: metrics, Log: log,
	})
	defer plane.Close()

	var g run.Group
	var drain service.Drain // the data plane first; what operators look at goes on meanwhile
	for _, p := range bound.data {
		srv := dataServer(ctx, cfg, bound, p, web, plane, &certs)
		g.Add(drain.First(service.HTTP(p.name, srv, edge.Listener(certs.wrapData(p)), cfg.DrainTimeout, log)))
	}
	if web != nil {
		g.Add(drain.First(service.Background(ctx, web.Run)))
	}
	if ports != nil {
		g.Add(drain.First(service.Background(ctx, ports.Run)))
	}
	if forwards != nil {
		g.Add(drain.First(service.Background(ctx, forwards.Run)))
	}
	if bound.control != nil {
		srv := plane.Server()
		if web != nil {
			srv.Handler = control.From(web.Address, plane)
		}
		g.Add(drain.Last(service.HTTP("control plane", srv, certs.wrapControl(bound.control), time.Second, log)))
	} else {
		log.Info().Str("path", cfg.ControlPath).Msg("clients and visitors share a port")
	}
	if bound.metrics != nil {
		srv := &http.Server{Handler: plane.Enough(observe), ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute}
		g.Add(drain.Last(service.HTTP("metrics", srv, bound.metrics, time.Second, log)))
	}
	g.Add(service.Background(ctx, certs.run))
	if certs.acme != nil {
		g.Add(service.Background(ctx, certs.acme.Run))
	}
	g.Add(service.Background(ctx, plane.Run))
	g.Add(service.Background(ctx, watchTokens(cfg.Token, tokens, plane.Recheck, log)))
	g.Add(service.Background(ctx, watchTokens(cfg.OperatorToken, operators, func() {}, log)))
	for _, watch := range visitors.watch() {
		g.Add(service.Background(ctx, watch))
	}
	g.Add(service.Background(ctx, watchKeys(cfg.LicenseKeys, keys, plane.Recheck, log)))
	{
		wait, interrupt := service.Signals(ctx)
		g.Add(func() error {
			err := wait()
			plane.Drain(ctx, cfg.DrainDelay)
			return err
		}, interrupt)
	}
	return g.Run()
}
