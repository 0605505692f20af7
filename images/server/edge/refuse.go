package edge

import (
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// refusal is an answer of our own: a status and one line that tells the visitor, who
// must learn nothing about the private network, what is the matter.
type refusal struct {
	code  int
	text  string
	retry bool // worth trying again soon
}

var (
	onlyHTTPS      = refusal{http.StatusPermanentRedirect, "this is served with HTTPS", false}
	badHost        = refusal{http.StatusBadRequest, "the Host header is malformed", false}
	badTarget      = refusal{http.StatusBadRequest, "the request target is malformed", false}
	twoRoutes      = refusal{http.StatusBadRequest, "the path can be read in two ways, which lead to different services", false}
	badBody        = refusal{http.StatusBadRequest, "the request body is malformed", false}
	badVersion     = refusal{http.StatusHTTPVersionNotSupported, "only HTTP/1.0 and HTTP/1.1 are served here: HTTP/2 needs TLS", false}
	badMethod      = refusal{http.StatusBadRequest, "the request method is malformed", false}
	badExpectation = refusal{http.StatusExpectationFailed, "only 100-continue may be expected", false}
	noConnect      = refusal{http.StatusMethodNotAllowed, "CONNECT is not served here", false}
	noRoute        = refusal{http.StatusNotFound, "nothing is exposed under this host and path", false}
	noBackend      = refusal{http.StatusServiceUnavailable, "the client that serves this host is not connected", true}
	waiting        = refusal{http.StatusServiceUnavailable, "the service behind this host is not ready", true}
	overloaded     = refusal{http.StatusServiceUnavailable, "too many requests are under way", true}
	closing        = refusal{http.StatusServiceUnavailable, "the server is shutting down", true}
	refused        = refusal{http.StatusBadGateway, "the upstream refused the connection", false}
	unreachable    = refusal{http.StatusBadGateway, "the upstream cannot be reached", false}
	untrusted      = refusal{http.StatusBadGateway, "the upstream's certificate, or its TLS, was not accepted", false}
	brokeOff       = refusal{http.StatusBadGateway, "the upstream broke off before it answered", false}
	silent         = refusal{http.StatusBadGateway, "the client that serves this host does not respond", true}
	notHTTP2       = refusal{http.StatusBadGateway, "the upstream does not speak HTTP/2", false}
	malformed      = refusal{http.StatusBadGateway, "the upstream's answer is malformed", false}
	slowConnect    = refusal{http.StatusGatewayTimeout, "the upstream did not accept the connection in time", false}
	slowResponse   = refusal{http.StatusGatewayTimeout, "the upstream did not answer in time", false}
)

// statusClientClosed is counted for requests whose visitor left before the answer; it
// is never sent. The number is the one that nginx made known.
const statusClientClosed = 499

var (
	errNoBackend   = errors.New("no backend")
	errWaiting     = errors.New("the upstream waits for its service")
	errSilent      = errors.New("the client does not respond")
	errRequestBody = errors.New("the visitor's request body is malformed")
)

// brokenError is a stream that broke, or a response that made no sense, before the
// visitor got anything.
type brokenError struct {
	err      error
	unsent   bool // the upstream got nothing of the request
	received bool // the upstream had begun to answer
}

func (e *brokenError) Error() string { return "upstream: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// refusalFor tells the reasons apart that a request was not served.
func refusalFor(err error) refusal {
	var reset *tunnel.ResetError
	var ended *tunnel.SessionError
	var streamReset streamError
	switch {
	case errors.Is(err, errNoBackend), errors.Is(err, tunnel.ErrGoingAway):
		return noBackend
	case errors.Is(err, errNotHTTP2):
		return notHTTP2
	case errors.Is(err, errWaiting):
		return waiting
	case errors.Is(err, errRequestBody):
		return badBody
	case errors.Is(err, tunnel.ErrTooManyStreams):
		return overloaded
	case errors.Is(err, tunnel.ErrOpenTimeout):
		return slowConnect
	case errors.Is(err, errSilent):
		return silent
	case errors.Is(err, os.ErrDeadlineExceeded):
		return slowResponse
	case errors.As(err, &ended), errors.Is(err, tunnel.ErrClosed):
		var broken *brokenError
		if errors.As(err, &broken) {
			return brokeOff
		}
		return noBackend
	case errors.As(err, &reset):
		switch reset.Code {
		case tunnel.CodeRefused:
			return refused
		case tunnel.CodeTimeout:
			return slowConnect
		case tunnel.CodeUnreachable, tunnel.CodeNoUpstream:
			return unreachable
		case tunnel.CodeTLS:
			return untrusted
		case tunnel.CodeOverload:
			return overloaded
		}
		return brokeOff
	case errors.As(err, &streamReset), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return brokeOff
	}
	return malformed
}

// refuse sends an answer of our own. The visitor has got no other.
func (x *exchange) refuse(f refusal) {
	x.code = f.code
	h := x.w.Header()
	clear(h)
	if x.isGRPC() {
		x.refuseGRPC(f, x.failure)
		return
	}
	h["Content-Type"] = []string{"text/plain; charset=utf-8"}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Cache-Control"] = []string{"no-store"}
	if f.retry {
		h["Retry-After"] = []string{"5"}
	}
	if x.location != "" {
		h["Location"] = []string{x.location}
	}
	x.setHSTS(h)
	if x.retryAfter > 0 {
		h["Retry-After"] = []string{strconv.Itoa(int(math.Ceil(x.retryAfter.Seconds())))}
	}
	if len(x.challenges) > 0 {
		h["Www-Authenticate"] = x.challenges
	}
	if f == noConnect {
		h["Allow"] = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"}
	}
	if x.body.unread() && x.r.ProtoMajor == 1 {
		h["Connection"] = []string{"close"}
		x.linger()
	}
	x.w.WriteHeader(f.code)
	_, _ = x.write([]byte(strconv.Itoa(f.code) + " " + http.StatusText(f.code) + ": " + f.text + "\n"))
}
