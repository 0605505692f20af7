package edge

import (
	"io"
	"net/http"

	"golang.org/x/net/http/httpguts"
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
	x.w.WriteHeader(resp.StatusCode)
	clear(to)
}

// sendResponse passes the final response on. Before there is nothing more to read at
// once what was written is flushed, so that events and slow bodies arrive as they are
// sent.
func (x *exchange) sendResponse(c *conn, resp *http.Response) error {
	to := x.w.Header()
	copyHeader(to, resp.Header)
	announced := announcedTrailers(resp.Trailer)
	if len(announced) > 0 {
		to["Trailer"] = announced
	}
	if x.body.unread() {
		to["Connection"] = []string{"close"}
	}
	x.w.WriteHeader(resp.StatusCode)
	if resp.Body == http.NoBody || resp.ContentLength == 0 {
		return nil
	}
	c.out = x
	err := x.copyResponse(resp.Body)
	c.out = nil
	if err != nil {
		return err
	}
	x.setTrailers(resp.Trailer, announced)
	return nil
}

// copyResponse copies the body. A large buffer is taken once a small one was filled:
// responses that trickle, such as events, do not hold one.
func (x *exchange) copyResponse(body io.Reader) error {
	small := headPool.Get().(*[]byte)
	defer headPool.Put(small)
	buf := (*small)[:cap(*small)]
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := x.w.Write(buf[:n]); err != nil {
				return err
			}
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

func (x *exchange) flush() {
	x.w.(http.Flusher).Flush() // the next write will say what is wrong
}

func announcedTrailers(trailer http.Header) []string {
	var names []string
	for name := range trailer {
		if isTrailer(name) {
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
		case !isTrailer(name):
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

// isTrailer reports whether the field may stand behind a body (RFC 9110 section 6.5.1).
func isTrailer(name string) bool {
	return httpguts.ValidHeaderFieldName(name) && httpguts.ValidTrailerHeader(name)
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
