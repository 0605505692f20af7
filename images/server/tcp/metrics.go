package tcp

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the series of the TCP data plane. The ports are those that clients were
// allowed to ask for.
type Metrics struct {
	gauge   *prometheus.GaugeVec
	total   *prometheus.CounterVec
	refused *prometheus.CounterVec
}

// NewMetrics registers the series with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		gauge: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tcp_dataplane_connections_gauge",
			Help: "Connections of visitors that are open, by public port.",
		}, []string{"port"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tcp_dataplane_connections_total",
			Help: "Connections of visitors, by public port.",
		}, []string{"port"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_tcp_refused_connections_total",
			Help: "Connections of visitors that were reset instead of served, by reason.",
		}, []string{"reason"}),
	}
	reg.MustRegister(m.gauge, m.total, m.refused)
	return m
}

// portMetrics are the series of one port.
type portMetrics struct {
	open  prometheus.Gauge
	total prometheus.Counter
}

func (m *Metrics) of(port int) portMetrics {
	label := strconv.Itoa(port)
	return portMetrics{m.gauge.WithLabelValues(label), m.total.WithLabelValues(label)}
}
