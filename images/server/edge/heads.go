package edge

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// A head that is under way takes the HTTP server about four times its bytes, and much more
// if it has many short fields, for up to ten seconds, and anybody may send one. So every
// head may cost freeHead; what it costs beyond that counts, together with all others that
// are under way, towards maxHeads; and it may have no more than maxFields lines, which is
// more than come with one read of the server: a head that is turned away is read alone.
const (
	freeHead  = 8 << 10
	maxHeads  = 16 << 20
	maxFields = 2000
	fieldCost = 96 // of a line beside its bytes
)

var (
	errFields = errors.New("a head of too many lines")
	errHeads  = errors.New("too many large heads are under way")
)

// heads are what the heads that are under way cost, as far as that counts.
type heads struct{ most, cost atomic.Int64 }

// holdHead counts n more bytes of the head that is under way, if one is, and reports false
// if there is no room for them.
func (c *guardConn) holdHead(n int) bool {
	if !c.guard.underWay() {
		c.head = 0
		c.releaseHead()
		return true
	}
	c.head += n
	return c.hold(c.head + fieldCost*c.guard.fields)
}

// holdBlock is holdHead for a connection of HTTP/2.
func (c *guardConn) holdBlock(p []byte) bool {
	n := c.blocks.check(p)
	if !c.blocks.open {
		c.head = 0
		c.releaseHead()
		return true
	}
	c.head += n
	return c.hold(blockCost * c.head)
}

// hold makes what the connection has counted the cost of its head, as far as that is not
// free, and reports whether there is room.
func (c *guardConn) hold(cost int) bool {
	more := int64(cost-freeHead) - c.held.Load()
	if more <= 0 {
		return true
	}
	h := &c.fast.edge.heads
	c.held.Add(more)
	return h.cost.Add(more) <= h.most.Load()
}

// releaseHead gives back what holdHead has counted.
func (c *guardConn) releaseHead() {
	if n := c.held.Swap(0); n > 0 {
		c.fast.edge.heads.cost.Add(-n)
	}
}

// turnAway answers in place of the server, which has none of the head, and returns what has
// the server close the connection without an answer of its own. What it said before is
// complete: it is reading the next request.
func (c *guardConn) turnAway(reason error) error {
	code, text := http.StatusServiceUnavailable, "too many requests with large headers are under way: try again"
	if reason == errFields {
		code, text = http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("the request has more than %d header lines", maxFields)
	}
	text = fmt.Sprintf("%d %s: %s\n", code, http.StatusText(code), text)
	c.refused.Store(true)
	c.fast.edge.metrics.count(code, unmatched, "", 0)
	_ = c.Conn.SetWriteDeadline(time.Now().Add(lingerTime))
	_, _ = io.WriteString(c.Conn, fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n%s",
		code, http.StatusText(code), len(text), retryLater(code), text))
	return &net.OpError{Op: "read", Net: "tcp", Err: reason}
}

func retryLater(code int) string {
	if code == http.StatusServiceUnavailable {
		return "Retry-After: 1\r\n"
	}
	return ""
}
