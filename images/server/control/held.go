package control

import (
	"bufio"
	"net"
	"net/http"
	"sync"
)

// heldResponse makes the answer to a websocket handshake wait until it is released: a
// client that hears that it is connected, and says so, is then already served.
type heldResponse struct {
	http.ResponseWriter
	conn *heldConn // after Hijack
}

// Hijack implements http.Hijacker.
func (h *heldResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = &heldConn{Conn: conn}
	return h.conn, brw, nil
}

// heldConn is a connection that keeps what is written until it is released.
type heldConn struct {
	net.Conn
	mu   sync.Mutex
	held []byte
	free bool
}

// Write implements net.Conn. Before the release nothing but the answer and the first
// frames of a session are written.
func (c *heldConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if !c.free {
		c.held = append(c.held, p...)
		c.mu.Unlock()
		return len(p), nil
	}
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// release sends what is held. An error comes again with the next write, or read.
func (c *heldConn) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.Conn.Write(c.held)
	c.held, c.free = nil, true
}

// NetConn returns the connection below.
func (c *heldConn) NetConn() net.Conn { return c.Conn }
