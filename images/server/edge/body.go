package edge

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

const (
	// continueWait is for upstreams that know no 100-continue (RFC 9110 section 10.1.1).
	continueWait = time.Second
	// lateBody is how long the upstream is sent what remains of a body after its response.
	lateBody = 500 * time.Millisecond
	// lingerTime is how long a visitor who still sends has to read the response before the
	// connection is closed: that resets it, and the response may be lost.
	lingerTime = time.Second
)

// requestBody is the body of a request on its way to the upstream, sent by a goroutine
// while the response may come back. A body that was not read to its end leaves the
// visitor's connection in the middle of a request: it must be closed.
type requestBody struct {
	done    chan struct{} // closed when the sending has ended; nil: nothing is sent
	goAhead chan struct{} // closed when the upstream wants the body; nil: it is sent at once
	once    sync.Once

	complete atomic.Bool  // all of it was read, before the last of it was sent
	sentAt   atomic.Int64 // when the upstream got all of it, in ns since 1970; 0: not yet
	stopped  atomic.Bool  // by cutBody
	read     atomic.Int64 // bytes that were read

	// Set before done is closed.
	err   error // why the upstream did not get all of it
	fault bool  // the visitor's side of it broke or is malformed

	// mu keeps interim responses apart, and behind it answered: the final one has begun.
	mu       sync.Mutex
	answered bool
}

// unread reports whether the visitor's connection is in the middle of the body.
func (b *requestBody) unread() bool {
	return b.done != nil && (b.stopped.Load() || !b.complete.Load())
}

// proceed tells that the upstream wants the body.
func (b *requestBody) proceed() {
	if b.goAhead != nil {
		b.once.Do(func() { close(b.goAhead) })
	}
}

// refuse tells that the final response has come, or none will: a body that the upstream
// has not asked for by then is not sent any more.
func (b *requestBody) refuse() {
	b.mu.Lock()
	b.answered = true
	b.mu.Unlock()
	b.proceed()
}

// startBody begins to send the body over c.
func (x *exchange) startBody(c *conn) {
	b := &x.body
	x.expectBody()
	go func() {
		defer close(b.done)
		b.err = x.sendBody(c)
		if b.fault { // so must be what the upstream gets
			c.st.Reset(tunnel.CodeCancelled, "the request broke off")
		}
		b.sentAt.Store(time.Now().UnixNano())
	}()
}

// expectBody is called before the body is read.
func (x *exchange) expectBody() {
	b := &x.body
	b.done = make(chan struct{})
	if len(x.r.Header["Expect"]) > 0 { // 100-continue: the server lets nothing else pass
		b.goAhead = make(chan struct{})
	}
	// The response may begin before the request's body has ended.
	_ = http.NewResponseController(x.w).EnableFullDuplex()
}

var errNotWanted = errors.New("the upstream did not want the body")

// sendBody sends the body by its length or, if that is not known, in chunks with what
// trailers there are.
func (x *exchange) sendBody(c *conn) error {
	if x.body.goAhead != nil && !x.awaitGoAhead() {
		return errNotWanted
	}
	buf := copyPool.Get().(*[]byte)
	defer copyPool.Put(buf)
	if x.r.ContentLength > 0 {
		return x.copyBody(c, *buf)
	}
	return x.copyChunks(c, *buf)
}

// awaitGoAhead waits until the upstream wants the body or seems to know nothing of
// asking, and reports whether the body is to be sent.
func (x *exchange) awaitGoAhead() bool {
	timer := time.NewTimer(continueWait)
	defer timer.Stop()
	select {
	case <-x.body.goAhead:
	case <-timer.C:
	case <-x.r.Context().Done():
		return false
	}
	x.body.mu.Lock()
	defer x.body.mu.Unlock()
	if x.body.answered {
		return false
	}
	// The server would say so with the first read, but not in step with interim responses.
	if x.r.ProtoAtLeast(1, 1) {
		x.w.WriteHeader(http.StatusContinue)
	}
	return true
}

func (x *exchange) readBody(p []byte) (int, error) {
	n, err := x.r.Body.Read(p)
	x.body.read.Add(int64(n))
	switch {
	case err == io.EOF:
		x.body.complete.Store(true)
	case err != nil && !x.body.stopped.Load():
		x.body.fault = true
	}
	return n, err
}

