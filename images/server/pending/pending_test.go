package pending

import (
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// conn notes that it was closed, below whatever is around it.
type conn struct {
	net.Conn
	closed bool
}

func (c *conn) Close() error { c.closed = true; return nil }

// around is as slow to close as TLS may be.
type around struct {
	net.Conn
	below net.Conn
}

func (a *around) NetConn() net.Conn { return a.below }
func (a *around) Close() error      { panic("closed what is around the socket") }

// TestList has connections come, answer, become somebody's and go, and looks which are dropped.
func TestList(t *testing.T) {
	const most = 2
	for _, c := range []struct {
		name    string
		grace   time.Duration
		do      func(l *List, conns []net.Conn, come func(i int))
		dropped []int
	}{
		{"no more than may be", 0, func(_ *List, _ []net.Conn, come func(int)) { come(0); come(1) }, nil},
		{"the oldest goes", 0, func(_ *List, _ []net.Conn, come func(int)) { come(0); come(1); come(2) }, []int{0}},
		{"one that was answered is young again", 0, func(l *List, conns []net.Conn, come func(int)) {
			come(0)
			come(1)
			l.Track(conns[0], http.StateIdle)
			come(2)
		}, []int{1}},
		{"one that has begun to speak is not", 0, func(l *List, conns []net.Conn, come func(int)) {
			come(0)
			come(1)
			l.Track(conns[0], http.StateActive)
			come(2)
		}, []int{0}},
		{"one that is somebody's never", 0, func(l *List, conns []net.Conn, come func(int)) {
			come(0)
			l.Release(conns[0])
			l.Track(conns[0], http.StateIdle)
			come(1)
			come(2)
		}, nil},
		{"a websocket neither", 0, func(l *List, conns []net.Conn, come func(int)) {
			come(0)
			l.Track(conns[0], http.StateHijacked)
			come(1)
			come(2)
		}, nil},
		{"those that have gone do not count", 0, func(l *List, conns []net.Conn, come func(int)) {
			come(0)
			l.Track(conns[0], http.StateClosed)
			l.Track(conns[0], http.StateClosed)
			come(1)
			come(2)
		}, nil},
		{"all at once", time.Second, func(_ *List, _ []net.Conn, come func(int)) {
			for i := range burst * most {
				come(i)
			}
		}, nil},
		{"too many at once", time.Second, func(_ *List, _ []net.Conn, come func(int)) {
			for i := range burst*most + 1 {
				come(i)
			}
		}, []int{0}},
		{"all at once, and one more later", time.Second, func(_ *List, _ []net.Conn, come func(int)) {
			for i := range 4 {
				come(i)
			}
			time.Sleep(time.Second)
			come(4)
		}, []int{0, 1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(most, c.grace)
				count := 0
				l.OnDrop(func() { count++ })
				conns := make([]net.Conn, 10)
				for i := range conns {
					conns[i] = &around{below: &conn{}}
				}
				c.do(l, conns, func(i int) { l.Track(conns[i], http.StateNew) })
				want := map[int]bool{}
				for _, i := range c.dropped {
					want[i] = true
				}
				for i := range conns {
					if got := conns[i].(*around).below.(*conn).closed; got != want[i] {
						t.Errorf("connection %d: dropped %t", i, got)
					}
				}
				if count != len(c.dropped) {
					t.Errorf("%d were counted", count)
				}
			})
		})
	}
}
