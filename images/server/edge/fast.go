package edge

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// The fast path. Most requests are plain (plain.go), and their responses small, at once,
// and plain too. Such an exchange is carried from within the read with which the HTTP
// server waits for the next request of a connection: heads are rewritten as bytes, and
// nothing is parsed into maps. The HTTP server hears only of what the fast path does not
// take: it is given the bytes of the request, and if that has been sent to an upstream
// already, the exchange goes on where it stands (begun).
//
// Nothing is written to the visitor before the whole response is there, so that there is
// always a way back, and all that is difficult is in one place: streams that break,
// repeating, slow upstreams, visitors who leave, refusals.
//
// The first request of a connection goes the long way, after which the server takes
// the connection for idle, and closes it in the end, whatever passes here.
//
// Whatever does more with a request or a response than to pass it on belongs to the long
// way alone, and has Edge.passes report false for the routes that have it.
const (
	// fastWait bounds how long the fast path waits for a response: meanwhile it does not
	// notice that a visitor leaves.
	fastWait = 100 * time.Millisecond
	// fastBodyWait is how long it waits for the rest of a response whose head has come.
	fastBodyWait = 5 * time.Millisecond
	// fastRoom is what the head of a response may grow by.
	fastRoom = 256
	// idleTimeout is how long a connection may wait for its next request, longer than the
	// load balancers that reuse them (Heroku's router 90 s, AWS ALB 60 s). A deadline is set
	// anew only when it has idleSlack less to go.
	idleTimeout = 120 * time.Second
	idleSlack   = 10 * time.Second
)

// gate counts what is under way on the fast path of one listener.
type gate struct {
	shut  atomic.Bool
	count atomic.Int64
	empty chan struct{} // capacity 1: shut, and count is 0
}

func newGate() *gate { return &gate{empty: make(chan struct{}, 1)} }

// enter reports false if the gate is shut; else leave must follow.
func (g *gate) enter() bool {
	g.count.Add(1)
	if g.shut.Load() {
		g.leave()
		return false
	}
	return true
}

func (g *gate) leave() {
	if g.count.Add(-1) == 0 && g.shut.Load() {
		select {
		case g.empty <- struct{}{}:
		default:
		}
	}
}

// settle shuts the gate, and waits until all that is under way has ended, or is in the
// hands of the HTTP server. It does not wait for long for visitors who send requests and
// do not take the responses.
func (g *gate) settle() {
	g.shut.Store(true)
	timer := time.NewTimer(10 * fastWait)
	defer timer.Stop()
	for g.count.Load() > 0 {
		select {
		case <-g.empty:
		case <-timer.C:
			return
		}
	}
}

// begun is an exchange that has begun on the fast path.
type begun struct {
	c        *conn // on which the request was sent; nil: it was not
	route    *routing.Route
	backends []*routing.Backend // in their turn
	start    time.Time

	// The request, as far as it takes to know it again.
	method, target, host string
}

// handOver leaves the exchange that has begun to the HTTP server.
func (c *guardConn) handOver(upstream *conn, route *routing.Route, backends []*routing.Backend, start time.Time) {
	q := &c.fast.request
	c.drop(c.fast.begun.Swap(&begun{
		upstream, route, slices.Clone(backends), start, q.method, string(q.target), string(q.host),
	}))
}

// drop ends an exchange that the HTTP server has not taken up; b may be nil.
func (c *guardConn) drop(b *begun) {
	if b == nil {
		return
	}
	if b.c != nil {
		b.c.st.Reset(tunnel.CodeCancelled, "the request was not taken up")
	}
	c.fast.gate.leave()
}

// takeUp returns the exchange that the HTTP server is to go on with, or nil: then the
// request is new.
func (c *guardConn) takeUp(r *http.Request) *begun {
	if r.ProtoMajor != 1 {
		return nil
	}
	c.fast.served = true
	b := c.fast.begun.Swap(nil)
	if b == nil {
		return nil
	}
	if r.Method != b.method || r.RequestURI != b.target || r.Host != b.host {
		c.drop(b)
		return nil
	}
	if b.c != nil { // the body was sent with the head: here it is in the way of seeing the visitor leave
		_, _ = io.Copy(io.Discard, r.Body)
	}
	c.fast.gate.leave()
	return b
}

// fastConn is what the fast path knows about a visitor's connection.
type fastConn struct {
	edge   *Edge
	gate   *gate
	served bool                  // the HTTP server had a request
	begun  atomic.Pointer[begun] // for the HTTP server to go on with
	due    time.Time             // the deadline of reads, as far as it was set here

	inPlace *inPlace // nil: it was not used yet
	parted  bool     // the last response was not whole when it began to come

	request  plainRequest
	response plainResponse
	strips   bool // Authorization ends here, see admits

	addr    string // of the visitor; "" until it is known
	trusted bool   // it is a trusted proxy
	host    string // of the last request
	clean   string // the same as CleanHost has it
	fields  []byte // of forwarding, for that host; unless trusted
	visitor string // proper, with fields
	scheme  string // of theirs
}