func (x *exchange) copyBody(c *conn, buf []byte) error {
	splice := x.r.ProtoMajor == 1
	var buffers tunnel.LaneBuffers
	defer buffers.Recycle()
	var large *tunnel.Buffer
	for n := 0; ; {
		if c.st.OnLane() {
			large = buffers.Next(n)
			buf = large.Body()
		}
		if splice {
			x.conn.into = nil
		}
		var err error
		if n, err = x.readBody(buf); n > 0 {
			if err := write(c.st, large, buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF { // which the server returns at the length and not before
			return nil
		}
		if err != nil {
			return err
		}
		// The server has read into buf: it holds nothing of the body, nor of what is behind it.
		if splice && x.conn.into == &buf[0] && c.st.Splices() {
			if splice, err = x.spliceBody(c, buf); err != nil {
				return err
			}
		}
	}
}

// write writes p, which is the beginning of large's body unless that is nil.
func write(st *tunnel.Stream, large *tunnel.Buffer, p []byte) error {
	var err error
	if large != nil {
		_, err = st.WriteBuffer(large, len(p))
	} else {
		_, err = st.Write(p)
	}
	return err
}

// spliceBody has the kernel send what is still to come of the body, and reports whether it
// could. The last byte it leaves: the upstream, which may answer at once, must not have it
// before the server knows that the body has ended.
func (x *exchange) spliceBody(c *conn, buf []byte) (bool, error) {
	left, err := x.conn.splice(c.st, x.r.ContentLength-x.body.read.Load())
	if left == 0 {
		return false, err
	}
	for left > 0 {
		n, err := x.readBody(buf[:min(left, int64(len(buf)))]) // of which nothing is in buf
		if err != nil {
			return false, err
		}
		left -= int64(n)
	}
	return true, err
}

// copyChunks writes each chunk with its size in one write. The size stands in a field
// of fixed width in front of the bytes: leading zeros are allowed (RFC 9112 section 7.1).
func (x *exchange) copyChunks(c *conn, buf []byte) error {
	const front = len("0000\r\n")
	for {
		n, err := x.readBody(buf[front : len(buf)-2])
		if n > 0 {
			putChunkSize(buf, n)
			copy(buf[front+n:], "\r\n")
			if _, err := c.st.Write(buf[:front+n+2]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	end := append(buf[:0], "0\r\n"...)
	for name, values := range x.r.Trailer {
		if passesTrailer(name) && !requestRules(x.backend).Drops(name) {
			end = appendField(end, name, values)
		}
	}
	_, err := c.st.Write(append(end, "\r\n"...))
	return err
}

// putChunkSize writes n in four digits and the end of the line.
func putChunkSize(buf []byte, n int) {
	const digits = "0123456789abcdef"
	for i := 3; i >= 0; i-- {
		buf[i] = digits[n&15]
		n >>= 4
	}
	copy(buf[4:], "\r\n")
}

// cutBody stops the sending, on a stream that has been reset. To the server that looks
// as if the visitor had left: the request's context ends.
func (x *exchange) cutBody() {
	b := &x.body
	if b.done == nil {
		return
	}
	select {
	case <-b.done:
		return
	default:
	}
	b.stopped.Store(true)
	b.refuse()
	_ = http.NewResponseController(x.w).SetReadDeadline(time.Unix(1, 0))
	<-b.done
}

// finishBody waits a moment for the rest of the body after the response has ended, and
// reports whether the upstream got all of it. If not, it stops the sending by abort.
func (x *exchange) finishBody(abort func()) bool {
	b := &x.body
	if b.done == nil {
		return true
	}
	select {
	case <-b.done:
	default:
		x.flush()
		timer := time.NewTimer(lateBody)
		defer timer.Stop()
		select {
		case <-b.done:
		case <-timer.C:
			abort()
			x.cutBody()
		}
	}
	x.linger()
	return b.err == nil
}

// linger gives a visitor who still sends some time to read the response: the server,
// which closes the connection then, first discards some of what comes.
func (x *exchange) linger() {
	if x.body.unread() && x.r.ProtoMajor == 1 {
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Now().Add(lingerTime))
	}
}

// contentLength appends the field that frames the body, if it has a length.
func appendContentLength(b []byte, n int64) []byte {
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, n, 10)
	return append(b, "\r\n"...)
}
