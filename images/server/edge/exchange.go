package edge

import (
	"errors"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// exchange is one request of a visitor on its way to an upstream, and the response on
// its way back.
type exchange struct {
	e       *Edge
	w       http.ResponseWriter
	r       *http.Request
	conn    *guardConn
	name    string // the matched route
	start   time.Time
	visitor visitor
	upgrade string // the protocol that the visitor asks for, or ""
	// location is where a refusal sends the visitor, or "".
	location string
	body     requestBody
	held     *heldBody // the body, for an upstream of HTTP/2; nil: none, or not yet

	unwatched  func() bool // see watch
	admission  admission
	challenges []string      // of a refusal
	retryAfter time.Duration // of a refusal, if its own is not meant

	replayable bool
	sent       int   // how often the head was sent
	code       int   // for the metrics
	failure    error // why it is refused, if it was tried

	backend  *routing.Backend // the last one that was tried
	written  int64            // bytes of the response's body
	upgraded bool             // the visit is not over with the exchange
}

// count notes an exchange that has ended, in the metrics and the access log.
func (x *exchange) count() {
	x.e.metrics.count(x.code, x.name, x.r.Method, time.Since(x.start))
	if x.e.visits != nil && !x.upgraded {
		x.visit().write(x.e.visits)
	}
}

const (
	copySize = 32 << 10
	// maxSent is how often a request is sent at most: one that makes its upstream fall
	// over must not go round.
	maxSent = 3
)

var (
	headPool = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}
	copyPool = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}
)

// run tries the route's backends in turn until one has answered, beginning with the conn on
// which the request was sent already, if c is not nil.
func (x *exchange) run(route *routing.Route, backends []*routing.Backend, c *conn) {
	x.visitor = x.e.visitorOf(x.r, x.conn.secure)
	x.upgrade = upgradeOf(x.r)
	x.replayable = isReplayable(x.r) && x.upgrade == ""
	x.admission.addr, _ = netip.ParseAddr(x.visitor.first)
	if !x.welcome() {
		if c != nil { // it was welcome just now, on the fast path
			c.st.Reset(tunnel.CodeCancelled, "the visitor may not visit any more")
		}
		return
	}

	err := errNoBackend
	if len(backends) == 0 && route.Waits() {
		err = errWaiting
	}
	for i := 0; i < len(backends) || c != nil; {
		if c == nil && !x.admits(backends[i]) { // whatever way the request is to take
			i++
			continue
		}
		again := false
		switch {
		case c == nil && backends[i].Upstream.SpeaksHTTP2():
			var shared *http2Conn
			if shared, err = x.connectHTTP2(backends[i]); err != nil {
				i++
				continue
			}
			again, err = x.overHTTP2(shared)
		case c == nil && x.held != nil: // an upstream of HTTP/2 had something of the body
			i++
			continue
		case c == nil:
			if c, err = x.connect(backends[i]); err != nil {
				i++
				continue
			}
			fallthrough
		default:
			reused := c.reused // others may have the conn when over returns
			err = x.over(c)
			again = reused && !errors.Is(err, errSilent) // an idle stream may just have been closed
		}
		if err == nil {
			return
		}
		if x.left() || !x.mayRepeat(err) {
			break
		}
		if !again {
			i++
		}
		c = nil
	}
	left := x.left()
	x.dropBody()
	if left {
		x.code = statusClientClosed
		panic(http.ErrAbortHandler) // or the server would send a 200, if the visitor has left only half
	}
	if x.turnedAway(err) {
		x.turnAway()
		return
	}
	x.failure = err
	x.refuse(refusalFor(err))
}

// left reports whether the visitor has gone. The request's context ends a little later
// than the stream, and also with cutBody.
func (x *exchange) left() bool {
	if x.r.ProtoMajor == 2 {
		return x.r.Context().Err() != nil
	}
	return x.conn.left.Load() || x.r.Context().Err() != nil && !x.body.stopped.Load()
}

// mayRepeat reports whether a request that failed may be sent again because it cannot
// have had an effect: nothing was sent, or it is idempotent, has no body, and the stream
// broke before anything was received.
func (x *exchange) mayRepeat(err error) bool {
	var broken *brokenError
	switch {
	case !errors.As(err, &broken):
		return false
	case broken.unsent:
		return true
	}
	return x.replayable && x.sent < maxSent && !broken.received && !errors.Is(err, os.ErrDeadlineExceeded)
}

// isReplayable reports whether sending the request twice is as good as once
// (RFC 9110 section 9.2.2).
func isReplayable(r *http.Request) bool {
	if r.ContentLength != 0 {
		return false
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// over carries the exchange over a conn. It returns an error only while the visitor has
// got nothing; afterwards a broken response breaks the visitor's connection, by a panic
// that the HTTP server knows, so that nobody takes a part for the whole.
func (x *exchange) over(c *conn) error {
	x.backend = c.backend
	x.watch(c.st)
	defer x.unwatch()
	c.attach()
	if !c.asked {
		if err := x.sendHead(c); err != nil {
			c.detach()
			return err
		}
		if x.r.ContentLength != 0 {
			x.startBody(c)
		}
	}
	c.asked = false
	resp, err := x.awaitResponse(c)
	if err != nil {
		received := c.head != maxHead
		c.st.Reset(tunnel.CodeCancelled, "the exchange failed")
		x.cutBody()
		c.detach()
		if x.body.fault {
			return errRequestBody
		}
		return &brokenError{err: err, received: received}
	}
	x.code = resp.StatusCode
	if resp.StatusCode == http.StatusSwitchingProtocols {
		x.switchProtocols(c, resp)
		return nil
	}
	if err := x.sendResponse(c, resp); err != nil {
		c.st.Reset(tunnel.CodeCancelled, "the response was not taken")
		x.cutBody()
		c.detach()
		x.breakOff(resp)
		return nil
	}
	sent := x.finishBody(func() { c.st.Reset(tunnel.CodeCancelled, "the response is complete") })
	idle := sent && !resp.Close && c.br.Buffered() == 0 && len(c.ahead) == 0
	c.detach()
	if x.unwatch() && idle {
		x.e.pool.put(c)
	} else {
		_ = c.st.Close()
	}
	return nil
}

// sendHead sends the head. An error means that nothing was sent; others show when the
// response is awaited: the upstream may have answered before it closed.
func (x *exchange) sendHead(c *conn) error {
	head := headPool.Get().(*[]byte)
	defer func() {
		if cap(*head) <= copySize { // a large one is not kept
			headPool.Put(head)
		}
	}()
	*head = appendHead((*head)[:0], x.r, &x.visitor, x.changes())
	n, err := c.st.Write(*head)
	if n == 0 {
		return &brokenError{err: err, unsent: true}
	}
	if x.sent++; x.sent > 1 {
		x.e.metrics.retries.Inc()
	}
	return nil
}
