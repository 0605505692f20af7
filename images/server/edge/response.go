package edge

import (
	"io"
	"net/http"

	"golang.org/x/net/http/httpguts"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// sendInterim passes a 1xx response on. HTTP/1.0 has none (RFC 9110 section 15.2).
func (x *exchange) sendInterim(resp *http.Response) {
	if !x.r.ProtoAtLeast(1, 1) {
		return
	}
	x.body.mu.Lock()
	defer x.body.mu.Unlock()
	to := x.w.Header()
	copyHeader(to, resp.Header)
	for name := range to {
		if responseRules(x.backend).Drops(name) {
			delete(to, name)
		}
	}
	x.w.WriteHeader(resp.StatusCode)
	clear(to)
}

// sendResponse passes the final response on. Before there is nothing more to read at
// once what was written is flushed, so that events and slow bodies arrive as they are
// sent. A response of HTTP/2, for which c is nil, is flushed with every read.
func (x *exchange) sendResponse(c *conn, resp *http.Response) error {
	to := x.w.Header()
	copyHeader(to, resp.Header)
	responseRules(x.backend).Apply(to)
	x.setHSTS(to)
	announced := x.announcedTrailers(resp.Trailer)
	if len(announced) > 0 {
		to["Trailer"] = announced
		if x.r.ProtoMajor == 1 { // HTTP/1.1 has trailers behind chunks only, HTTP/2 with a length too
			delete(to, "Content-Length")
		}
	}
	if x.body.unread() && x.r.ProtoMajor == 1 {
		to["Connection"] = []string{"close"}
	}
	x.w.WriteHeader(resp.StatusCode)
	if resp.Body == http.NoBody || resp.ContentLength == 0 {
		return nil
	}
	if c != nil {
		c.out = x
		defer func() { c.out = nil }()
	}
	if err := x.copyResponse(c, resp); err != nil {
		return err
	}
	x.setTrailers(resp.Trailer, announced)
	return nil
}

// copyResponse copies the body. A large buffer is taken once a small one was filled:
// responses that trickle, such as events, do not hold one. A body of a length that is
// known and that comes by lane is moved by the kernel, where it can.
func (x *exchange) copyResponse(c *conn, resp *http.Response) error {
	var body io.Reader = resp.Body
	var length *io.LimitedReader
	switch {
	case c == nil:
		body = flushing{resp, x}
	case resp.ContentLength > 0:
		length = &io.LimitedReader{R: c.br, N: resp.ContentLength}
		body = length
	}
	small := headPool.Get().(*[]byte)
	defer headPool.Put(small)
	buf := (*small)[:cap(*small)]
	for {
		if length != nil && c.br.Buffered() == 0 && c.st.Pours() {
			n, err := x.pour(c, length.N)
			if length.N -= n; err != nil || length.N == 0 {
				return err
			}
		}
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := x.write(buf[:n]); err != nil {
				return err
			}
		}
		if length != nil && length.N == 0 {
			return nil
		}
		if err == io.EOF && length != nil {
			return io.ErrUnexpectedEOF
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n == len(buf) && n < copySize {
			large := copyPool.Get().(*[]byte)
			defer copyPool.Put(large)
			buf = *large
		}
	}
}

// pour has the HTTP server write bytes of the body that come by lane, see
// guardConn.ReadFrom. It may write less than all.
func (x *exchange) pour(c *conn, left int64) (int64, error) {
	to, ok := x.w.(io.ReaderFrom)
	if !ok {
		return 0, nil
	}
	n, err := to.ReadFrom(&laneBody{st: c.st, left: left})
	x.written += n
	return n, err
}

// laneBody is the rest of a body that comes by lane.
type laneBody struct {
	st   *tunnel.Stream
	left int64
}

// Read is how the server takes the first bytes, if it has not sent the head yet.
func (b *laneBody) Read(p []byte) (int, error) {
	if b.left == 0 || !b.st.Pours() {
		return 0, io.EOF
	}
	n, err := b.st.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// flushing is a response's body before each read of which what was written is flushed, the
// head too, unless that is all of it.
type flushing struct {
	resp *http.Response
	x    *exchange
}

func (f flushing) Read(p []byte) (int, error) {
	if f.x.written != f.resp.ContentLength {
		f.x.flush()
	}
	return f.resp.Body.Read(p)
}

func (x *exchange) flush() {
	x.w.(http.Flusher).Flush() // the next write will say what is wrong
}

func (x *exchange) announcedTrailers(trailer http.Header) []string {
	var names []string
	for name := range trailer {
		if x.isTrailer(name) {
			names = append(names, name)
		}
	}
	return names
}

// setTrailers hands the trailers to the server. It sends some that were not announced
// only behind a body in chunks, which is certain once something is flushed.
func (x *exchange) setTrailers(trailer http.Header, announced []string) {
	to, late := x.w.Header(), false
	for name, values := range trailer {
		switch {
		case !x.isTrailer(name):
		case contains(announced, name):
			to[name] = values
		default:
			to[http.TrailerPrefix+name] = values
			late = true
		}
	}
	if late {
		x.flush()
	}
}

// isTrailer reports whether the field may stand behind a body (RFC 9110 section 6.5.1), and
// is not to be removed.
func (x *exchange) isTrailer(name string) bool {
	return httpguts.ValidHeaderFieldName(name) && httpguts.ValidTrailerHeader(name) && !responseRules(x.backend).Drops(name)
}

// breakOff ends the visitor's connection in the middle of a response. When the end of
// the connection is what ends the response, which is so in HTTP/1.0, it takes a reset.
func (x *exchange) breakOff(resp *http.Response) {
	x.flush()
	if resp.ContentLength < 0 && !x.r.ProtoAtLeast(1, 1) {
		if conn, _, err := http.NewResponseController(x.w).Hijack(); err == nil {
			resetConn(conn)
			return
		}
	}
	panic(http.ErrAbortHandler)
}
