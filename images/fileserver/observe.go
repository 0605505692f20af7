package main

import (
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/rs/zerolog"
)

const (
	// stride and patience are the pace that a visitor has to keep up, 1 MiB in five minutes: a download takes as long
	// as it takes, and only a connection that has practically stopped is given up.
	stride   = 1 << 20
	patience = 5 * time.Minute
	// bodyPatience bounds the wait for a request body, which no method that is served has a use for.
	bodyPatience = 10 * time.Second
)

// newServer returns the HTTP server of the data plane. It has no WriteTimeout, which would cut long downloads: the
// observer sets deadlines as a response gets on.
func newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		// Longer than platforms' routers keep theirs, so that they never send into a closing connection.
		IdleTimeout:                  120 * time.Second,
		MaxHeaderBytes:               64 << 10,
		DisableGeneralOptionsHandler: true,
	}
}

// observer counts and times requests, logs them, and sees to it that they get on.
type observer struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	sent     prometheus.Counter
	log      zerolog.Logger
	next     http.Handler
}

func newObserver(reg prometheus.Registerer, log zerolog.Logger, next http.Handler) *observer {
	factory := promauto.With(reg)
	labels := []string{"code", "method"}
	return &observer{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_fileserver_requests_total",
			Help: "HTTP requests answered.",
		}, labels),
		duration: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            "adit_fileserver_request_duration_seconds",
			Help:                            "Time from the request's header to the last byte of its response.",
			Buckets:                         []float64{.001, .005, .025, .1, .5, 1, 5, 10, 30, 60, 300, 1800},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, labels),
		sent: factory.NewCounter(prometheus.CounterOpts{
			Name: "adit_fileserver_sent_bytes_total",
			Help: "Bytes of response bodies sent, counted while they are.",
		}),
		log:  log,
		next: next,
	}
}

func (o *observer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	res := &response{ResponseWriter: w, control: http.NewResponseController(w), total: o.sent, code: http.StatusOK,
		silent: r.Method == http.MethodHead}
	if r.ContentLength != 0 {
		res.control.SetReadDeadline(start.Add(bodyPatience)) // a writer without deadlines does without
	}
	res.extend()
	o.next.ServeHTTP(res, r)
	took := time.Since(start)
	code, method := strconv.Itoa(res.code), methodLabel(r.Method)
	o.requests.WithLabelValues(code, method).Inc()
	o.duration.WithLabelValues(code, method).Observe(took.Seconds())
	// The query is left out: it may hold what is not for the log.
	o.log.Debug().Str("method", method).Str("path", r.URL.Path).Int("code", res.code).Int64("sent_bytes", res.sent).
		Dur("duration", took).Str("remote_addr", r.RemoteAddr).Str("user_agent", r.UserAgent()).Msg("request")
}

// methodLabel bounds the values that a visitor can make up.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return method
	}
	return "OTHER"
}

// response notes the code and counts the bytes, and moves the write deadline along as bytes are taken.
type response struct {
	http.ResponseWriter
	control *http.ResponseController
	total   prometheus.Counter
	code    int
	sent    int64
	silent  bool // HEAD: what is written is not sent
	wrote   bool
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(code int) {
	if !w.wrote && code >= 200 {
		w.code, w.wrote = code, true
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(p []byte) (int, error) {
	w.wrote = true
	w.extend()
	n, err := w.ResponseWriter.Write(p)
	w.count(int64(n))
	return n, err
}

// ReadFrom hands on what it reads from, as it is, so that the kernel copies a file to the connection (sendfile): that
// works for an *os.File, or an io.LimitedReader around one. It does so stride by stride, each with a deadline.
func (w *response) ReadFrom(src io.Reader) (n int64, err error) {
	to, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok {
		return io.Copy(writerOnly{w}, src)
	}
	w.wrote = true
	whole, ok := src.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: src, N: math.MaxInt64}
	}
	for whole.N > 0 {
		part := &io.LimitedReader{R: whole.R, N: min(whole.N, stride)}
		want := part.N
		w.extend()
		m, err := to.ReadFrom(part)
		w.count(m)
		n += m
		whole.N -= m
		if err != nil || m < want {
			return n, err
		}
	}
	return n, nil
}

// writerOnly hides ReadFrom from io.Copy.
type writerOnly struct{ io.Writer }

func (w *response) extend() {
	w.control.SetWriteDeadline(time.Now().Add(patience)) // a writer without deadlines does without
}

func (w *response) count(n int64) {
	if n > 0 && !w.silent {
		w.sent += n
		w.total.Add(float64(n))
	}
}
