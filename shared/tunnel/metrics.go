package tunnel

import "github.com/prometheus/client_golang/prometheus"

// Register exports counters with reg. The byte counters move with every frame, not
// when a stream closes.
func Register(reg prometheus.Registerer, c *Counters) {
	reg.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "adit_received_bytes_total",
			Help: "Bytes of streams received from the other end of the tunnel.",
		}, func() float64 { return float64(c.Received.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "adit_sent_bytes_total",
			Help: "Bytes of streams sent to the other end of the tunnel.",
		}, func() float64 { return float64(c.Sent.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "adit_streams_total",
			Help: "Streams begun.",
		}, func() float64 { return float64(c.Streams.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "adit_streams",
			Help: "Streams open now.",
		}, func() float64 { return float64(c.Active.Load()) }),
	)
}
