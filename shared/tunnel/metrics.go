package tunnel

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

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
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "adit_lanes",
			Help: "Lanes open now: websockets that carry one bulky stream each.",
		}, func() float64 { return float64(c.Lanes.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "adit_lanes_total",
			Help: "Streams that moved to a lane; each direction counts.",
		}, func() float64 { return float64(c.Moves.Load()) }),
	)
	for reason, n := range map[string]*atomic.Uint64{
		"refused": &c.LaneErrors.Refused, "timeout": &c.LaneErrors.Timeout,
		"full": &c.LaneErrors.Full, "broken": &c.LaneErrors.Broken,
	} {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "adit_lane_errors_total",
			Help:        "Lanes that could not be had, so that their streams stayed on the session, or that broke, and their streams with them.",
			ConstLabels: prometheus.Labels{"reason": reason},
		}, func() float64 { return float64(n.Load()) }))
	}
}
