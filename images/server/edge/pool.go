package edge

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

const (
	// idleStream is how long a stream is kept for the next request, and maxIdle how many
	// are for one upstream.
	idleStream = 60 * time.Second
	maxIdle    = 128
	// freshStream is how long a stream may have been idle to be used for a request that
	// cannot be sent again: an upstream that closes idle connections must not cost one.
	freshStream = time.Second
	// maxHead bounds an upstream's response head in bytes.
	maxHead = 256 << 10
	// readerSize is the buffer of a response while it is read.
	readerSize = 4 << 10
)

// conn is a stream that speaks HTTP/1.1 with an upstream.
type conn struct {
	st      *tunnel.Stream
	backend *routing.Backend
	br      *bufio.Reader // on the conn itself; only while in use
	reused  bool          // served a request before
	asked   bool          // the request was sent already
	ahead   []byte        // what was read already of the response
	head    int           // bytes that the response head may still have; negative: not in the head
	fault   error         // of the last read
	out     *exchange     // flushed before a read that has to wait; may be nil
	idle    time.Time     // since when
}

var errHeadTooLarge = errors.New("the upstream's response head is too large")

// Read reads from the stream for br, within the limit of the head.
func (c *conn) Read(p []byte) (int, error) {
	if c.head == 0 {
		return 0, errHeadTooLarge
	}
	if c.out != nil && len(c.ahead) == 0 && !c.st.Ready() {
		c.out.flush()
	}
	var n int
	if len(c.ahead) > 0 {
		n, c.fault = copy(p, c.ahead), nil
		if c.ahead = c.ahead[n:]; len(c.ahead) == 0 {
			c.ahead = nil
		}
	} else {
		n, c.fault = c.st.Read(p)
	}
	if c.head > 0 {
		c.head = max(c.head-n, 0)
	}
	return n, c.fault
}

var readerPool = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readerSize) }}

func (c *conn) attach() {
	c.br = readerPool.Get().(*bufio.Reader)
	c.br.Reset(c)
}

func (c *conn) detach() {
	c.br.Reset(nil)
	readerPool.Put(c.br)
	c.br = nil
}

// pool holds idle conns by backend. A backend whose session is gone is dropped by the
// next sweep.
type pool struct {
	mu   sync.Mutex
	idle map[*routing.Backend][]*conn
}

// get returns the conn that was used last, if it still works.
func (p *pool) get(b *routing.Backend, replayable bool) *conn {
	for {
		p.mu.Lock()
		list := p.idle[b]
		if len(list) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := list[len(list)-1]
		if !replayable && time.Since(c.idle) > freshStream {
			p.mu.Unlock()
			return nil
		}
		list[len(list)-1] = nil
		p.idle[b] = list[:len(list)-1]
		p.mu.Unlock()
		if !c.st.OnLane() && !c.st.Ready() { // neither ended nor bytes that nobody asked for
			c.reused = true
			return c
		}
		_ = c.st.Close()
	}
}

func (p *pool) put(c *conn) {
	p.mu.Lock()
	if p.idle == nil {
		p.idle = map[*routing.Backend][]*conn{}
	}
	list := p.idle[c.backend]
	// What comes unasked on a lane could not be seen, and lanes are few.
	keep := len(list) < maxIdle && !c.st.OnLane() && c.backend.Upstream.Proxy == 0 && !c.backend.Opener.Leaving()
	if keep {
		c.idle = time.Now()
		p.idle[c.backend] = append(list, c)
	}
	p.mu.Unlock()
	if !keep {
		_ = c.st.Close()
	}
}

// sweep closes what was idle for too long, has ended, or is on a session that is leaving.
func (p *pool) sweep(now time.Time) {
	var old []*conn
	p.mu.Lock()
	for b, list := range p.idle {
		kept := list[:0]
		for _, c := range list {
			if now.Sub(c.idle) > idleStream || c.st.Ready() || c.st.OnLane() || b.Opener.Leaving() {
				old = append(old, c)
			} else {
				kept = append(kept, c)
			}
		}
		clear(list[len(kept):])
		if p.idle[b] = kept; len(kept) == 0 {
			delete(p.idle, b)
		}
	}
	p.mu.Unlock()
	for _, c := range old {
		_ = c.st.Close()
	}
}

// connect returns an idle conn to the backend, unless a stream has broken under this
// request before, or opens one. An upstream that is told who the visitor is at the
// beginning of a connection gets one for each request.
func (x *exchange) connect(b *routing.Backend) (*conn, error) {
	e, target := x.e, tunnel.Target{Upstream: b.Index}
	if b.Upstream.Proxy != 0 {
		target.Visitor, target.Local = x.endpoints()
	} else if x.sent == 0 {
		if c := e.pool.get(b, x.replayable); c != nil {
			return c, nil
		}
	}
	ctx, cancel := context.WithTimeout(x.r.Context(), e.open)
	defer cancel()
	st, err := e.openStream(ctx, b, target)
	if err != nil {
		return nil, err
	}
	return &conn{st: st, backend: b}, nil
}

func (e *Edge) openStream(ctx context.Context, b *routing.Backend, target tunnel.Target) (*tunnel.Stream, error) {
	st, err := b.Opener.Open(ctx, target)
	if err != nil {
		e.metrics.openErrors.WithLabelValues(tunnel.OpenReason(err)).Inc()
		e.log.Debug().Err(err).Str("client_id", b.ClientID).Str("upstream", b.Upstream.String()).Msg("cannot open stream")
	}
	return st, err
}

// endpoints returns the visitor's address and the one they reached, for a PROXY header.
func (x *exchange) endpoints() (visitor, local string) {
	if addr, ok := x.r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		local = addr.String()
	}
	return x.visitor.address(x.r.RemoteAddr), local
}
