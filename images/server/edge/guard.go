package edge

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// guardListener puts a guard on every connection that it accepts.
type guardListener struct {
	net.Listener
	gate *gate
}

func (l guardListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guardConn{Conn: c, fast: fastConn{gate: l.gate}, blocks: blocks{left: len(preface)}}, nil
}

// Settle leaves everything to the HTTP server, for that to shut down in order.
func (l guardListener) Settle() { l.gate.settle() }

// guardConn reads along with the HTTP/1 server and refuses what two parsers could read
// in two ways, before the server's parser, which is more lenient, sees it: the
// framing of requests has to be beyond doubt when they are passed on to another server
// (request smuggling; RFC 9112 sections 2.2, 5.2, 6.1, 6.3 and 11.2). Lines end in CRLF,
// there are no folded lines, at most one Content-Length, which is a plain number, or
// one Transfer-Encoding, which is "chunked" and sent with HTTP/1.1, never both, and
// chunk sizes are plain.
//
// In place of the line that the guard refuses the server gets one that it refuses
// itself, and answers 400. An error from Read would do so too, but also cancel the
// request before, if that is still being served.
type guardConn struct {
	net.Conn
	guard   guard
	refusal string      // the part of refusedLine that the server has not read yet
	refused atomic.Bool // and not closed since
	secure  bool        // the visitor speaks TLS
	fast    fastConn
	opening opening
	cancels cancels
	left    atomic.Bool  // the visitor has
	head    int          // bytes of the head that is under way
	blocks  blocks       // the same in HTTP/2
	held    atomic.Int64 // see holdHead
	into    *byte        // where the last Read has put something
	spliced int64        // bytes of bodies, see splice
	told    int64        // how many of them the server has read

	mu     sync.Mutex
	stream *tunnel.Stream // see watch
}

// refusedLine is malformed wherever a line of a request may have come to: it ends what
// has come of the line with a bare CR and a NUL, and the head or the trailers with it.
const refusedLine = "\r\x00\r\n\r\n"

