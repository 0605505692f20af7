package forward

import (
	"errors"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the series of forwards. No label says what clients have asked for.
type Metrics struct {
	open    prometheus.Gauge
	total   prometheus.Counter
	refused *prometheus.CounterVec
}

// NewMetrics registers the series with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "adit_forward_connections",
			Help: "Connections that are open between clients and services of the server's network.",
		}),
		total: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "adit_forward_connections_total",
			Help: "Connections of clients to services of the server's network.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_forward_refused_total",
			Help: "Connections that clients asked for and did not get, by reason.",
		}, []string{"reason"}),
	}
	reg.MustRegister(m.open, m.total, m.refused)
	return m
}

func (m *Metrics) opened() {
	m.open.Inc()
	m.total.Inc()
}

// windowsRefused is what Windows calls ECONNREFUSED.
const windowsRefused = syscall.Errno(10061)

func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, windowsRefused)
}
