package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

const (
	// http2Window is what the upstream may send of one response that the visitor has not
	// taken: the most that a slow visitor's request holds here.
	http2Window = 512 << 10
	// http2Silence is how long a connection with requests may be silent before it is asked for
	// a sign of life. That a session is alive is seen to by its own pings, and servers of
	// gRPC hang up on clients who ask more often than every 5 minutes.
	http2Silence = 6 * time.Minute
)

// http2Pool holds connections of HTTP/2 to upstreams, each over one stream, which the
// requests of all visitors share. A second one to the same upstream is opened when the
// first has as many requests as the upstream takes.
type http2Pool struct {
	transport *http.Transport
	edge      *Edge
	limit     int // of requests to one upstream; 0: none

	mu       sync.Mutex
	backends map[*routing.Backend]*http2Backend
	closed   bool
	dialing  sync.WaitGroup
}

type http2Backend struct {
	conns    []*http2Conn
	dial     *http2Dial // nil: none is under way
	requests int
}

// http2Dial is a connection that is being made, for all requests that wait for one.
type http2Dial struct {
	done chan struct{} // closed at its end
	conn *http2Conn
	err  error // why there is none
}

// http2Conn is a connection to an upstream.
type http2Conn struct {
	*http.ClientConn
	backend *routing.Backend
	session *tunnel.Session
	taken   bool      // a request has had room on it; the pool's lock guards it, as what follows
	used    bool      // a request was sent over it
	idle    time.Time // when the last request ended
}

func (e *Edge) newHTTP2Pool(limit int) *http2Pool {
	p := &http2Pool{edge: e, limit: limit, backends: map[*routing.Backend]*http2Backend{}}
	p.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctx.Value(streamKey).(net.Conn), nil
		},
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHead,
		Protocols:              new(http.Protocols),
		HTTP2:                  &http.HTTP2Config{MaxReceiveBufferPerStream: http2Window, SendPingTimeout: http2Silence},
	}
	p.transport.Protocols.SetUnencryptedHTTP2(true) // TLS is the client's business
	return p
}

// get returns a connection with room for one request, which is the caller's: one call of
// RoundTrip and then put must follow. It waits for a connection that is being made.
func (p *http2Pool) get(ctx context.Context, b *routing.Backend) (*http2Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hb := p.backends[b]
	if hb == nil {
		hb = &http2Backend{}
		p.backends[b] = hb
	}
	if p.limit > 0 && hb.requests >= p.limit {
		return nil, tunnel.ErrTooManyStreams
	}
	hb.requests++
	c, err := p.reserveLocked(ctx, b, hb)
	if err != nil {
		hb.requests--
		p.forgetLocked(b, hb)
	}
	return c, err
}

// reserveLocked lets go of the lock while it waits. It dials again only after a connection
// on which others found room: an upstream that takes nobody would be dialled without end.
func (p *http2Pool) reserveLocked(ctx context.Context, b *routing.Backend, hb *http2Backend) (*http2Conn, error) {
	var made *http2Conn // the last one that was waited for
	for {
		switch {
		case p.closed:
			return nil, tunnel.ErrClosed
		case b.Opener.Leaving():
			return nil, tunnel.ErrGoingAway
		}
		for _, c := range hb.conns {
			if c.Reserve() == nil {
				c.taken = true
				return c, nil
			}
		}
		if made != nil && !made.taken {
			return nil, tunnel.ErrTooManyStreams
		}
		if hb.dial == nil {
			hb.dial = &http2Dial{done: make(chan struct{})}
			d := hb.dial
			p.dialing.Go(func() { p.dial(b, hb, d) })
		}
		d := hb.dial
		p.mu.Unlock()
		var err error
		select {
		case <-d.done:
			err = d.err
		case <-ctx.Done():
			err = ctx.Err()
		}
		p.mu.Lock()
		if err != nil {
			return nil, err
		}
		made = d.conn
	}
}

// put ends a request. The connection may have more of them.
func (p *http2Pool) put(c *http2Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hb := p.backends[c.backend]
	hb.requests--
	c.idle = time.Now()
	p.forgetLocked(c.backend, hb)
}

// wasUsed reports whether the connection had a request before, and notes that it has now.
func (p *http2Pool) wasUsed(c *http2Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	used := c.used
	c.used = true
	return used
}

func (p *http2Pool) forgetLocked(b *routing.Backend, hb *http2Backend) {
	if len(hb.conns) == 0 && hb.dial == nil && hb.requests == 0 && p.backends[b] == hb {
		delete(p.backends, b)
	}
}

