package agent

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/adit-tunnel/adit/shared/autotls"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// Metrics are the series of a client, over all its servers.
type Metrics struct {
	reg        prometheus.Registerer
	dialErrors *prometheus.CounterVec
	reconnects *prometheus.CounterVec
}

// NewMetrics registers the series with reg, and those of the sessions' streams.
func NewMetrics(reg prometheus.Registerer, counters *tunnel.Counters) *Metrics {
	m := &Metrics{
		reg: reg,
		dialErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_dial_errors_total",
			Help: "Streams whose upstream could not be connected, by reason.",
		}, []string{"reason"}),
		reconnects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_reconnects_total",
			Help: "Attempts to connect that failed and connections that ended, by reason.",
		}, []string{"reason"}),
	}
	reg.MustRegister(m.dialErrors, m.reconnects)
	tunnel.Register(reg, counters)
	return m
}

// Watch exports the state of an agent.
func (m *Metrics) Watch(a *Agent) {
	labels := prometheus.Labels{"server": a.cfg.Server.Host}
	m.reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "adit_connected", Help: "Whether there is a session with the server: 1 or 0.", ConstLabels: labels,
		}, func() float64 {
			if a.Connected() {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "adit_session_rtt_seconds", Help: "Least round trip of the last pings to the server.", ConstLabels: labels,
		}, func() float64 { return a.RTT().Seconds() }),
	)
}

// reconnected counts why there is no session any more, or not yet.
func (m *Metrics) reconnected(err error) {
	var (
		refused *RefusedError
		ended   *tunnel.SessionError
		reason  = "unreachable"
	)
	switch {
	case errors.Is(err, errGoAway):
		reason = "goaway"
	case errors.Is(err, errRenewed):
		reason = "renewed"
	case errors.As(err, &refused):
		reason = "refused"
	case errors.Is(err, autotls.ErrUntrusted), errors.Is(err, autotls.ErrIntercepted), errors.Is(err, autotls.ErrNoCA):
		reason = "untrusted"
	case errors.As(err, &ended):
		reason = ended.Code.String()
	}
	m.reconnects.WithLabelValues(reason).Inc()
}