// next reads for the HTTP server, and before that serves plain requests. p is the
// server's buffer, and holds them meanwhile.
func (c *guardConn) next(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	// The server reads single bytes while it serves a request, from another goroutine.
	if len(p) == 1 || !c.fast.served || !c.guard.between() {
		return n, err
	}
	posted := false
	c.fast.due = time.Time{} // the server has set another
	for err == nil {
		if rest, ok := bytes.CutPrefix(p[:n], []byte("\r\n")); ok && posted {
			n, posted = copy(p, rest), false // as the server forgives it, which knows nothing of this POST
		}
		if n > 0 {
			size, offered := c.serve(p[:n], n < len(p))
			if offered {
				var more int
				more, err = c.fast.inPlace.wait(p[n:])
				if n += more; !c.fast.inPlace.end() {
					size = 0
				}
			}
			if size == 0 {
				return n, nil // an error will come again
			}
			if c.fast.request.close {
				return 0, io.EOF
			}
			posted = c.fast.request.method == http.MethodPost
			if n = copy(p, p[size:n]); n > 0 {
				continue
			}
		}
		if err != nil {
			break
		}
		c.fast.within(c, time.Now().Add(idleTimeout), idleSlack)
		n, err = c.Conn.Read(p)
	}
	return n, err
}

// within has a read end at the time, or up to slack later, unless it is set so already.
func (f *fastConn) within(c *guardConn, at time.Time, slack time.Duration) {
	if f.due.Before(at) || f.due.After(at.Add(slack)) {
		f.due = at.Add(slack)
		_ = c.Conn.SetReadDeadline(f.due)
	}
}

// serve serves the request at the beginning of b and returns its size, or 0 if the HTTP
// server has to do it. It may leave the response to inPlace, if there is space for that, and
// the rest to its caller.
func (c *guardConn) serve(b []byte, space bool) (size int, offered bool) {
	f := &c.fast
	q := &f.request
	if !q.parse(b) || !f.gate.enter() {
		return 0, false
	}
	start := time.Now()
	route := c.match()
	if route == nil {
		f.gate.leave()
		return 0, false
	}
	var backendRoom [8]*routing.Backend
	backends := route.AppendBackends(backendRoom[:0])
	var upstream *conn
	if len(backends) > 0 && c.admits(backends[0]) {
		upstream = f.edge.pool.get(backends[0], q.replayable())
	}
	if upstream == nil || !c.ask(upstream) {
		c.handOver(nil, route, backends, start)
		return 0, false
	}
	size = len(q.head) + len(q.body)
	if space && size == len(b) && c.offer(upstream, route, backends, start) {
		return size, true
	}
	if !c.finish(upstream, route, backends, start) {
		return 0, false
	}
	return size, false
}

// ask sends the request, or closes the stream.
func (c *guardConn) ask(upstream *conn) bool {
	room := headPool.Get().(*[]byte)
	*room = c.appendRequest((*room)[:0], upstream.backend.Upstream.RewriteHost)
	n, _ := upstream.st.Write(*room)
	if cap(*room) <= copySize {
		headPool.Put(room)
	}
	if n == 0 {
		_ = upstream.st.Close()
	}
	return n > 0
}

// finish waits for the response and passes it on. It reports false if the HTTP server has to
// go on.
func (c *guardConn) finish(upstream *conn, route *routing.Route, backends []*routing.Backend, start time.Time) bool {
	room := headPool.Get().(*[]byte)
	defer headPool.Put(room)
	response, large := c.await(upstream, (*room)[:cap(*room)], start)
	if large != nil {
		defer copyPool.Put(large)
	}
	if response == nil {
		upstream.asked = true
		c.handOver(upstream, route, backends, start)
		return false
	}
	c.fast.edge.pool.put(upstream)
	if _, err := c.Conn.Write(response); err != nil {
		c.fast.request.close = true
	}
	c.count(upstream.backend, route, start)
	c.fast.gate.leave()
	return true
}

// count notes an exchange that has ended, in the metrics and the access log.
func (c *guardConn) count(backend *routing.Backend, route *routing.Route, start time.Time) {
	e := c.fast.edge
	e.metrics.count(c.fast.response.code, route.Name(), c.fast.request.method, time.Since(start))
	if e.visits != nil {
		c.visit(route, backend, start).write(e.visits)
	}
}

// passes reports whether requests for a clean path of the route may take the fast path. It
// is the one place to say no for whatever is done by ServeHTTP, or around it, alone.
func (e *Edge) passes(path string, route *routing.Route) bool {
	return route != nil && (e.reserved == nil || !e.reserved(path))
}

