package acme

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the series of certificates from a directory.
type Metrics struct {
	issued   prometheus.Counter
	failures *prometheus.CounterVec
	reg      prometheus.Registerer
}

// NewMetrics registers the series with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		reg: reg,
		issued: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "adit_acme_issued_total",
			Help: "Certificates that the ACME directory has issued, renewals included.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_acme_failures_total",
			Help: "Attempts to get or renew a certificate that failed, by reason.",
		}, []string{"reason"}),
	}
	for _, reason := range reasons {
		m.failures.WithLabelValues(reason)
	}
	reg.MustRegister(m.issued, m.failures)
	return m
}

func (m *Metrics) failed(reason string) { m.failures.WithLabelValues(reason).Inc() }

// observe exports what the Manager has at the moment.
func (m *Metrics) observe(of *Manager) { m.reg.MustRegister(collector{of}) }

// collector asks a Manager.
type collector struct{ m *Manager }

var (
	expiryDesc = prometheus.NewDesc("adit_certificate_expiry_timestamp_seconds",
		"When the certificate expires, in seconds since 1970.", []string{"name"}, nil)
	failingDesc = prometheus.NewDesc("adit_acme_failing",
		"Hosts that have no certificate after a failed attempt, or whose renewal is overdue.", nil, nil)
)

// Describe implements prometheus.Collector. It describes nothing: the expiry is also that of other certificates, under
// other names.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	expiry, failing := c.m.state(time.Now())
	for name, t := range expiry {
		to <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, float64(t.Unix()), name)
	}
	to <- prometheus.MustNewConstMetric(failingDesc, prometheus.GaugeValue, float64(failing))
}

// overdue is the part of a certificate's life that is left when its renewal, which begins at a third, is overdue.
const overdue = 4

// state returns when the certificate of each host expires, and how many hosts fail.
func (m *Manager) state(now time.Time) (expiry map[string]time.Time, failing int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	expiry = map[string]time.Time{}
	for name, h := range m.hosts {
		if !h.managed {
			if h.failures > 0 {
				failing++
			}
			continue
		}
		for _, cert := range m.cache.AllMatchingCertificates(name) {
			leaf := cert.Leaf
			if leaf.NotAfter.After(expiry[name]) {
				expiry[name] = leaf.NotAfter
			}
		}
		if life := m.life(name); expiry[name].Sub(now) < life/overdue {
			failing++
		}
	}
	return expiry, failing
}

// life returns how long the certificate of a host is valid in all.
func (m *Manager) life(name string) (life time.Duration) {
	for _, cert := range m.cache.AllMatchingCertificates(name) {
		life = max(life, cert.Lifetime())
	}
	return life
}
