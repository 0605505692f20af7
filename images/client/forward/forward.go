// Package forward opens local ports that lead to services of the server's network, as far
// as the server allows: the opposite direction of upstreams.
//
// A local port is open as long as the client runs. A connection to it is carried by any
// server that is connected and takes it, in the order of URL. While none is connected it
// waits a moment, as long as a reconnect takes; then it is reset, and so is one that the
// servers refuse, the reason being in the log.
package forward

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/service"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

const (
	// waitSession is how long a connection waits for a server to be connected.
	waitSession = 10 * time.Second
	// openTimeout bounds how long a server may take to connect a service: longer than it
	// gives itself.
	openTimeout = 15 * time.Second
	// halfClosed bounds how long one direction of a connection may stay silent after the
	// other has ended.
	halfClosed = 5 * time.Minute
	// maxWaiting bounds the connections that wait.
	maxWaiting = 256
)

// ErrNotConnected is returned by a Server that may be worth another try when it is
// connected again.
var ErrNotConnected = errors.New("not connected to the server")

// DeniedError is a Server's refusal that stands for as long as it stays connected.
type DeniedError struct{ Reason string }

func (e *DeniedError) Error() string { return e.Reason }

// Server opens streams to services of a server's network. Errors are [ErrNotConnected],
// [*DeniedError], and those of tunnel.Session.Open.
type Server interface {
	Forward(ctx context.Context, destination string) (*tunnel.Stream, error)
}

// Config is what a Forwarder needs.
type Config struct {
	Forwards List
	Metrics  *Metrics
	Log      zerolog.Logger
}

// Forwarder serves the local ports. Listen and Use come before Run.
type Forwarder struct {
	cfg       Config
	log       zerolog.Logger
	wait      time.Duration
	servers   []Server
	listeners []net.Listener

	mu      sync.Mutex
	up      chan struct{} // closed when a server is connected, and then replaced
	waiting int
	down    map[string]bool // destinations that could not be reached last time, or were denied
}

// New returns a Forwarder.
func New(cfg Config) *Forwarder {
	return &Forwarder{cfg: cfg, log: cfg.Log, wait: waitSession, up: make(chan struct{}), down: map[string]bool{}}
}

// Listen opens the local ports, all or none.
func (f *Forwarder) Listen() error {
	for _, fw := range f.cfg.Forwards {
		l, err := service.Listen("FORWARDS", fw.Host, fw.Port)
		if err != nil {
			f.Close()
			return err
		}
		f.listeners = append(f.listeners, l)
	}
	return nil
}

// Close closes the local ports.
func (f *Forwarder) Close() {
	for _, l := range f.listeners {
		_ = l.Close()
	}
}

// Use adds a server to ask, behind those that were added before.
func (f *Forwarder) Use(s Server) { f.servers = append(f.servers, s) }

// Up tells that a server is connected, on a session that is new: what is refused now is
// logged again.
func (f *Forwarder) Up() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.down)
	close(f.up)
	f.up = make(chan struct{})
}

// Run serves the local ports until ctx ends, and then waits for the connections there are:
// the end of the sessions ends them.
func (f *Forwarder) Run(ctx context.Context) error {
	var work sync.WaitGroup
	for i, l := range f.listeners {
		fw := f.cfg.Forwards[i]
		log := f.log.With().Str("forward", fw.String()).Logger()
		log.Info().Stringer("addr", l.Addr()).Msg("forwarding")
		work.Go(func() {
			failed := func(err error, retryIn time.Duration) {
				log.Warn().Err(err).Stringer("retry_in", retryIn).Msg("cannot accept connection")
			}
			service.Accept(l, ctx.Done(), failed, func(conn net.Conn) {
				work.Go(func() { f.serve(ctx, fw, conn, log) })
			})
		})
	}
	<-ctx.Done()
	f.Close()
	work.Wait()
	return nil
}

// serve carries one local connection to its end.
func (f *Forwarder) serve(ctx context.Context, fw Forward, conn net.Conn, log zerolog.Logger) {
	st, err := f.open(ctx, fw.Destination)
	if err != nil {
		f.cfg.Metrics.refused.WithLabelValues(reason(err)).Inc()
		log.WithLevel(f.level(fw.Destination)).Err(err).Msg("cannot forward")
		reset(conn)
		return
	}
	f.reached(fw.Destination, log)
	m := f.cfg.Metrics
	m.total.WithLabelValues(fw.String()).Inc()
	open := m.open.WithLabelValues(fw.String())
	open.Inc()
	defer open.Dec()
	if err := tunnel.Relay(st, conn, halfClosed); err != nil {
		log.Debug().Err(err).Msg("connection broke off")
	}
}

var (
	errTooMany  = errors.New("too many connections wait for a server")
	errStopping = errors.New("the client is shutting down")
)

// open has one of the servers connect the destination. One that is not connected is waited
// for, unless another has said more than that it does not allow this.
func (f *Forwarder) open(ctx context.Context, destination string) (*tunnel.Stream, error) {
	timer := time.NewTimer(f.wait)
	defer timer.Stop()
	waits := false
	defer func() {
		if waits {
			f.mu.Lock()
			f.waiting--
			f.mu.Unlock()
		}
	}()
	for {
		f.mu.Lock()
		up := f.up // before the servers are asked
		f.mu.Unlock()
		st, err := f.ask(ctx, destination)
		if err == nil || !errors.Is(err, ErrNotConnected) {
			return st, err
		}
		if !waits {
			f.mu.Lock()
			if waits = f.waiting < maxWaiting; waits {
				f.waiting++
			}
			f.mu.Unlock()
			if !waits {
				return nil, errTooMany
			}
		}
		select {
		case <-up:
		case <-timer.C:
			return nil, err
		case <-ctx.Done():
			return nil, errStopping
		}
	}
}

// ask asks the servers in turn. The error is the one that says most; ErrNotConnected is in it
// if it is worth asking again when a server is connected.
func (f *Forwarder) ask(ctx context.Context, destination string) (*tunnel.Stream, error) {
	var denied, absent, other error
	for _, s := range f.servers {
		// A stream that is under way when the client is told to stop is still opened: the
		// connection came in time.
		open, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
		st, err := s.Forward(open, destination)
		cancel()
		var no *DeniedError
		switch {
		case err == nil:
			return st, nil
		case errors.As(err, &no):
			denied = err
		case errors.Is(err, ErrNotConnected):
			absent = err
		case other == nil:
			other = err
		}
	}
	switch {
	case other != nil:
		return nil, other
	case absent != nil:
		return nil, errors.Join(absent, denied)
	case denied != nil:
		return nil, denied
	}
	return nil, ErrNotConnected
}

// level returns how loudly a failure is logged: once, until the destination was reached.
func (f *Forwarder) level(destination string) zerolog.Level {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down[destination] {
		return zerolog.DebugLevel
	}
	f.down[destination] = true
	return zerolog.WarnLevel
}

func (f *Forwarder) reached(destination string, log zerolog.Logger) {
	f.mu.Lock()
	was := f.down[destination]
	delete(f.down, destination)
	f.mu.Unlock()
	if was {
		log.Info().Msg("can forward again")
	}
}

// reset closes conn so that the program that made it sees a refusal and not an end.
func reset(conn net.Conn) {
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}
