package proxy

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// played is a connection on which bytes have come, and then an end.
type played struct {
	net.Conn // nil: whatever else is called is a fault
	in       *bytes.Reader
}

func (p *played) Read(b []byte) (int, error)       { return p.in.Read(b) }
func (p *played) Write(b []byte) (int, error)      { return len(b), nil }
func (p *played) Close() error                     { return nil }
func (p *played) LocalAddr() net.Addr              { return addr("192.0.2.2:443") }
func (p *played) RemoteAddr() net.Addr             { return addr("192.0.2.1:4711") }
func (p *played) SetDeadline(time.Time) error      { return nil }
func (p *played) SetReadDeadline(time.Time) error  { return nil }
func (p *played) SetWriteDeadline(time.Time) error { return nil }

// FuzzHeader has a trusted proxy send anything: both readers agree on whether that begins with a header and on what is
// behind it, which is an end of what was sent, and both name TCP addresses; what an untrusted one sends passes as it is.
func FuzzHeader(f *testing.F) {
	for _, version := range []byte{1, 2} {
		f.Add([]byte(header(f, version, addr("203.0.113.7:1"), addr("192.0.2.2:443")) + "GET / HTTP/1.1\r\n"))
		f.Add([]byte(header(f, version, addr("[2001:db8::1]:1"), addr("[2001:db8::2]:443"))))
	}
	f.Add([]byte(header(f, 2, nil, nil) + "x"))
	f.Add([]byte("PROXY UNKNOWN\r\nrest"))
	f.Add([]byte("PROXY TCP4 1.2.3.4 1.2.3.4 99999 1\r\n"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		v, err := Reader(everybody)(&played{in: bytes.NewReader(sent)})
		wrapped := (&listener{Listener: acceptOne(sent), trusted: everybody, timeout: headerTimeout})
		c, acceptErr := wrapped.Accept()
		if acceptErr != nil {
			t.Fatal(acceptErr)
		}
		rest, readErr := io.ReadAll(c)
		if (err == nil) != (readErr == nil) {
			t.Fatalf("%q: one reader says %v, the other %v", sent, err, readErr)
		}
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n\x00\x1b") {
				t.Fatalf("%q: the error is not fit for a log: %q", sent, err)
			}
			return
		}
		if !bytes.HasSuffix(sent, rest) || !bytes.HasPrefix(rest, v.Early) {
			t.Fatalf("%q: %q and %q are behind the header", sent, v.Early, rest)
		}
		for _, a := range []net.Addr{v.Addr, v.Local, c.RemoteAddr(), c.LocalAddr()} {
			if _, ok := a.(*net.TCPAddr); !ok || !addrOf(a).IsValid() {
				t.Fatalf("%q: the address is %v", sent, a)
			}
		}
		if v.Addr.String() != c.RemoteAddr().String() {
			t.Fatalf("%q: from %v or %v", sent, v.Addr, c.RemoteAddr())
		}
		v, err = Reader(nobody)(&played{in: bytes.NewReader(sent)})
		if err != nil || v.Addr.String() != "192.0.2.1:4711" || len(v.Early) != 0 {
			t.Fatalf("%q from anybody: %+v, %v", sent, v, err)
		}
	})
}

func acceptOne(sent []byte) net.Listener { return &single{conn: &played{in: bytes.NewReader(sent)}} }

type single struct {
	net.Listener
	conn net.Conn
}

func (s *single) Accept() (net.Conn, error) { return s.conn, nil }
