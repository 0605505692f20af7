package edge

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/adit-tunnel/adit/shared/access"
)

// unmatched is the host label of requests that no route took.
const unmatched = "unmatched"

// Metrics are the series of the HTTP data plane.
type Metrics struct {
	requests    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	openErrors  *prometheus.CounterVec
	retries     prometheus.Counter
	upgraded    prometheus.Gauge
	http2Errors *prometheus.CounterVec
	refused     *prometheus.CounterVec

	mu    sync.RWMutex
	known map[series]pair // no look-up of labels on the hot path
}

// maxSeries bounds the series, at some 2 KB each: a client that comes again and again with
// other hosts, and visits them, could make any number. What is beyond counts as others.
const (
	maxSeries = 20_000
	others    = "others"
)

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
		known: map[series]pair{},
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
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_http_refused_requests_total",
			Help: "Requests of visitors who may not visit, by reason.",
		}, []string{"reason"}),
		upgraded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "adit_http_upgraded_connections",
			Help: "Visitors' connections that have changed to another protocol, such as websockets.",
		}),
		http2Errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_http2_errors_total",
			Help: "Faults of visitors who speak HTTP/2, by kind.",
		}, []string{"kind"}),
	}
	reg.MustRegister(m.requests, m.duration, m.openErrors, m.retries, m.upgraded, m.http2Errors, m.refused)
	for _, reason := range access.Reasons { // at 0, for alerts to see the first
		m.refused.WithLabelValues(reason)
	}
	return m
}

// TurnedAway counts a request of a visitor who may not visit.
func (m *Metrics) TurnedAway(reason string) { m.refused.WithLabelValues(reason).Inc() }

// count notes a finished request.
func (m *Metrics) count(code int, host, method string, took time.Duration) {
	p := m.pair(series{code, host, methodLabel(method)})
	p.requests.Inc()
	p.duration.Observe(took.Seconds())
}

func (m *Metrics) pair(key series) pair {
	m.mu.RLock()
	p, ok := m.known[key]
	full := len(m.known) >= maxSeries
	m.mu.RUnlock()
	if !ok && full && key.host != others {
		return m.pair(series{key.code, others, key.method})
	}
	if !ok {
		labels := []string{strconv.Itoa(key.code), key.host, key.method}
		p = pair{m.requests.WithLabelValues(labels...), m.duration.WithLabelValues(labels...)}
		m.mu.Lock()
		m.known[key] = p
		m.mu.Unlock()
	}
	return p
}

// methodLabel bounds the values of a label that visitors choose.
func methodLabel(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT":
		return method
	}
	return "OTHER"
}
