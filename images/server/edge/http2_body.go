package edge

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/adit-tunnel/adit/shared/access"
)

// maxHeld is how much of a body is kept for another attempt: the message of a call of gRPC,
// say.
const maxHeld = 16 << 10

// heldBody passes a request's body on to whoever reads it: the HTTP/2 client, which may
// have to begin again. Nothing is read ahead.
type heldBody struct {
	announced []string // trailers

	mu      sync.Mutex
	moved   sync.Cond
	chunk   []byte      // has come and was not taken yet; the pump's
	err     error       // io.EOF behind the last of it, or why there is no more
	trailer http.Header // with io.EOF
	kept    []byte      // all that was taken, while that is little
	lost    bool        // it was more
	reader  *heldReader // of the latest attempt
	final   bool        // there is no other attempt
	closed  bool        // nobody takes any more
}

// holdBody begins to read the request's body, once.
func (x *exchange) holdBody() {
	b := &x.body
	if x.held != nil || x.r.ContentLength == 0 {
		return
	}
	x.held = new(heldBody)
	for name := range x.r.Trailer { // from now on the reading of the body has the map
		if passesTrailer(name) {
			x.held.announced = append(x.held.announced, name)
		}
	}
	x.held.moved.L = &x.held.mu
	x.expectBody()
	go func() {
		defer close(b.done)
		b.err = x.pumpBody()
		b.sentAt.Store(time.Now().UnixNano())
	}()
}

func passesTrailer(name string) bool {
	return httpguts.ValidHeaderFieldName(name) && httpguts.ValidTrailerHeader(name) && !isForwarding(name)
}

// pumpBody returns why not all was taken.
func (x *exchange) pumpBody() error {
	if x.body.goAhead != nil && !x.awaitGoAhead() {
		return errNotWanted
	}
	buf := copyPool.Get().(*[]byte)
	defer copyPool.Put(buf)
	for {
		n, err := x.readBody(*buf)
		if n > 0 && !x.held.put((*buf)[:n]) {
			return errNotWanted
		}
		if err == nil {
			continue
		}
		x.held.end(err, x.r.Trailer)
		if err == io.EOF {
			return nil
		}
		return err
	}
}

// put waits until p was taken, and reports whether it was.
func (b *heldBody) put(p []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chunk = p
	b.moved.Broadcast()
	for len(b.chunk) > 0 && !b.closed {
		b.moved.Wait()
	}
	b.chunk = nil
	return !b.closed
}

func (b *heldBody) end(err error, trailer http.Header) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err, b.trailer = err, trailer
	b.moved.Broadcast()
}

// close has nobody take any more. A nil heldBody has nothing to be taken, here and below.
func (b *heldBody) close() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.moved.Broadcast()
}

// newReader begins another attempt. The one before it is over.
func (b *heldBody) newReader(trailer http.Header, rules *access.Rules) *heldReader {
	r := &heldReader{b: b, trailer: trailer, rules: rules}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reader = r
	return r
}

// last tells that there is no further attempt than the latest, which may have to read what
// is kept yet: an upstream may answer before it has got anything of the body.
func (b *heldBody) last() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.final, b.lost = true, true
	b.letGoLocked()
}

// letGoLocked drops what is kept when nobody reads it again.
func (b *heldBody) letGoLocked() {
	if r := b.reader; b.final && (r == nil || r.closed || r.at >= len(b.kept)) {
		b.kept = nil
	}
}

// whole reports whether another attempt can have all of it.
func (b *heldBody) whole() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.lost
}

// broken reports whether the visitor's side of it broke.
func (b *heldBody) broken() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil && b.err != io.EOF && !errors.Is(b.err, os.ErrDeadlineExceeded)
}

// heldReader reads the body from its beginning, for one attempt.
type heldReader struct {
	b       *heldBody
	trailer http.Header // of the attempt's request, set at the end; nil if it can have none
	rules   *access.Rules
	at      int // in what is kept
	closed  bool
}

func (r *heldReader) Read(p []byte) (int, error) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case r.closed, b.closed:
			return 0, errNotWanted
		case r.at < len(b.kept):
			n := copy(p, b.kept[r.at:])
			r.at += n
			b.letGoLocked()
			return n, nil
		case len(b.chunk) > 0:
			n := copy(p, b.chunk)
			b.chunk = b.chunk[n:]
			if b.lost = b.lost || len(b.kept)+n > maxHeld; b.lost {
				b.kept = nil
			} else {
				b.kept = append(b.kept, p[:n]...)
				r.at = len(b.kept)
			}
			b.moved.Broadcast()
			return n, nil
		case b.err != nil:
			for name, values := range b.trailer {
				if r.trailer != nil && passesTrailer(name) && !r.rules.Drops(name) {
					r.trailer[name] = values
				}
			}
			return 0, b.err
		}
		b.moved.Wait()
	}
}

// Close ends the attempt's interest in the body.
func (r *heldReader) Close() error {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.closed = true
	r.b.closed = r.b.closed || r.b.final
	r.b.letGoLocked()
	r.b.moved.Broadcast()
	return nil
}

// dropBody ends the reading of a body that nobody takes any more.
func (x *exchange) dropBody() {
	if x.held != nil {
		x.held.close()
		x.cutBody()
	}
}