// dial makes a connection, and tells those who wait.
func (p *http2Pool) dial(b *routing.Backend, hb *http2Backend, d *http2Dial) {
	ctx, cancel := context.WithTimeout(context.Background(), p.edge.open)
	defer cancel()
	c, err := p.connect(ctx, b)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && p.closed {
		_ = c.Close()
		err = tunnel.ErrClosed
	}
	if err == nil {
		c.idle = time.Now()
		hb.conns = append(hb.conns, c)
	}
	d.conn, d.err, hb.dial = c, err, nil
	close(d.done)
	p.forgetLocked(b, hb)
}

var errNotHTTP2 = errors.New("the upstream does not speak HTTP/2")

// connect returns a connection whose upstream has said how many requests it takes.
func (p *http2Pool) connect(ctx context.Context, b *routing.Backend) (*http2Conn, error) {
	st, err := p.edge.openStream(ctx, b, tunnel.Target{Upstream: b.Index})
	if err != nil {
		return nil, err
	}
	greeting := &greeted{Stream: st, done: make(chan struct{})}
	cc, err := p.transport.NewClientConn(context.WithValue(ctx, streamKey, greeting), "http", "upstream:80")
	if err != nil {
		st.Reset(tunnel.CodeCancelled, "there is no HTTP/2")
		return nil, err
	}
	select {
	case <-greeting.done:
	case <-ctx.Done():
	}
	err = greeting.outcome(ctx, cc)
	if err == nil && cc.Available() == 0 { // it takes none, or leaves already
		err = tunnel.ErrTooManyStreams
	}
	if err != nil {
		_ = cc.Close()
		p.edge.log.Debug().Err(err).Str("client_id", b.ClientID).Str("upstream", b.Upstream.String()).Msg("no HTTP/2 with upstream")
		return nil, err
	}
	// A session that leaves waits for its streams.
	cc.SetStateHook(func(cc *http.ClientConn) {
		if b.Opener.Leaving() && cc.InFlight() == 0 {
			_ = cc.Close()
		}
	})
	return &http2Conn{ClientConn: cc, backend: b, session: st.Session()}, nil
}

// sweep closes connections without requests that were idle for too long, can take no more,
// or are on a session that is leaving.
func (p *http2Pool) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for b, hb := range p.backends {
		kept := hb.conns[:0]
		for _, c := range hb.conns {
			idle := c.InFlight() == 0 && (now.Sub(c.idle) > idleStream || c.Available() == 0 || b.Opener.Leaving())
			if idle {
				_ = c.Close()
			}
			if !idle && c.Err() == nil {
				kept = append(kept, c)
			}
		}
		clear(hb.conns[len(kept):])
		hb.conns = kept
		p.forgetLocked(b, hb)
	}
}

// close closes everything, and waits for connections that are being made.
func (p *http2Pool) close() {
	p.mu.Lock()
	p.closed = true
	for _, hb := range p.backends {
		for _, c := range hb.conns {
			_ = c.Close()
		}
	}
	p.mu.Unlock()
	p.dialing.Wait()
}

// greeted is a stream whose upstream begins with SETTINGS, as it must (RFC 9113 section
// 3.4). Before they have been read it is not known how many requests it takes.
type greeted struct {
	*tunnel.Stream
	done chan struct{} // closed when they were read, or cannot be any more
	once sync.Once

	// Before done only the connection's reader uses them.
	header [9]byte
	got    int
	whole  bool
	err    error
}

// Read implements net.Conn. The reader comes again when it has taken in what it has.
func (g *greeted) Read(p []byte) (int, error) {
	if !g.whole && g.got >= len(g.header) {
		size := int(g.header[0])<<16 | int(g.header[1])<<8 | int(g.header[2])
		if g.got >= len(g.header)+size {
			g.whole = true
			g.end()
		}
	}
	n, err := g.Stream.Read(p)
	if !g.whole {
		if g.got < len(g.header) {
			copy(g.header[g.got:], p[:n])
		}
		g.got += n
		if err != nil && g.err == nil {
			g.err = err
			g.end()
		}
	}
	return n, err
}

// Close implements net.Conn.
func (g *greeted) Close() error {
	defer g.end()
	return g.Stream.Close()
}

func (g *greeted) end() { g.once.Do(func() { close(g.done) }) }

// outcome says what became of the greeting.
func (g *greeted) outcome(ctx context.Context, cc *http.ClientConn) error {
	select {
	case <-g.done:
	default:
		return fmt.Errorf("HTTP/2 with the upstream: %w", tunnel.ErrOpenTimeout)
	}
	switch {
	case g.whole && cc.Err() == nil:
		return nil
	case g.err != nil && g.got == 0:
		if g.err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		return g.err
	}
	return errNotHTTP2
}