// ended is told of every error of a read.
func (c *guardConn) ended(err error) {
	if plain, ok := err.(tls.RecordHeaderError); ok && plain.Conn != nil {
		_, _ = io.WriteString(plain.Conn, notTLS)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) { // with which the server, or cutBody, ends a read
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left.Store(true)
	if c.stream != nil {
		c.stream.Reset(tunnel.CodeCancelled, "the visitor left")
	}
}

// watch has the stream reset when the visitor leaves, or has left already, until it is
// called again, with nil for none. The server, which reads ahead for that, cancels the
// request's context too, but to wait for that costs more.
func (c *guardConn) watch(st *tunnel.Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stream = st
	if st != nil && c.left.Load() {
		st.Reset(tunnel.CodeCancelled, "the visitor left")
	}
}

const notTLS = "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" +
	"400 Bad Request: this port speaks HTTPS, use https://\n"

func (c *guardConn) Read(p []byte) (int, error) {
	if n := min(c.spliced-c.told, int64(len(p))); n > 0 {
		c.told += n
		return int(n), nil
	}
	if len(p) > 0 {
		c.into = &p[0]
	}
	if c.guard.err == nil {
		n, err := c.next(p)
		framed := !c.opening.decided || c.opening.http2
		if !c.opening.decided && n > 0 && !c.opens(p[:n]) {
			return 0, io.EOF
		}
		ok := 0
		if framed && (!c.opening.decided || c.opening.http2) && !c.holdBlock(p[:n]) {
			c.guard.err = errHeads
			return 0, &net.OpError{Op: "read", Net: "tcp", Err: errHeads}
		}
		if c.opening.http2 {
			ok = n
		} else if c.guard.err == nil {
			ok = c.guard.check(p[:n])
			if c.guard.err == nil && !c.holdHead(n) {
				c.guard.err = errHeads
			}
			if c.guard.err == errHeads || c.guard.err == errFields {
				return 0, c.turnAway(c.guard.err)
			}
		}
		if c.guard.err == nil {
			if err != nil {
				c.ended(err)
			}
			return n, err
		}
		c.refusal = refusedLine
		c.refused.Store(true)
		if ok > 0 {
			return ok, nil
		}
	}
	n := copy(p, c.refusal)
	c.refusal = c.refusal[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Close closes the connection. A visitor that was refused and still sends gets a moment
// to read why: bytes that nobody has read reset the connection, and the response may be
// lost with it.
func (c *guardConn) Close() error {
	c.drop(c.fast.begun.Swap(nil))
	c.releaseHead()
	if c.refused.Swap(false) && c.CloseWrite() == nil {
		_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, c.Conn)
	}
	return c.Conn.Close()
}

// ReadFrom implements io.ReaderFrom, which the server looks for to write a body: what
// comes by lane goes to the socket without a detour.
func (c *guardConn) ReadFrom(src io.Reader) (int64, error) {
	if b, ok := src.(*laneBody); ok {
		n, err := b.st.PourTo(c.Conn, b.left)
		b.left -= n
		return n, err
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, src)
}

// splice sends what is still to come of a request's body by lane, where that goes without
// reading it, but for the last byte; left is what the server has not read of it. It returns
// how much was sent, and the stream's error. The server, which counts the bytes, has to read
// as many next: it gets none, but is told so.
func (c *guardConn) splice(st *tunnel.Stream, left int64) (int64, error) {
	if c.guard.err != nil || c.guard.state != guardBody || c.guard.length != left {
		return 0, nil
	}
	n, err := st.SpliceFrom(c.Conn, left-1)
	c.guard.length -= n
	c.spliced += n
	return n, err
}

// CloseWrite sends the end of what the server has to say. The server looks for it when
// it wants the visitor to read that before the connection is closed.
func (c *guardConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// NetConn returns the connection below.
func (c *guardConn) NetConn() net.Conn { return c.Conn }

// guard follows the framing of a sequence of requests.
type guard struct {
	state   guardState
	blank   bool // an empty line was the last
	err     error
	line    []byte // the beginning of a line that was cut by the end of a read
	http11  bool
	length  int64 // bytes of a body or a chunk that are still to come
	lengths int   // Content-Length lines of this head
	codings int   // Transfer-Encoding lines of this head
	fields  int   // lines of this head, or trailer
}

type guardState uint8

const (
	guardStart     guardState = iota // between messages
	guardHead                        // lines of a head
	guardBody                        // length bytes of a body
	guardChunkSize                   // the line before a chunk
	guardChunk                       // length bytes of a chunk
	guardChunkEnd                    // the CRLF behind it
	guardTrailer                     // lines behind the last chunk
)

// maxGuardLine bounds a line that the guard holds; the server's own limit for a head is
// smaller and answered by 431, so this only bounds chunk lines and trailers.
const maxGuardLine = 256 << 10

var (
	errBareLF   = errors.New("a line that does not end in CRLF")
	errBareCR   = errors.New("a line that begins with a bare CR")
	errFolded   = errors.New("a folded header line")
	errLength   = errors.New("Content-Length that is no single plain number")
	errCoding   = errors.New("Transfer-Encoding other than a single chunked")
	errFraming  = errors.New("Content-Length together with Transfer-Encoding")
	errChunk    = errors.New("malformed chunk")
	errLineSize = errors.New("line too long")
)

// check follows p. It returns len(p), or, with err set, the offset in p of the line
// that is to be refused, 0 if that began earlier.
func (g *guard) check(p []byte) int {
	for i := 0; i < len(p); {
		if g.state == guardBody || g.state == guardChunk {
			n := min(int64(len(p)-i), g.length)
			i += int(n)
			if g.length -= n; g.length == 0 {
				if g.state == guardBody {
					g.state = guardStart
				} else {
					g.state = guardChunkEnd
				}
			}
			continue
		}
		end := bytes.IndexByte(p[i:], '\n')
		if end < 0 {
			if len(g.line)+len(p)-i > maxGuardLine {
				g.err = errLineSize
				return i
			}
			g.line = append(g.line, p[i:]...)
			return len(p)
		}
		line := p[i : i+end]
		if len(g.line) > 0 {
			g.line = append(g.line, line...)
			line = g.line
		}
		if len(line) == 0 || line[len(line)-1] != '\r' {
			g.err = errBareLF
			return i
		}
		if g.err = g.takeLine(line[:len(line)-1]); g.err != nil {
			return i
		}
		i += end + 1
		if cap(g.line) > 4<<10 {
			g.line = nil
		}
		g.line = g.line[:0]
	}
	return len(p)
}

// underWay reports whether a head has begun and has not ended.
func (g *guard) underWay() bool {
	return g.state == guardHead || g.state == guardStart && len(g.line) > 0
}

// between reports whether nothing has come since the last message.
func (g *guard) between() bool { return g.state == guardStart && len(g.line) == 0 && !g.blank }

// takeLine acts on a line without its CRLF.
func (g *guard) takeLine(line []byte) error {
	switch g.state {
	case guardStart:
		if g.blank = len(line) == 0; g.blank {
			return nil // the server decides about empty lines between requests
		}
		if line[0] == '\r' { // which the server would skip behind a POST
			return errBareCR
		}
		g.http11 = bytes.HasSuffix(line, []byte(" HTTP/1.1"))
		g.lengths, g.codings, g.length, g.fields = 0, 0, 0, 0
		g.state = guardHead
	case guardHead:
		if len(line) == 0 {
			return g.headEnded()
		}
		if g.fields++; g.fields > maxFields {
			return errFields
		}
		return g.header(line)
	case guardChunkSize:
		return g.chunkSize(line)
	case guardChunkEnd:
		if len(line) != 0 {
			return errChunk
		}
		g.state = guardChunkSize
	case guardTrailer:
		if len(line) == 0 {
			g.state = guardStart
			return nil
		}
		if line[0] == ' ' || line[0] == '\t' {
			return errFolded
		}
	}
	return nil
}

func (g *guard) header(line []byte) error {
	if line[0] == ' ' || line[0] == '\t' {
		return errFolded
	}
	// Only names of these lengths matter; names with space before the colon and other
	// malformed ones are refused by the server.
	switch colon := bytes.IndexByte(line, ':'); colon {
	case len("content-length"):
		if !equalFold(line[:colon], "content-length") {
			return nil
		}
		n, ok := plainNumber(bytes.Trim(line[colon+1:], " \t"), 10)
		if g.lengths++; g.lengths > 1 || !ok {
			return errLength
		}
		g.length = n
	case len("transfer-encoding"):
		if !equalFold(line[:colon], "transfer-encoding") {
			return nil
		}
		if g.codings++; g.codings > 1 || !g.http11 || !equalFold(bytes.Trim(line[colon+1:], " \t"), "chunked") {
			return errCoding
		}
	}
	return nil
}

// equalFold reports whether text is lower, which is in lower case letters and dashes,
// in any case of ASCII: Unicode has more that folds to it.
func equalFold(text []byte, lower string) bool {
	if len(text) != len(lower) {
		return false
	}
	for i, c := range text {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func (g *guard) headEnded() error {
	switch {
	case g.codings > 0 && g.lengths > 0:
		return errFraming
	case g.codings > 0:
		g.state = guardChunkSize
	case g.length > 0:
		g.state = guardBody
	default:
		g.state = guardStart
	}
	return nil
}

func (g *guard) chunkSize(line []byte) error {
	size, _, _ := bytes.Cut(line, []byte{';'})
	n, ok := plainNumber(bytes.TrimRight(size, " \t"), 16)
	if !ok {
		return errChunk
	}
	if g.length = n; n == 0 {
		g.state = guardTrailer
	} else {
		g.state = guardChunk
	}
	return nil
}

// plainNumber parses digits and nothing else: no sign, no space, no underscore.
func plainNumber(text []byte, base int64) (n int64, ok bool) {
	if len(text) == 0 || len(text) > 18 {
		return 0, false
	}
	for _, c := range text {
		var d int64
		switch {
		case c >= '0' && c <= '9':
			d = int64(c - '0')
		case base == 16 && c >= 'a' && c <= 'f':
			d = int64(c-'a') + 10
		case base == 16 && c >= 'A' && c <= 'F':
			d = int64(c-'A') + 10
		default:
			return 0, false
		}
		if n >= 1<<58 {
			return 0, false
		}
		n = n*base + d
	}
	return n, true
}
