// Package forward connects clients to services of the server's network: the opposite
// direction of everything else. A client asks for "host:port" on a stream of its own, and
// gets it if FORWARD_ALLOW has a pattern for that.
//
// allow.go is the grammar of the patterns and what they are compared with, decide in this
// file the order: a name is looked up first, here, and the address that was found is the
// one that is checked and then connected, so that a name cannot lead elsewhere in
// between. Addresses by which this machine, its link or its cloud account would answer count
// only where a pattern names that address and no other; and so do the server's own ports at
// any of its addresses.
package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/hostport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

const (
	// dialTimeout bounds the look-up of a name and the connection together.
	dialTimeout = 10 * time.Second
	// halfClosed bounds how long one direction of a connection may stay silent after the
	// other has ended.
	halfClosed = 5 * time.Minute
	// maxAddresses bounds the addresses of a name that are tried.
	maxAddresses = 8
	// maxTold bounds the lines of the log in a minute that clients can cause by what they
	// ask for.
	maxTold = 100
)

// Config is what a Plane needs.
type Config struct {
	Allow    Allow
	Reserved []int         // the server's own ports
	Drain    time.Duration // how long Run waits in the end for connections
	Metrics  *Metrics
	Log      zerolog.Logger
	// AccessLog, if set, gets a line for every connection that has ended.
	AccessLog *zerolog.Logger
}

// Plane connects the streams of clients. All methods may be called by any goroutine.
type Plane struct {
	cfg     Config
	log     zerolog.Logger
	resolve func(ctx context.Context, network, host string) ([]netip.Addr, error)
	own     func() ([]net.Addr, error) // addresses of this machine

	mu        sync.Mutex
	open      int
	ended     chan struct{} // capacity 1: a connection has ended
	toldSince time.Time     // the minute in which told lines were logged
	told      int
}

// New returns a Plane.
func New(cfg Config) *Plane {
	return &Plane{cfg: cfg, log: cfg.Log, resolve: net.DefaultResolver.LookupNetIP, own: net.InterfaceAddrs, ended: make(chan struct{}, 1)}
}

// deniedError is a refusal that will not change while the session lasts.
type deniedError struct{ reason string }

func (e *deniedError) Error() string { return e.reason }

// Serve connects a stream that a client has opened, and carries it to its end.
func (p *Plane) Serve(st *tunnel.Stream, clientID string) {
	p.enter()
	defer p.leave()
	begun := time.Now()
	reason := p.carry(st, clientID)
	if p.cfg.AccessLog == nil {
		return
	}
	received, sent := st.Carried()
	p.cfg.AccessLog.Log().Str("client_id", clientID).Str("destination", clip(st.Target().Forward)).Int64("received", received).Int64("sent", sent).
		Float64("seconds", time.Since(begun).Round(time.Microsecond).Seconds()).Str("protocol", "tcp").Str("reason", reason).Msg("forward")
}

// carry returns how it ended: "end", "broken", "client_left", or why it was refused.
func (p *Plane) carry(st *tunnel.Stream, clientID string) (reason string) {
	log := p.log.With().Str("client_id", clientID).Str("destination", clip(st.Target().Forward)).Logger()
	conn, err := p.dial(st)
	switch {
	case err != nil && st.Err() != nil:
		log.Debug().Err(err).Msg("forward no longer wanted")
		return "client_left"
	case err != nil:
		code := codeOf(err)
		p.cfg.Metrics.refused.WithLabelValues(code.String()).Inc()
		log.WithLevel(p.level(code)).Err(err).Msg("forward refused")
		st.Reset(code, reasonOf(err, code))
		return code.String()
	case st.Accept() != nil:
		_ = conn.Close()
		return "client_left"
	}
	p.cfg.Metrics.opened()
	defer p.cfg.Metrics.open.Dec()
	if err := tunnel.Relay(st, conn, halfClosed); err != nil {
		log.Debug().Err(err).Msg("forward broke off")
		return "broken"
	}
	return "end"
}

