package tcp

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/adit-tunnel/adit/shared/access"
	"github.com/adit-tunnel/adit/shared/service"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// halfClosed bounds how long one direction of a connection may stay silent after the
// other has ended.
const halfClosed = 5 * time.Minute

// accept takes the visitors of a port until it is closed.
func (p *Plane) accept(pt *port) {
	failed := func(err error, retryIn time.Duration) {
		p.log.Warn().Err(err).Int("port", pt.number).Stringer("retry_in", retryIn).Msg("cannot accept connection")
	}
	service.Accept(pt.listener, p.closing, failed, func(conn net.Conn) {
		if reason := p.admit(pt, conn); reason != "" {
			p.turnAway(pt, conn, reason)
			return
		}
		p.work.Add(1)
		go p.serve(pt, conn)
	})
}

// admit notes a new connection, or says what it is refused for.
func (p *Plane) admit(pt *port, conn net.Conn) (reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return "draining"
	case p.cfg.MaxConns > 0 && pt.open >= p.cfg.MaxConns:
		return "max_connections"
	}
	p.conns[conn] = nil
	pt.open++
	pt.metrics.open.Inc()
	pt.metrics.total.Inc()
	return ""
}

func (p *Plane) leave(pt *port, conn net.Conn) {
	_ = conn.Close()
	p.mu.Lock()
	delete(p.conns, conn)
	pt.open--
	pt.metrics.open.Dec()
	p.mu.Unlock()
	select {
	case p.ended <- struct{}{}:
	default:
	}
	p.work.Done()
}

// serve joins a visitor's connection with a stream to one of the port's backends. One
// whose stream cannot be opened in time is passed over for the next; nothing was sent
// to it yet.
func (p *Plane) serve(pt *port, conn net.Conn) {
	v := newRecord(pt, conn)
	if p.cfg.Visitor != nil {
		var err error
		if v.visitor, err = p.cfg.Visitor(conn); err != nil {
			p.log.Debug().Err(err).Stringer("remote_addr", conn.RemoteAddr()).Msg("malformed PROXY header")
			p.refuse(v, conn, "proxy_header")
			p.over(pt, conn, v)
			return
		}
	}
	reason := "no_client"
	backends, waits := pt.order()
	if waits {
		reason = "waiting"
	}
	addr := addrOf(v.visitor.Addr)
	if !p.cfg.Door.All().AllowsAddr(addr) {
		reason, backends = access.Address, nil
	}
	for _, b := range backends {
		if !b.Access.AllowsAddr(addr) {
			reason = access.Address
			continue
		}
		b.open.Add(1)
		st, err := p.open(b, v.visitor)
		if err == nil {
			p.carry(st, pt, conn, b, v)
			return
		}
		b.open.Add(-1)
		reason = tunnel.OpenReason(err)
		p.log.Debug().Err(err).Int("port", pt.number).Str("client_id", b.ClientID).Msg("cannot open stream")
	}
	p.refuse(v, conn, reason)
	p.over(pt, conn, v)
}

// over ends the visit of a connection that was admitted.
func (p *Plane) over(pt *port, conn net.Conn, v *record) {
	v.write(p.cfg.AccessLog)
	p.leave(pt, conn)
}

// turnAway resets a connection that is too much.
func (p *Plane) turnAway(pt *port, conn net.Conn, reason string) {
	v := newRecord(pt, conn)
	p.refuse(v, conn, reason)
	v.write(p.cfg.AccessLog)
}

// refuse resets a connection that is not served.
func (p *Plane) refuse(v *record, conn net.Conn, reason string) {
	v.reason = reason
	p.cfg.Metrics.refused.WithLabelValues(reason).Inc()
	if reason == access.Address {
		p.log.Debug().Stringer("visitor", v.visitor.Addr).Int("port", v.port).Str("reason", reason).Msg("visitor refused")
	}
	reset(conn)
}

// addrOf returns the address without its port, the zero Addr if it is none.
func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr()
	}
	return netip.Addr{}
}

func (p *Plane) open(b *backend, v Visitor) (*tunnel.Stream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.OpenTimeout)
	defer cancel()
	return b.Opener.Open(ctx, tunnel.Target{Upstream: b.Index, Visitor: v.Addr.String(), Local: v.Local.String()})
}

// carry joins the connection and the stream, until they rest or have ended.
func (p *Plane) carry(st *tunnel.Stream, pt *port, conn net.Conn, b *backend, v *record) {
	if early := v.visitor.Early; len(early) > 0 {
		_, _ = st.Write(early) // the stream tells of an error again
	}
	if v.backend, v.visitor.Early = b.Backend, nil; p.cfg.AccessLog == nil {
		v = nil // what an idle connection need not keep
	}
	p.mu.Lock()
	p.conns[conn] = st
	p.mu.Unlock()
	tunnel.RelayFunc(st, conn, halfClosed, func(err error) {
		b.open.Add(-1)
		if err != nil {
			p.log.Debug().Err(err).Int("port", pt.number).Msg("connection broke off")
		}
		if v != nil {
			v.ended(st, err)
		}
		p.over(pt, conn, v)
	})
}

// reset closes conn so that the visitor sees a refusal and not an end.
func reset(conn net.Conn) {
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}
