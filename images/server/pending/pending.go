// Package pending bounds the connections that are nobody's yet: neither a client's nor,
// where clients and visitors share a port, a visitor's.
package pending

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"time"
)

// List has the connections that are in the TLS handshake, in a request, or idle between
// two, of all listeners that clients come by. It drops the one that has done nothing for
// the longest when there are too many. A good client needs a few round trips, so a flood
// of connections that go nowhere does not keep it out; they have deadlines besides. Its
// methods may be called at the same time.
type List struct {
	most    int
	grace   time.Duration
	mu      sync.Mutex
	order   list.List // of entry, the one to drop first at the front
	at      map[net.Conn]*list.Element
	dropped func()
}

type entry struct {
	conn  net.Conn
	since time.Time
}

// burst is how many times as many connections there may be for the moment of grace.
const burst = 4

// New returns a list of at most so many connections that have done nothing for grace, and
// four times as many in all: of a thousand that come at once the first are to get their
// turn before the last has them dropped.
func New(most int, grace time.Duration) *List {
	return &List{most: most, grace: grace, at: map[net.Conn]*list.Element{}, dropped: func() {}}
}

// OnDrop has f called for each connection that is dropped. It must not block.
func (l *List) OnDrop(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropped = f
}

// Track is an http.Server's ConnState.
func (l *List) Track(conn net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state {
	case http.StateNew:
		now := time.Now()
		l.at[conn] = l.order.PushBack(&entry{conn, now})
		for l.order.Len() > l.most {
			first := l.order.Front().Value.(*entry)
			if now.Sub(first.since) < l.grace && l.order.Len() <= burst*l.most {
				break
			}
			l.dropLocked(first.conn)
		}
	case http.StateIdle: // a request was answered
		if e := l.at[conn]; e != nil {
			e.Value.(*entry).since = time.Now()
			l.order.MoveToBack(e)
		}
	case http.StateHijacked, http.StateClosed:
		l.removeLocked(conn)
	}
}

// Release takes a connection off the list for good, as it is somebody's.
func (l *List) Release(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeLocked(conn)
}

func (l *List) dropLocked(conn net.Conn) {
	l.removeLocked(conn)
	l.dropped()
	// The socket itself: to close what is around it, such as TLS, may take time.
	for {
		around, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = around.NetConn()
	}
	_ = conn.Close() // its goroutine finds out
}

func (l *List) removeLocked(conn net.Conn) {
	if e := l.at[conn]; e != nil {
		l.order.Remove(e)
		delete(l.at, conn)
	}
}