// dial connects what a client asks for, if it is allowed, unless the stream breaks
// meanwhile.
func (p *Plane) dial(st *tunnel.Stream) (net.Conn, error) {
	wanted, cancel := st.Wanted()
	defer cancel()
	ctx, cancel := context.WithTimeout(wanted, dialTimeout)
	defer cancel()
	addrs, err := p.decide(ctx, st.Target().Forward)
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	var errs []error
	for i, addr := range addrs {
		share, done := context.WithTimeout(ctx, dialTimeout/time.Duration(len(addrs)-i)) // of what is left, at most
		conn, err := dialer.DialContext(share, "tcp", addr.String())
		done()
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// decide returns the addresses that a client may be connected to for a destination, or why
// there is none.
func (p *Plane) decide(ctx context.Context, destination string) ([]netip.AddrPort, error) {
	host, port, err := hostport.Parse(destination)
	if err != nil {
		return nil, &deniedError{"the destination " + err.Error()}
	}
	denied := &deniedError{fmt.Sprintf("the server does not allow %s: FORWARD_ALLOW there has no pattern for it", clip(destination))}
	if addr, err := netip.ParseAddr(host); err == nil {
		if ok, exact := p.cfg.Allow.address(addr, port); !ok || !exact && p.guarded(addr, port) {
			return nil, denied
		}
		return []netip.AddrPort{netip.AddrPortFrom(addr, port)}, nil
	}
	named, loopback := p.cfg.Allow.names(host, port)
	if !named && !p.cfg.Allow.networks(port) {
		return nil, denied // and nobody learns which names there are
	}
	found, err := p.resolve(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	var addrs []netip.AddrPort
	for _, addr := range found {
		addr = addr.Unmap()
		ok, exact := p.cfg.Allow.address(addr, port)
		exact = exact || loopback && addr.IsLoopback()
		if addr.Zone() == "" && (named || ok) && (exact || !p.guarded(addr, port)) && len(addrs) < maxAddresses {
			addrs = append(addrs, netip.AddrPortFrom(addr, port))
		}
	}
	if len(addrs) == 0 {
		return nil, denied
	}
	return addrs, nil
}

// guarded reports whether an address and port have to be named exactly.
func (p *Plane) guarded(addr netip.Addr, port uint16) bool {
	if special(netip.PrefixFrom(addr, addr.BitLen())) {
		return true
	}
	if !slices.Contains(p.cfg.Reserved, int(port)) {
		return false
	}
	own, err := p.own()
	return err != nil || slices.ContainsFunc(own, func(a net.Addr) bool {
		network, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(network.IP)
		return ok && ip.Unmap() == addr
	})
}

func (p *Plane) enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open++
}

func (p *Plane) leave() {
	p.mu.Lock()
	p.open--
	p.mu.Unlock()
	select {
	case p.ended <- struct{}{}:
	default:
	}
}

// level returns how loudly a refusal is logged: clients can cause many.
func (p *Plane) level(code tunnel.Code) zerolog.Level {
	if code != tunnel.CodeDenied {
		return zerolog.DebugLevel // the client's log has it
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.toldSince) > time.Minute {
		p.toldSince, p.told = now, 0
	}
	if p.told++; p.told > maxTold {
		return zerolog.DebugLevel
	}
	return zerolog.WarnLevel
}

// Run waits until ctx ends, and then for the connections that there are, up to
// Config.Drain.
func (p *Plane) Run(ctx context.Context) error {
	<-ctx.Done()
	timer := time.NewTimer(p.cfg.Drain)
	defer timer.Stop()
	for {
		p.mu.Lock()
		left := p.open
		p.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-p.ended:
		case <-timer.C:
			return nil
		}
	}
}

// codeOf says why there is no connection, for the client.
func codeOf(err error) tunnel.Code {
	var (
		denied  *deniedError
		timeout net.Error
	)
	switch {
	case errors.As(err, &denied):
		return tunnel.CodeDenied
	case refused(err):
		return tunnel.CodeRefused
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return tunnel.CodeTimeout
	}
	return tunnel.CodeUnreachable
}

// reasonOf is what the client's log may say: nothing of the server's network but what
// the client has named itself.
func reasonOf(err error, code tunnel.Code) string {
	var denied *deniedError
	switch {
	case errors.As(err, &denied):
		return denied.reason
	case code == tunnel.CodeRefused:
		return "the service refused the server's connection"
	case code == tunnel.CodeTimeout:
		return "the service did not answer the server in time"
	}
	return "the server cannot reach the service"
}

// clip bounds what came from a client.
func clip(s string) string {
	const most = 260 // a name and a port
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}
