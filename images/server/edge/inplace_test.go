package edge

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// tries is the listener of visitors whose sockets take so many bytes of a try, or fail.
type tries struct {
	net.Listener
	most  int
	err   error
	count atomic.Int32
}

func (l *tries) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return triesConn{c, l}, err
}

type triesConn struct {
	net.Conn
	l *tries
}

func (c triesConn) TryWrite(p []byte) (int, error) {
	c.l.count.Add(1)
	if c.l.err != nil {
		return 0, c.l.err
	}
	return c.Conn.Write(p[:min(c.l.most, len(p))])
}

// trySite is a rawSite with such visitors.
func trySite(t *testing.T, l *tries, serve func(n int, c *wire)) *site {
	t.Helper()
	var err error
	if l.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s := newSiteOn(t, l, false)
	s.client("http://" + rawUpstream(t, serve))
	return s
}

// answers answers every request with body.
func answers(body string) func(int, *wire) {
	return func(_ int, c *wire) {
		for c.head() != "" {
			c.send("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
		}
	}
}

// Responses are passed on in place, whatever the visitor's socket takes at once, and counted.
func TestInPlace(t *testing.T) {
	body := strings.Repeat("0123456789", 1000)
	for name, most := range map[string]int{"all": 1 << 20, "some": 5000, "nothing": 0} {
		t.Run(name, func(t *testing.T) {
			l := &tries{most: most}
			s := trySite(t, l, answers(body))
			c, requests := s.dial(), 0
			for requests < 20 || l.count.Load() == 0 { // one that is answered very soon is not tried in place
				c.send(get)
				c.want("GET", 200, body)
				requests++
			}
			s.wantCount(float64(requests), "200", "*", "GET")
			eventually(t, func() bool { return s.gate.count.Load() == 0 && s.idleConns() == 1 })
		})
	}
}

// A visitor to whom nothing can be written any more has no more requests, and takes no stream
// along.
func TestInPlaceBroken(t *testing.T) {
	s := trySite(t, &tries{err: errors.New("broken pipe")}, answers("hello"))
	c, requests := s.fast(), 1
	for head := "first"; head != ""; requests++ { // until one is tried in place
		c.send(get)
		if head = c.head(); head != "" {
			c.bytes(len("hello"))
		}
	}
	s.wantCount(float64(requests), "200", "*", "GET")
	eventually(t, func() bool { return s.gate.count.Load() == 0 && s.idleConns() == 1 })
}

// What the visitor sends while a response is awaited is answered after it.
func TestMeanwhile(t *testing.T) {
	for _, more := range []int{1, 2} {
		asked, sent := make(chan struct{}), make(chan struct{})
		s := trySite(t, &tries{most: 1 << 20}, func(n int, c *wire) {
			for i := 0; c.head() != ""; i++ {
				if n == 0 && i == 2 {
					close(asked)
					<-sent
				}
				c.send(hello)
			}
		})
		c := s.fast()
		c.send(get)
		c.want("GET", 200, "hello")
		c.send(get)
		<-asked
		c.send(strings.Repeat(get, more))
		close(sent)
		for range 1 + more {
			c.want("GET", 200, "hello")
		}
	}
}

// deadlines is a connection that notes the deadline of reads.
type deadlines struct {
	net.Conn
	read time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.read = t
	return nil
}

// A visitor whose goroutine was called before it waited is not cut off while idle.
func TestCalledBeforeWait(t *testing.T) {
	d := new(deadlines)
	c := &guardConn{Conn: d, fast: fastConn{edge: &Edge{fastWait: fastWait}, gate: newGate()}}
	a := &inPlace{c: c, start: time.Now()}
	idle := func() { c.fast.within(c, time.Now().Add(idleTimeout), idleSlack) }
	idle()
	a.turn(offered)
	a.Left()
	if n, err := a.wait(make([]byte, 1)); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	a.turn(ours)
	idle()
	if time.Until(d.read) < idleTimeout/2 {
		t.Errorf("the deadline is %v", d.read)
	}
}
