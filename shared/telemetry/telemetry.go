// Package telemetry is what an image tells about itself: the logger, the metrics
// registry with the series that every image has, and the HTTP handler for
// scrapers and probes. The metrics of a component are defined beside it and
// registered with the registry that is passed to it.
package telemetry

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/version"
)

// Milliseconds in UTC: lines of several machines can be put in order.
func init() {
	zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00"
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
}

// NewLogger returns a logger that writes lines of level and above to w, as JSON
// or, on the console, for people.
func NewLogger(w io.Writer, level zerolog.Level, console bool) zerolog.Logger {
	if console {
		w = zerolog.ConsoleWriter{Out: w, NoColor: !isTerminal(w), TimeFormat: time.TimeOnly}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// NewRegistry returns a registry with the series that every image has: those of
// the Go runtime, of the process, and adit_build_info.
func NewRegistry(image string) *prometheus.Registry {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "adit_build_info",
		Help: "What is running; the value is always 1.",
		ConstLabels: prometheus.Labels{
			"image":     image,
			"version":   version.Version,
			"sha":       version.SHA,
			"goversion": runtime.Version(),
		},
	})
	build.Set(1)
	reg := prometheus.NewRegistry()
	reg.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// Handler answers /metrics from reg, /healthz with 200 as long as the process
// answers at all, and /readyz with 200, or with 503 and the reason that ready
// returns. A nil ready stands for always.
func Handler(reg *prometheus.Registry, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if ready != nil {
			if err := ready(); err != nil {
				answer(w, http.StatusServiceUnavailable, err.Error())
				return
			}
		}
		answer(w, http.StatusOK, "ready")
	})
	return mux
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	fmt.Fprintln(w, text)
}
