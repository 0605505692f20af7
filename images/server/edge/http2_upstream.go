package edge

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/route"
)

// HTTP/2 with upstreams: the client of package net/http over connections of http2Pool, which
// takes the body from heldBody. Which upstreams speak it is in their routes.

// attempt is a request under way on a connection of HTTP/2.
type attempt struct {
	interim chan *http.Response // 1xx on their way to the visitor
	done    chan struct{}       // closed when resp and err are set
	resp    *http.Response
	err     error
	written atomic.Bool // the head was
	heard   atomic.Bool // an interim response has come
}

// maxInterim is how many interim responses may wait for the visitor; more are dropped.
const maxInterim = 8

// trace has the attempt told of what happens before the response.
func (a *attempt) trace(body *requestBody) *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		WroteHeaders: func() { a.written.Store(true) },
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			a.heard.Store(true)
			switch code {
			case http.StatusContinue:
				body.proceed()
			case http.StatusSwitchingProtocols: // there is no such thing in HTTP/2 (RFC 9113 section 8.6)
			default:
				select { // the connection has other requests, and waits for no visitor
				case a.interim <- &http.Response{StatusCode: code, Header: http.Header(header)}:
				default:
				}
			}
			return nil
		},
	}
}

// overHTTP2 carries the exchange over a connection that has room for it, as over does, and
// reports whether the same upstream is worth another try if that fails.
func (x *exchange) overHTTP2(c *http2Conn) (again bool, err error) {
	defer x.e.http2.put(c)
	x.backend = c.backend
	used := x.e.http2.wasUsed(c)
	if x.sent++; x.sent > 1 {
		x.e.metrics.retries.Inc()
	}
	x.holdBody()
	a := &attempt{interim: make(chan *http.Response, maxInterim), done: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(x.r.Context())
	defer cancel(nil)
	req := x.requestHTTP2(c.backend.Upstream).WithContext(httptrace.WithClientTrace(ctx, a.trace(&x.body)))
	go func() {
		defer close(a.done)
		a.resp, a.err = c.RoundTrip(req)
	}()
	if err := x.awaitHTTP2(a, c, cancel); err != nil {
		if x.held.broken() {
			return false, errRequestBody
		}
		unsent := (!a.written.Load() || isUnprocessed(err)) && x.held.whole()
		broken := &brokenError{err: err, unsent: unsent, received: a.heard.Load()}
		return x.sent < maxSent && (unsent || used) && !errors.Is(err, errSilent), broken
	}
	defer a.resp.Body.Close()
	x.code = a.resp.StatusCode
	x.body.refuse()
	x.held.last()
	if err := x.sendResponse(nil, a.resp); err != nil {
		cancel(err)
		x.dropBody()
		if !x.endGRPC(a.resp, err) {
			x.breakOff(a.resp)
		}
		return false, nil
	}
	if x.isGRPC() {
		// With its status a call is over, whatever the visitor still has to say. The server
		// sends the end when we return: it must not wait, nor come apart from a head that is
		// all there is, and has the status.
		x.dropBody()
	} else {
		x.finishBody(x.held.close)
	}
	return false, nil
}

// awaitHTTP2 waits for the response, and passes interim ones on.
func (x *exchange) awaitHTTP2(a *attempt, c *http2Conn, cancel context.CancelCauseFunc) error {
	watch := x.watchdog(c.session)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		until, err := watch.next(time.Now())
		if err != nil {
			cancel(err)
			if <-a.done; a.err == nil {
				_ = a.resp.Body.Close()
			}
			return err
		}
		timer.Reset(time.Until(until))
		select {
		case resp := <-a.interim:
			x.sendInterim(resp)
		case <-timer.C:
		case <-a.done:
			for a.err == nil && len(a.interim) > 0 {
				x.sendInterim(<-a.interim)
			}
			if a.err == nil && (a.resp.StatusCode < 200 || a.resp.StatusCode > 999) {
				_ = a.resp.Body.Close()
				a.err = errors.New("a status code out of range")
			}
			if a.err == nil && !oneLength(a.resp.Header["Content-Length"]) {
				_ = a.resp.Body.Close()
				a.err = errors.New("a Content-Length that is no single number")
			}
			return a.err
		}
	}
}

// oneLength reports whether the lines of Content-Length are none, or one plain number. The
// client of package net/http lets others pass, with a length that it does not know: to a
// visitor of HTTP/1.1 they would frame the body, by two opinions (RFC 9112 section 6.3).
func oneLength(lines []string) bool {
	if len(lines) == 0 {
		return true
	}
	_, ok := plainNumber([]byte(lines[0]), 10)
	return ok && len(lines) == 1
}

// streamError is the reset of a stream of HTTP/2: what package net/http has errors.As
// recognise, by the names of the fields.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "stream reset" }

// goneAway is how package net/http calls that the upstream has taken no notice of a request,
// since it wants no more on this connection. It exports no name for it.
const goneAway = "http2: Transport received Server's graceful shutdown GOAWAY"

// isUnprocessed reports whether the upstream has said that it has done nothing about the
// request (RFC 9113 section 8.7).
func isUnprocessed(err error) bool {
	const refusedStream = 7
	var reset streamError
	return errors.As(err, &reset) && reset.Code == refusedStream || err.Error() == goneAway
}

// requestHTTP2 returns the request as the upstream gets it: what appendHead writes for one
// of HTTP/1.1.
func (x *exchange) requestHTTP2(u route.Upstream) *http.Request {
	r := x.r
	header := make(http.Header, len(r.Header)+6)
	named, c := connectionTokens(r.Header), x.changes()
	for name, values := range r.Header {
		if !c.drops(name, named) {
			header[name] = values
		}
	}
	for _, f := range c.rules.Fields() {
		header[f.Name] = append(header[f.Name][:len(header[f.Name]):len(header[f.Name])], f.Value)
	}
	if httpguts.HeaderValuesContainsToken(r.Header["Te"], "trailers") {
		header["Te"] = []string{"trailers"}
	}
	for line := range strings.Lines(string(appendForwarding(nil, &x.visitor))) {
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		header[name] = []string{value}
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = nil // or it would be Go's
	}
	req := &http.Request{Method: r.Method, URL: targetURL(r), Host: r.Host, Header: header}
	if u.Scheme == route.HTTPS {
		req.URL.Scheme = "https"
	}
	if c.host != "" {
		req.Host = c.host
	}
	if x.held != nil {
		req.ContentLength = r.ContentLength
		if req.ContentLength < 0 {
			req.Trailer = http.Header{}
			for _, name := range x.held.announced {
				if !c.rules.Drops(name) {
					req.Trailer[name] = nil
				}
			}
		}
		req.Body = x.held.newReader(req.Trailer, c.rules)
	}
	return req
}

// targetURL returns a URL that has the request target as the visitor wrote it.
func targetURL(r *http.Request) *url.URL {
	target := string(appendTarget(nil, r))
	if strings.HasPrefix(target, "//") { // in an opaque URL it would be an authority
		return &url.URL{Scheme: "http", Host: "upstream", Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}
	}
	return &url.URL{Scheme: "http", Host: "upstream", Opaque: target}
}

// connectHTTP2 returns a connection to the backend with room for the request.
func (x *exchange) connectHTTP2(b *routing.Backend) (*http2Conn, error) {
	return x.e.http2.get(x.r.Context(), b)
}
