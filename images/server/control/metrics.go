package control

import (
	"bufio"
	"net"
	"net/http"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// Metrics are the series of the control plane.
type Metrics struct {
	reg          prometheus.Registerer
	requests     []*prometheus.CounterVec // one for each of the modes
	authFailures *prometheus.CounterVec
	dropped      prometheus.Counter
	refusals     *prometheus.CounterVec // registered where licences are needed
}

// NewMetrics registers the series with reg, and those of the sessions' streams. Modes
// are what the server serves, "http" and "tcp": each has its own series.
func NewMetrics(reg prometheus.Registerer, modes []string, counters *tunnel.Counters) *Metrics {
	m := &Metrics{
		reg: reg,
		authFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_auth_failures_total",
			Help: "Requests to the control plane without a valid token, by reason.",
		}, []string{"reason"}),
	}
	for _, mode := range modes {
		requests := prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: mode + "_controlplane_requests_total",
			Help: "Requests to the control plane, by status code and path.",
		}, []string{"code", "path"})
		reg.MustRegister(requests)
		m.requests = append(m.requests, requests)
	}
	m.dropped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "adit_dropped_handshakes_total",
		Help: "Connections that were dropped before they became a client's, or a visitor's on a shared port, because there were too many.",
	})
	m.refusals = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "adit_license_refusals_total",
		Help: "Clients that were refused for their licence, by the claim that failed.",
	}, []string{"claim"})
	reg.MustRegister(m.authFailures, m.dropped)
	tunnel.Register(reg, counters)
	return m
}

// collect registers what is read from the control plane when it is scraped.
func (m *Metrics) collect(c *Control) {
	connected := func(mode string, serves func(*client) bool) {
		m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: mode + "_controlplane_connected_gauge",
			Help: "Clients that are connected and serve " + mode + ".",
		}, func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			n := 0
			for _, cl := range c.clients {
				if serves(cl) {
					n++
				}
			}
			return float64(n)
		}))
	}
	if c.cfg.Table != nil {
		connected("http", func(cl *client) bool { return len(cl.backends) > 0 })
	}
	if c.cfg.Ports != nil {
		connected("tcp", func(cl *client) bool { return len(cl.ports) > 0 })
	}
	upstreams := func(state string, waiting bool) {
		m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "adit_upstreams",
			Help:        "Upstreams of the clients that are connected: healthy, or waiting for the service behind them.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			n := 0
			for _, cl := range c.clients {
				for _, b := range slices.Concat(cl.backends, cl.ports) {
					if b.Waiting() == waiting {
						n++
					}
				}
			}
			return float64(n)
		}))
	}
	upstreams("healthy", false)
	upstreams("waiting", true)
	if c.cfg.Keys != nil {
		m.reg.MustRegister(m.refusals, &licenseCollector{c: c, desc: prometheus.NewDesc("adit_license_expiry_timestamp_seconds",
			"When the first of the licences of the connected clients expires, in seconds since 1970.", nil, nil)})
	}
	m.reg.MustRegister(&rttCollector{c: c, desc: prometheus.NewDesc("adit_session_rtt_seconds",
		"Least round trip of the last pings, over all sessions: the smallest, and the largest.", []string{"of"}, nil)})
}

// rttCollector reports the extremes of the sessions' round trips: a series for each
// client would be without bound.
type rttCollector struct {
	c    *Control
	desc *prometheus.Desc
}

func (r *rttCollector) Describe(ch chan<- *prometheus.Desc) { ch <- r.desc }

func (r *rttCollector) Collect(ch chan<- prometheus.Metric) {
	var least, most float64
	r.c.mu.Lock()
	for _, cl := range r.c.clients {
		rtt := cl.session.RTT().Seconds()
		if rtt == 0 {
			continue
		}
		if least == 0 || rtt < least {
			least = rtt
		}
		most = max(most, rtt)
	}
	r.c.mu.Unlock()
	if most > 0 {
		ch <- prometheus.MustNewConstMetric(r.desc, prometheus.GaugeValue, least, "nearest")
		ch <- prometheus.MustNewConstMetric(r.desc, prometheus.GaugeValue, most, "farthest")
	}
}

// licenseCollector reports one time for all clients; there is none while no client is
// connected.
type licenseCollector struct {
	c    *Control
	desc *prometheus.Desc
}

func (l *licenseCollector) Describe(ch chan<- *prometheus.Desc) { ch <- l.desc }

func (l *licenseCollector) Collect(ch chan<- prometheus.Metric) {
	if at := l.c.soonest(); !at.IsZero() {
		ch <- prometheus.MustNewConstMetric(l.desc, prometheus.GaugeValue, float64(at.Unix()))
	}
}

// unlicensed counts a refusal.
func (m *Metrics) unlicensed(claim string) { m.refusals.WithLabelValues(claim).Inc() }

// AuthFailed counts a failed authentication.
func (m *Metrics) AuthFailed(reason string) { m.authFailures.WithLabelValues(reason).Inc() }

// counted counts the requests that h answers under a path of ours.
func (c *Control) counted(path string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cw := &codeWriter{ResponseWriter: w, code: http.StatusOK}
		defer func() {
			for _, requests := range c.cfg.Metrics.requests {
				requests.WithLabelValues(strconv.Itoa(cw.code), path).Inc()
			}
		}()
		h.ServeHTTP(cw, r)
	})
}

// codeWriter remembers the status code.
type codeWriter struct {
	http.ResponseWriter
	code int
}

func (w *codeWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

// Hijack is what a websocket handshake does, and only once nothing speaks against it.
func (w *codeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.code = http.StatusSwitchingProtocols
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

func (w *codeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
