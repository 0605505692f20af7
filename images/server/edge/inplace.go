package edge

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// inPlace passes responses on from within the reader of the session by which they come. The
// goroutine of the visitor's connection waits for their next request meanwhile: to wake it
// for the response costs as much as all else that is done for a request. It is for responses
// that are plain and come in one piece; whatever else comes, or does not within fastWait, or
// is not taken by the visitor's socket at once, wakes the goroutine, to go on as if it had
// waited itself.
//
// From offer to end the exchange is the session's. After that the goroutine finds it passed
// on, or has it back.
type inPlace struct {
	c     *guardConn
	to    tryWriter
	offer *tunnel.Offer

	upstream *conn
	route    *routing.Route
	backends []*routing.Backend
	start    time.Time

	response []byte // for the visitor, in a buffer of pool
	buf      *[]byte
	pool     *sync.Pool
	rest     []byte // of the response: what the goroutine is to write

	mu     sync.Mutex // held from Take to Taken
	state  inPlaceState
	called bool // the goroutine is, to look
}

type inPlaceState uint8

const (
	ours    inPlaceState = iota // the goroutine has the exchange
	offered                     // the session has it
	passed                      // it is over
)

// tryWriter is a connection that can be written to without waiting, as rawio.Conn is.
type tryWriter interface {
	TryWrite(p []byte) (int, error)
}

// offer leaves the response to be passed on in place, if it seems to be one for that. The
// caller has to wait, and to end it.
func (c *guardConn) offer(upstream *conn, route *routing.Route, backends []*routing.Backend, start time.Time) bool {
	f := &c.fast
	to, ok := c.Conn.(tryWriter)
	// The access log is written to where somebody may not read: a session must not wait for that.
	if !ok || f.parted || f.request.close || f.edge.visits != nil {
		return false
	}
	if f.inPlace == nil {
		f.inPlace = &inPlace{c: c, to: to}
		f.inPlace.offer = tunnel.NewOffer(f.inPlace)
	}
	a := f.inPlace
	a.upstream, a.route, a.backends, a.start = upstream, route, append(a.backends[:0], backends...), start
	a.turn(offered)
	if upstream.st.Offer(a.offer) {
		return true
	}
	a.turn(ours)
	a.forget()
	return false
}

// turn changes the state, and returns what it was.
func (a *inPlace) turn(to inPlaceState) (from inPlaceState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.called { // by another deadline
		a.c.fast.due = time.Time{}
	}
	from, a.state, a.called = a.state, to, false
	return from
}

// forget lets go of what belongs to others.
func (a *inPlace) forget() {
	clear(a.backends)
	a.upstream, a.route = nil, nil
}

// wait reads from the visitor. It returns without anything when the goroutine is called, or
// fastWait is over.
func (a *inPlace) wait(p []byte) (n int, err error) {
	f := &a.c.fast
	for wait := f.edge.fastWait; ; {
		a.mu.Lock()
		over := a.called || time.Since(a.start) >= wait
		if !over {
			f.within(a.c, a.start.Add(wait/2), wait/2)
		}
		a.mu.Unlock()
		if over {
			return 0, nil
		}
		n, err = a.c.Conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		f.due = time.Time{}
	}
}

// end ends the exchange. It reports false if the HTTP server has to go on with it.
func (a *inPlace) end() bool {
	defer a.forget()
	c := a.c
	if a.turn(ours) != passed {
		a.upstream.st.Withdraw()
		return c.finish(a.upstream, a.route, a.backends, a.start)
	}
	if a.rest != nil {
		if _, err := c.Conn.Write(a.rest); err != nil {
			c.fast.request.close = true
		}
		a.rest = nil
		c.fast.gate.leave()
	}
	return true
}

// Take implements tunnel.Taker.
func (a *inPlace) Take(p []byte) bool {
	a.mu.Lock()
	if a.state == offered && a.rewrite(p) {
		return true
	}
	a.mu.Unlock()
	return false
}

// rewrite makes the visitor's response of one that is complete.
func (a *inPlace) rewrite(came []byte) bool {
	a.pool = &headPool
	if a.buf = a.pool.Get().(*[]byte); fastRoom+len(came) > cap(*a.buf) {
		a.pool.Put(a.buf)
		a.pool = &copyPool
		a.buf = a.pool.Get().(*[]byte)
	}
	buf := (*a.buf)[:cap(*a.buf)]
	end := fastRoom + copy(buf[fastRoom:], came)
	p := &a.c.fast.response
	if end-fastRoom == len(came) && p.parse(buf[fastRoom:end]) == complete && p.bodyOf(buf[fastRoom+p.size:end]) == complete {
		a.response = a.c.rewrite(buf[:end])
	} else {
		a.c.fast.parted = true
	}
	if a.response == nil {
		a.recycle()
	}
	return a.response != nil
}

func (a *inPlace) recycle() {
	a.pool.Put(a.buf)
	a.response, a.buf = nil, nil
}

// Taken implements tunnel.Taker. The conn is there for the visitor's next request before the
// visitor has the response.
func (a *inPlace) Taken() {
	defer a.mu.Unlock()
	f := &a.c.fast
	f.edge.pool.put(a.upstream)
	a.c.count(a.upstream.backend, a.route, a.start)
	n, err := a.to.TryWrite(a.response)
	switch {
	case err != nil:
		f.request.close = true
	case n < len(a.response):
		a.rest = bytes.Clone(a.response[n:])
	}
	a.recycle()
	a.state = passed
	if a.rest == nil {
		f.gate.leave()
	}
	if a.rest != nil || f.request.close {
		a.callLocked()
	}
}

// Left implements tunnel.Taker.
func (a *inPlace) Left() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state == offered {
		a.callLocked()
	}
}

func (a *inPlace) callLocked() {
	a.called = true
	_ = a.c.Conn.SetReadDeadline(time.Unix(1, 0))
}
