package edge

import (
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// halfClosed bounds how long one direction of an upgraded connection may stay silent
// after the other has ended.
const halfClosed = time.Minute

// sameProtocol reports whether the upstream changes to a protocol that was offered.
func sameProtocol(h http.Header, offered string) bool {
	chosen := h["Upgrade"]
	return len(chosen) == 1 && httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade") &&
		httpguts.HeaderValuesContainsToken([]string{offered}, chosen[0])
}

// switchProtocols passes the upstream's 101 on and joins the visitor's connection and
// the stream. From then on the connection is no longer the HTTP server's: a goroutine of
// the edge owns it, so that the server's buffers are let go of.
func (x *exchange) switchProtocols(c *conn, resp *http.Response) {
	e, st, visitor := x.e, c.st, x.conn.Conn
	defer c.detach()
	if !e.adopt(visitor, st) {
		st.Reset(tunnel.CodeCancelled, "the server is shutting down")
		x.refuse(closing)
		return
	}
	x.conn.watch(nil) // taking the connection over ends a read of it
	if err := x.takeOver(visitor, c, resp); err != nil {
		e.log.Debug().Err(err).Msg("cannot take over connection")
		st.Reset(tunnel.CodeCancelled, "the visitor left")
		resetConn(visitor)
		e.release(visitor)
		return
	}
	var v *visit
	if e.visits != nil {
		x.upgraded, v = true, x.visit()
		received, sent := st.Carried() // of requests
		v.received, v.sent = -sent, -received
	}
	go tunnel.RelayFunc(st, visitor, halfClosed, func(error) { // relaying waits for it
		if v != nil {
			sent, received := st.Carried()
			v.received += received
			v.sent += sent
			v.write(e.visits)
		}
		e.release(visitor)
	})
}

// takeOver takes the connection over from the HTTP server, writes the head and what the
// upstream sent behind it, and passes on what the visitor sent ahead of it.
func (x *exchange) takeOver(visitor net.Conn, c *conn, resp *http.Response) error {
	_, rw, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return err
	}
	if err := x.conn.guard.err; err != nil { // what was sent ahead was taken for a request, and is lost
		return err
	}
	head := append([]byte(nil), "HTTP/1.1 101 Switching Protocols\r\n"...)
	named := connectionTokens(resp.Header)
	rules := responseRules(x.backend)
	for name, values := range resp.Header {
		if !hopByHop[name] && !contains(named, name) && name != "Content-Length" && httpguts.ValidHeaderFieldName(name) && !rules.Drops(name) {
			head = appendField(head, name, values)
		}
	}
	for _, f := range rules.Fields() {
		head = appendField(head, f.Name, []string{f.Value})
	}
	head = append(head, "Connection: Upgrade\r\n"...)
	head = appendField(head, "Upgrade", resp.Header["Upgrade"])
	head = append(head, "\r\n"...)
	behind, _ := c.br.Peek(c.br.Buffered())
	_ = visitor.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := visitor.Write(append(head, behind...)); err != nil {
		return err
	}
	_ = visitor.SetWriteDeadline(time.Time{})
	ahead, _ := rw.Reader.Peek(rw.Reader.Buffered())
	_, err = c.st.Write(ahead)
	return err
}

// adopt makes a connection that was taken over the edge's own, to be waited for and
// closed, unless the edge is closed already.
func (e *Edge) adopt(visitor net.Conn, st *tunnel.Stream) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.relays[visitor] = st
	e.relaying.Add(1)
	e.metrics.upgraded.Inc()
	return true
}

// release is called when the connection is over.
func (e *Edge) release(visitor net.Conn) {
	e.mu.Lock()
	delete(e.relays, visitor)
	e.mu.Unlock()
	e.metrics.upgraded.Dec()
	select {
	case e.relayEnded <- struct{}{}:
	default:
	}
	e.relaying.Done()
}

// resetConn closes conn so that its peer cannot take it for an end: not the one of TLS
// either, which says so before it closes what is below.
func resetConn(conn net.Conn) {
	for {
		c, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = c.NetConn()
	}
	if c, ok := conn.(interface{ SetLinger(int) error }); ok {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}
