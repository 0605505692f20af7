package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/server/forward"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// newForwards returns what connects clients to services of this network, and what serves their
// streams; nil if FORWARD_ALLOW is not set.
func newForwards(cfg *settings, bound ports, reg prometheus.Registerer, log zerolog.Logger, accessLog *zerolog.Logger) (*forward.Plane, func(*tunnel.Stream, string)) {
	if len(cfg.ForwardAllow) == 0 {
		return nil, nil
	}
	p := forward.New(forward.Config{
		Allow: cfg.ForwardAllow, Reserved: bound.numbers(), Drain: cfg.DrainTimeout, Metrics: forward.NewMetrics(reg), Log: log,
		AccessLog: accessLog,
	})
	return p, p.Serve
}

// newAccessLog returns where visits are logged, nil if they are not.
func newAccessLog(cfg *settings, log zerolog.Logger) *zerolog.Logger {
	if !cfg.AccessLog {
		return nil
	}
	return &log
}
