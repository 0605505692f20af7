package edge

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// unmatched is the host label of requests that no route took.
const unmatched = "unmatched"

// Metrics are the series of the HTTP data plane.
type Metrics struct {
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	openErrors *prometheus.CounterVec
	retries    prometheus.Counter
	upgraded   prometheus.Gauge

	known sync.Map // series → *pair: no look-up of labels on the hot path
}

type series struct {
	code         int
	host, method string
}

type pair struct {
	requests prometheus.Counter
	duration prometheus.Observer
}

// NewMetrics registers the series with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	labels := []string{"code", "host", "method"}
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_dataplane_requests_total",
			Help: "Requests of visitors, by status code, matched route and method.",
		}, labels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "http_dataplane_request_duration_seconds",
			Help:                        "Time from a request's head to the end of its response, by status code, matched route and method.",
			Buckets:                     []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}, labels),
		openErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_dial_errors_total",
			Help: "Streams that could not be opened for a visitor, by reason.",
		}, []string{"reason"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "adit_http_retries_total",
			Help: "Requests that were sent again because a stream broke before the response began.",
		}),
		upgraded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "adit_http_upgraded_connections",
			Help: "Visitors' connections that have changed to another protocol, such as websockets.",
		}),
	}
	reg.MustRegister(m.requests, m.duration, m.openErrors, m.retries, m.upgraded)
	return m
}

// count notes a finished request.
func (m *Metrics) count(code int, host, method string, took time.Duration) {
	key := series{code, host, methodLabel(method)}
	p, ok := m.known.Load(key)
	if !ok {
		labels := []string{strconv.Itoa(code), host, key.method}
		p, _ = m.known.LoadOrStore(key, &pair{m.requests.WithLabelValues(labels...), m.duration.WithLabelValues(labels...)})
	}
	p.(*pair).requests.Inc()
	p.(*pair).duration.Observe(took.Seconds())
}

// methodLabel bounds the values of a label that visitors choose.
func methodLabel(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT":
		return method
	}
	return "OTHER"
}
