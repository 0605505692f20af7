// Package tcp is the TCP data plane: public ports, each opened because a client asked
// for it, and open for as long as a client holds a lease on it.
//
// tcp.go keeps the ports and their leases, serve.go carries one visitor's connection,
// allow.go is the grammar of ALLOW_PORTS.
package tcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/images/server/routing"
	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// Config is what a Plane needs.
type Config struct {
	Addr        string // to listen on; empty: all interfaces
	Allow       Ports  // which ports clients may ask for
	Reserved    []int  // ports that no client gets: the server's own
	OpenTimeout time.Duration
	Drain       time.Duration // how long Run waits in the end for connections
	MaxConns    int           // connections of one port at once; 0: no limit
	// Visitor reads what stands before the visitor's bytes, such as a PROXY header; nil
	// for nothing.
	Visitor func(net.Conn) (Visitor, error)
	Metrics *Metrics
	Door    *access.Door // its addresses are those of visitors of all ports; nil: all
	Log     zerolog.Logger
	// AccessLog, if set, gets a line for every connection that has ended.
	AccessLog *zerolog.Logger
}

// Visitor is who connected, as the connection or a trusted proxy tells, and the bytes
// that were read beyond that.
type Visitor struct {
	Addr, Local net.Addr
	Early       []byte
}

// Plane holds the ports. All methods may be called by any goroutine.
type Plane struct {
	cfg Config
	log zerolog.Logger

	mu      sync.Mutex
	ports   map[int]*port
	closed  bool
	closing chan struct{}               // closed with closed
	conns   map[net.Conn]*tunnel.Stream // nil while there is none
	ended   chan struct{}               // capacity 1: a connection has ended
	work    sync.WaitGroup
}

// New returns a Plane without ports. Close ends it.
func New(cfg Config) *Plane {
	return &Plane{
		cfg: cfg, log: cfg.Log, ports: map[int]*port{}, conns: map[net.Conn]*tunnel.Stream{},
		closing: make(chan struct{}), ended: make(chan struct{}, 1),
	}
}

// port is one public port: a listener and the backends that take turns.
type port struct {
	number   int
	listener net.Listener
	metrics  portMetrics
	leases   int // guarded by the plane's lock, and open too
	open     int // connections

	mu       sync.Mutex
	backends []*backend // replaced, never changed
	turn     uint
}

// backend is a client's upstream behind a port, with how many connections it has.
type backend struct {
	*routing.Backend
	open atomic.Int64
}

// Errors of Reserve, for the caller to tell the client.
var (
	ErrNotAllowed = errors.New("not allowed")
	ErrInUse      = errors.New("in use")
)

// Windows has numbers of its own for what package syscall names after Unix.
const (
	windowsDenied       = syscall.Errno(10013)
	windowsInUse        = syscall.Errno(10048)
	windowsNotAvailable = syscall.Errno(10049)
)

// Lease is a client's claim on ports. While it is held the ports stay open.
type Lease struct {
	plane    *Plane
	ports    []*port
	backends []*backend
}

// Reserve opens the ports that the upstreams ask for, all or none, without serving them
// yet. Errors wrap ErrNotAllowed or ErrInUse and say what to do.
func (p *Plane) Reserve(upstreams []*routing.Backend) (*Lease, error) {
	l := &Lease{plane: p}
	for _, b := range upstreams {
		pt, err := p.reserve(b.Upstream.Port)
		if err != nil {
			l.Release()
			return nil, err
		}
		l.ports = append(l.ports, pt)
		l.backends = append(l.backends, &backend{Backend: b})
	}
	return l, nil
}

func (p *Plane) reserve(number int) (*port, error) {
	if slices.Contains(p.cfg.Reserved, number) {
		return nil, fmt.Errorf("port %d is %w: the server uses it itself; ask for another, as in 2222=localhost:22", number, ErrNotAllowed)
	}
	if !p.cfg.Allow.Contains(number) {
		return nil, fmt.Errorf("port %d is %w: the server has ALLOW_PORTS=%s; ask for one of those, as in %d=localhost:%d", number, ErrNotAllowed, p.cfg.Allow, p.cfg.Allow.first(), number)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errors.New("the server is shutting down")
	}
	pt := p.ports[number]
	if pt == nil {
		config := net.ListenConfig{KeepAlive: -1} // left to the relay
		l, err := config.Listen(context.Background(), "tcp", net.JoinHostPort(p.cfg.Addr, strconv.Itoa(number)))
		switch {
		case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, windowsInUse):
			return nil, fmt.Errorf("port %d is %w by another program on the server's machine: stop that, or ask for another port", number, ErrInUse)
		case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, windowsNotAvailable):
			return nil, fmt.Errorf("open port %d: %s is not an address of the server's machine: correct DATA_ADDR on the server, or leave it empty for all interfaces", number, p.cfg.Addr)
		case errors.Is(err, syscall.EACCES), errors.Is(err, windowsDenied):
			return nil, fmt.Errorf("port %d is %w: the server may not open it, as ports below 1024 often need a privilege; ask for a higher one", number, ErrNotAllowed)
		case err != nil:
			return nil, fmt.Errorf("open port %d: %w", number, err)
		}
		pt = &port{number: number, listener: l, metrics: p.cfg.Metrics.of(number)}
		p.ports[number] = pt
		p.log.Info().Int("port", number).Msg("port opened")
		p.work.Go(func() { p.accept(pt) })
	}
	pt.leases++
	return pt, nil
}

