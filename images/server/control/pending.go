package control

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// pending are the connections that are not a client's: in the TLS handshake, in a
// request, or idle between two. It drops the one that has done nothing for the longest
// when there are too many. A good client needs a few round trips, so a flood of
// connections that go nowhere does not keep it out; they have deadlines besides.
type pending struct {
	most    int
	mu      sync.Mutex
	order   list.List // of net.Conn, the one to drop first at the front
	at      map[net.Conn]*list.Element
	dropped func()
}

// track is an http.Server's ConnState.
func (p *pending) track(conn net.Conn, state http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch state {
	case http.StateNew:
		if p.at == nil {
			p.at = map[net.Conn]*list.Element{}
		}
		p.at[conn] = p.order.PushBack(conn)
		if p.order.Len() > p.most {
			p.dropLocked(p.order.Front().Value.(net.Conn))
		}
	case http.StateIdle: // a request was answered
		if e := p.at[conn]; e != nil {
			p.order.MoveToBack(e)
		}
	case http.StateHijacked, http.StateClosed:
		p.removeLocked(conn)
	}
}

func (p *pending) dropLocked(conn net.Conn) {
	p.removeLocked(conn)
	p.dropped()
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn() // closing TLS itself may take time
	}
	_ = conn.Close() // its goroutine finds out
}

func (p *pending) removeLocked(conn net.Conn) {
	if e := p.at[conn]; e != nil {
		p.order.Remove(e)
		delete(p.at, conn)
	}
}