// match finds the route of the request. It returns nil when there is more to be decided.
func (c *guardConn) match() *routing.Route {
	f := &c.fast
	q, e := &f.request, f.edge
	if string(q.host) != f.host {
		host := string(q.host)
		clean, err := routing.CleanHost(host)
		if err != nil || !httpguts.ValidHostHeader(host) {
			return nil
		}
		f.host, f.clean, f.fields = host, clean, nil
	}
	path := string(q.path)
	if odd(path) {
		return nil
	}
	path = cleanPath(path)
	route := e.table.Match(f.clean, path)
	if !e.passes(path, route) || e.https.Redirect != nil && !c.fastHTTPS() {
		return nil
	}
	return route
}

// appendRequest appends what the upstream gets: the head as appendHead would write it, but
// for the order and spelling of the fields, and the body.
func (c *guardConn) appendRequest(b []byte, rewriteHost string) []byte {
	f := &c.fast
	q := &f.request
	b = append(b, q.line...)
	b = append(b, "Host: "...)
	if rewriteHost != "" {
		b = append(b, rewriteHost...)
	} else {
		b = append(b, q.host...)
	}
	b = append(b, "\r\n"...)
	b = q.lines.appendTo(b, q.head)
	if !f.strips {
		b = append(b, q.authorizationLine...)
	}
	if c.recognise(); f.fields == nil || f.trusted {
		v := c.fastVisitor()
		f.fields = appendForwarding(f.fields[:0], &v)
		f.visitor, f.scheme = v.first, v.proto
	}
	b = append(b, f.fields...)
	b = append(b, "\r\n"...)
	return append(b, q.body...)
}

// recognise looks at who is at the other end of the connection.
func (c *guardConn) recognise() {
	if f := &c.fast; f.addr == "" {
		f.addr = hostOnly(c.RemoteAddr().String())
		f.trusted = f.edge.trustsAddr(f.addr)
	}
}

// fastVisitor returns who makes the request.
func (c *guardConn) fastVisitor() visitor {
	f := &c.fast
	c.recognise()
	v := visitorAt(f.addr, f.host, c.secure)
	if f.trusted {
		f.edge.believe(&v, f.request.told.said())
	}
	return v
}

// fastHTTPS reports whether the visitor who makes the request comes over HTTPS.
func (c *guardConn) fastHTTPS() bool {
	if c.recognise(); !c.fast.trusted {
		return c.secure
	}
	v := c.fastVisitor()
	return v.proto == "https"
}

// await waits for the response in buf, or in a buffer of copyPool if that is too small,
// which it returns too. The response is as the visitor is to get it, or nil if the HTTP
// server has to go on; then the conn has what has come.
func (c *guardConn) await(upstream *conn, buf []byte, start time.Time) (response []byte, large *[]byte) {
	e, p := c.fast.edge, &c.fast.response
	_ = upstream.st.SetReadDeadline(start.Add(e.fastWait))
	end, headed := fastRoom, false
	c.fast.parted = false
	for {
		n, err := upstream.st.Read(buf[end:])
		end += n
		came := buf[fastRoom:end]
		state := partial
		if !headed {
			state = p.parse(came)
			if headed = state == complete; headed {
				_ = upstream.st.SetReadDeadline(time.Now().Add(fastBodyWait))
			}
		}
		if headed {
			if state = p.bodyOf(came[p.size:]); state == complete {
				if response = c.rewrite(buf[:end]); response != nil {
					return response, large
				}
				state = unusual
			}
		}
		if err != nil || state == unusual || end == len(buf) && large != nil {
			upstream.ahead = bytes.Clone(came)
			return nil, large
		}
		if end == len(buf) {
			large = copyPool.Get().(*[]byte)
			copy(*large, buf)
			buf = *large
		}
		c.fast.parted = c.fast.parted || !upstream.st.Ready()
	}
}

// rewrite puts the head of a response that the visitor is to get in place of the one that
// has come. It returns nil if there is no room for it.
func (c *guardConn) rewrite(buf []byte) []byte {
	p, came := &c.fast.response, buf[fastRoom:]
	room := headPool.Get().(*[]byte)
	defer headPool.Put(room)
	head := append((*room)[:0], "HTTP/1.1 "...)
	head = append(head, came[len("HTTP/1.1 "):len("HTTP/1.1 200")]...)
	head = append(head, ' ')
	head = append(head, p.text...)
	head = append(head, "\r\n"...)
	head = p.lines.appendTo(head, came)
	if !p.hasDate {
		head = append(head, "Date: "...)
		head = time.Now().UTC().AppendFormat(head, http.TimeFormat)
		head = append(head, "\r\n"...)
	}
	if hsts := c.fast.edge.https.HSTS; hsts != "" && !p.hasHSTS && c.fastHTTPS() {
		head = append(head, "Strict-Transport-Security: "...)
		head = append(head, hsts...)
		head = append(head, "\r\n"...)
	}
	if c.fast.gate.shut.Load() {
		c.fast.request.close = true
	}
	if c.fast.request.close {
		head = append(head, "Connection: close\r\n"...)
	}
	head = append(head, "\r\n"...)
	from := fastRoom + p.size - len(head)
	if from < 0 || cap(head) > cap(*room) {
		return nil
	}
	return buf[from : from+copy(buf[from:], head)+len(came)-p.size]
}
