package forward

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// Metrics are the series of forwards; the label forward is an item of FORWARDS.
type Metrics struct {
	open    *prometheus.GaugeVec
	total   *prometheus.CounterVec
	refused *prometheus.CounterVec
}

// NewMetrics registers the series with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "adit_forward_connections",
			Help: "Connections of local ports to services of the server's network that are open.",
		}, []string{"forward"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_forward_connections_total",
			Help: "Connections of local ports to services of the server's network.",
		}, []string{"forward"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_forward_refused_total",
			Help: "Connections of local ports that were reset because no server took them, by reason.",
		}, []string{"reason"}),
	}
	reg.MustRegister(m.open, m.total, m.refused)
	return m
}

// reason returns a word for why there was no stream.
func reason(err error) string {
	var denied *DeniedError
	switch {
	case errors.Is(err, ErrNotConnected):
		return "not_connected"
	case errors.As(err, &denied):
		return tunnel.CodeDenied.String()
	case errors.Is(err, errTooMany):
		return "too_many_waiting"
	case errors.Is(err, errStopping):
		return "draining"
	}
	return tunnel.OpenReason(err)
}
