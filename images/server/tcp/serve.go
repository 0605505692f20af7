package tcp

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// halfClosed bounds how long one direction of a connection may stay silent after the
// other has ended.
const halfClosed = 5 * time.Minute

// accept takes the visitors of a port until it is closed.
func (p *Plane) accept(pt *port) {
	const first, most = 5 * time.Millisecond, time.Second
	delay := first
	for {
		conn, err := pt.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, most likely: let some come free
			p.log.Warn().Err(err).Int("port", pt.number).Stringer("retry_in", delay).Msg("cannot accept connection")
			timer := time.NewTimer(delay)
			select {
			case <-timer.C:
			case <-p.closing:
				timer.Stop()
				return
			}
			delay = min(2*delay, most)
			continue
		}
		delay = first
		if reason := p.admit(pt, conn); reason != "" {
			p.cfg.Metrics.refused.WithLabelValues(reason).Inc()
			reset(conn)
			continue
		}
		p.work.Go(func() {
			defer p.leave(pt, conn)
			p.serve(pt, conn)
		})
	}
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
	p.conns[conn] = struct{}{}
	pt.open++
	p.cfg.Metrics.opened(pt.number)
	return ""
}

func (p *Plane) leave(pt *port, conn net.Conn) {
	_ = conn.Close()
	p.mu.Lock()
	delete(p.conns, conn)
	pt.open--
	p.cfg.Metrics.closed(pt.number)
	p.mu.Unlock()
	select {
	case p.ended <- struct{}{}:
	default:
	}
}

// serve joins a visitor's connection with a stream to one of the port's backends. One
// whose stream cannot be opened in time is passed over for the next; nothing was sent
// to it yet.
func (p *Plane) serve(pt *port, conn net.Conn) {
	visitor := Visitor{Addr: conn.RemoteAddr(), Local: conn.LocalAddr()}
	if p.cfg.Visitor != nil {
		var err error
		if visitor, err = p.cfg.Visitor(conn); err != nil {
			p.log.Debug().Err(err).Stringer("remote_addr", conn.RemoteAddr()).Msg("malformed PROXY header")
			p.cfg.Metrics.refused.WithLabelValues("proxy_header").Inc()
			reset(conn)
			return
		}
	}
	reason := "no_client"
	backends, waits := pt.order()
	if waits {
		reason = "waiting"
	}
	for _, b := range backends {
		b.open.Add(1)
		st, err := p.open(b, visitor)
		if err == nil {
			err = p.carry(st, conn, visitor)
			b.open.Add(-1)
			if err != nil {
				p.log.Debug().Err(err).Int("port", pt.number).Msg("connection broke off")
			}
			return
		}
		b.open.Add(-1)
		reason = tunnel.OpenReason(err)
		p.log.Debug().Err(err).Int("port", pt.number).Str("client_id", b.ClientID).Msg("cannot open stream")
	}
	p.cfg.Metrics.refused.WithLabelValues(reason).Inc()
	reset(conn)
}

func (p *Plane) open(b *backend, v Visitor) (*tunnel.Stream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), p.cfg.OpenTimeout)
	defer cancel()
	return b.Opener.Open(ctx, tunnel.Target{Upstream: b.Index, Visitor: v.Addr.String(), Local: v.Local.String()})
}

func (p *Plane) carry(st *tunnel.Stream, conn net.Conn, v Visitor) error {
	if len(v.Early) > 0 {
		if _, err := st.Write(v.Early); err != nil {
			_ = st.Close()
			reset(conn)
			return err
		}
	}
	return tunnel.Relay(st, conn, halfClosed)
}

// reset closes conn so that the visitor sees a refusal and not an end.
func reset(conn net.Conn) {
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}
