package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// HTTP/2 to visitors is served by package net/http: over TLS where ALPN has chosen it, and
// on a plain port, if Config.H2C says so, to visitors who begin with it. Never by Upgrade,
// which would carry requests past every check.
//
// The server sees a guardConn and no TLS, and recognises HTTP/2 by its preface. opens
// holds connections to what was negotiated, and takes the guard away, which knows
// HTTP/1 only: framing is beyond doubt in HTTP/2, and what could become doubtful on the way
// to an upstream of HTTP/1.1 is refused by checkHTTP2.

// preface begins every connection of HTTP/2 (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// prefaceLine is how much of it the server reads before it takes anything for HTTP/2.
const prefaceLine = len("PRI * HTTP/2.0")

// speakHTTP2 sets srv up for HTTP/2, with what its connections are told apart by.
func (e *Edge) speakHTTP2(srv *http.Server, secure bool) {
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(secure || e.h2c)
	srv.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams: e.maxRequests,
		CountError:           func(kind string) { e.metrics.http2Errors.WithLabelValues(kind).Inc() },
	}
}

// opening is what a visitor's connection has begun with.
type opening struct {
	h2c     bool // HTTP/2 is served without TLS
	http2   bool // the preface has come
	decided bool
	matched int // bytes of the preface that have come
}

var errNotNegotiated = errors.New("HTTP/2 that was not negotiated")

// opens looks at what the server reads until it is clear what the connection speaks. It
// returns false if that is not what was negotiated, and nothing can be answered.
func (c *guardConn) opens(p []byte) bool {
	b := &c.opening
	n := min(len(p), len(preface)-b.matched)
	if string(p[:n]) == preface[b.matched:b.matched+n] {
		b.matched += n
	} else {
		b.decided = true
	}
	negotiated := false
	if secure, ok := c.Conn.(*tls.Conn); ok {
		negotiated = secure.ConnectionState().NegotiatedProtocol == "h2"
	}
	switch {
	case b.decided && negotiated:
		c.guard.err = errNotNegotiated
		return false
	case b.decided:
	case !negotiated && (c.secure || !b.h2c):
		if b.matched >= prefaceLine && c.secure {
			c.guard.err = errNotNegotiated // RFC 9113 section 3.2
		}
		b.decided = b.matched >= prefaceLine
	case b.matched == len(preface):
		b.decided, b.http2 = true, true
	}
	return true
}

// checkHTTP2 refuses what net/http takes from HTTP/2 and must not get into a head of
// HTTP/1.1, or is malformed by RFC 9113 section 8.
func checkHTTP2(r *http.Request) (refusal, bool) {
	length := r.Header["Content-Length"]
	switch {
	case !httpguts.ValidHeaderFieldName(r.Method):
		return badMethod, false
	case r.Host == "" || slices.ContainsFunc(r.Header["Host"], func(h string) bool { return h != r.Host }): // section 8.3.1
		return badHost, false
	case !isPath(r.RequestURI) && r.Method != http.MethodConnect:
		return badTarget, false
	case len(r.Header["Expect"]) > 0: // 100-continue is answered by the server, with the first read of the body
		return badExpectation, false
	case len(length) > 0:
		n, ok := plainNumber([]byte(length[0]), 10)
		if !ok || len(length) > 1 || n != r.ContentLength { // section 8.1.1
			return badBody, false
		}
	}
	return refusal{}, true
}

// isPath reports whether a :path is one that may stand in a request line (section 8.3.1).
func isPath(path string) bool {
	return (strings.HasPrefix(path, "/") || path == "*") &&
		strings.IndexFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f }) < 0
}

// watch has the stream reset when the visitor leaves, or has left already, until unwatch.
func (x *exchange) watch(st *tunnel.Stream) {
	if x.r.ProtoMajor == 1 {
		x.conn.watch(st)
		return
	}
	x.unwatched = context.AfterFunc(x.r.Context(), func() { st.Reset(tunnel.CodeCancelled, "the visitor left") })
}

// unwatch reports whether the visitor has not left.
func (x *exchange) unwatch() bool {
	if x.r.ProtoMajor == 1 {
		x.conn.watch(nil)
		return true
	}
	return x.unwatched()
}

// What visitors of HTTP/2 may cancel: each request that they do costs more than it costs
// them (CVE-2023-44487). A connection may have cancelBurst at once, or four times what may
// be under way if that is more, and cancelRate in a second all the time.
const (
	cancelBurst = 1000
	cancelRate  = 100
)

// cancels counts the requests of one connection that were cancelled.
type cancels struct {
	mu    sync.Mutex
	spent float64
	at    time.Time
}

// spend reports whether there have not been too many.
func (c *cancels) spend(now time.Time, burst int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spent = max(0, c.spent-now.Sub(c.at).Seconds()*cancelRate) + 1
	c.at = now
	return c.spent <= float64(burst)
}

// calm closes the connection of a visitor of HTTP/2 who cancels too much.
func (x *exchange) calm() {
	if x.r.ProtoMajor != 2 || x.r.Context().Err() == nil {
		return
	}
	if !x.conn.cancels.spend(time.Now(), max(cancelBurst, 4*x.e.maxRequests)) {
		x.e.metrics.http2Errors.WithLabelValues("too_many_cancelled").Inc()
		_ = x.conn.Conn.Close()
	}
}