// Serve makes the ports lead to the client, whose backends now have their Opener. It warns of
// those of which another client says something else of who may connect.
func (l *Lease) Serve() {
	for i, pt := range l.ports {
		pt.mu.Lock()
		for _, b := range pt.backends {
			if own := l.backends[i]; b.ClientID != own.ClientID && !b.Access.Same(own.Access) {
				l.plane.log.Warn().Int("port", pt.number).Str("client_id", own.ClientID).Stringer("visitors", own.Access).
					Str("other_client_id", b.ClientID).Stringer("other_visitors", b.Access).
					Msg("another client of the port says something else of who may connect: visitors get to those that admit them")
				break
			}
		}
		pt.backends = append(slices.Clone(pt.backends), l.backends[i])
		pt.mu.Unlock()
	}
}

// Release gives the ports back, once; those that nobody else holds are closed.
// Connections that are open go on. The zero Lease holds nothing. A lease is used by one
// goroutine at a time.
func (l *Lease) Release() {
	ports, backends := l.ports, l.backends
	l.ports, l.backends = nil, nil
	for i, pt := range ports {
		pt.mu.Lock()
		pt.backends = slices.DeleteFunc(slices.Clone(pt.backends), func(b *backend) bool { return b == backends[i] })
		pt.mu.Unlock()
		l.plane.release(pt)
	}
}

func (p *Plane) release(pt *port) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pt.leases--; pt.leases == 0 {
		delete(p.ports, pt.number)
		_ = pt.listener.Close()
		p.log.Info().Int("port", pt.number).Msg("port closed")
	}
}

// order returns the port's backends, the one with the least connections first and, of
// those that have as many, the one whose turn it is. Those that do not answer come last,
// and those that leave or wait for their service not at all; waits reports whether one does.
func (pt *port) order() (out []*backend, waits bool) {
	pt.mu.Lock()
	all, turn := pt.backends, pt.turn
	pt.turn++
	pt.mu.Unlock()
	type ranked struct {
		*backend
		rank int64 // now: the numbers change while we sort
	}
	list := make([]ranked, 0, len(all))
	for i := range all {
		b := all[(turn+uint(i))%uint(len(all))]
		switch {
		case b.Opener.Leaving():
		case b.Waiting():
			waits = true
		case b.Opener.Silent():
			list = append(list, ranked{b, math.MaxInt64})
		default:
			list = append(list, ranked{b, b.open.Load()})
		}
	}
	slices.SortStableFunc(list, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	out = make([]*backend, len(list))
	for i, r := range list {
		out[i] = r.backend
	}
	return out, waits
}

// Run waits until ctx ends, then closes the ports and waits for the connections, up to
// Config.Drain.
func (p *Plane) Run(ctx context.Context) error {
	<-ctx.Done()
	p.mu.Lock()
	p.closeLocked()
	left := len(p.conns)
	p.mu.Unlock()
	if left > 0 {
		p.log.Info().Int("connections", left).Stringer("at_most", p.cfg.Drain).Msg("draining")
	}
	timer := time.NewTimer(p.cfg.Drain)
	defer timer.Stop()
	for left > 0 {
		select {
		case <-p.ended:
		case <-timer.C:
			return nil
		}
		p.mu.Lock()
		left = len(p.conns)
		p.mu.Unlock()
	}
	return nil
}

// closeLocked takes no more visitors and opens no more ports.
func (p *Plane) closeLocked() {
	if p.closed {
		return
	}
	p.closed = true
	close(p.closing)
	for _, pt := range p.ports {
		_ = pt.listener.Close()
	}
}

// Close ends all ports and connections and waits for them. What it cuts off the visitor
// sees as a reset.
func (p *Plane) Close() {
	p.mu.Lock()
	p.closeLocked()
	cut := maps.Clone(p.conns)
	p.mu.Unlock()
	for c, st := range cut {
		reset(c)
		if st != nil { // see tunnel.RelayFunc
			st.Reset(tunnel.CodeBroken, "the server is shutting down")
		}
	}
	p.work.Wait()
}
