// Command fileserver is a small web server for files, to put behind a tunnel or to try one with.
//
// It has two listeners: the data plane on PORT serves the files below WEBROOT, through the packages files (what is
// served), guard.go (to whom) and observe.go (metrics, access log, deadlines); the other, on METRICS_PORT, answers
// scrapers, probes and the status command.
package main

import (
	"context"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/oklog/run"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/fileserver/files"
	"github.com/adit-tunnel/adit/shared/cli"
	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/service"
	"github.com/adit-tunnel/adit/shared/telemetry"
)

func main() {
	os.Exit(cli.Program{
		Name:     "fileserver",
		Summary:  "a small web server for the files below WEBROOT",
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
	root, err := openWebroot(cfg.Webroot)
	if err != nil {
		return err
	}
	defer root.Close()
	dataListener, err := service.Listen("PORT", cfg.DataAddr, int(cfg.Port))
	if err != nil {
		return err
	}
	defer dataListener.Close()

	reg := telemetry.NewRegistry("fileserver")
	guard, err := newGuard(cfg.AllowIPs, cfg.BasicAuth, log, files.New(root, files.Options{Browse: cfg.Browse}))
	if err != nil {
		return err
	}
	log.Info().Str("webroot", cfg.Webroot).Bool("browse", cfg.Browse).Msg("serving files")

	var g run.Group
	if !cfg.MetricsPort.Off() {
		metricsListener, err := service.Listen("METRICS_PORT", cfg.MetricsAddr, int(cfg.MetricsPort))
		if err != nil {
			return err
		}
		defer metricsListener.Close()
		srv := &http.Server{Handler: newInstance(reg, root), ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute}
		g.Add(service.HTTP("metrics", srv, metricsListener, time.Second, log))
	}
	{
		srv := newServer(newObserver(reg, log, guard))
		g.Add(service.HTTP("data plane", srv, dataListener, cfg.DrainTimeout, log))
	}
	{
		ctx, cancel := context.WithCancel(ctx)
		g.Add(func() error { return guard.watch(ctx) }, func(error) { cancel() })
	}
	g.Add(run.SignalHandler(ctx, os.Interrupt, syscall.SIGTERM))
	return g.Run()
}
