package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/images/server/tcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func everybody(netip.Addr) bool { return true }
func nobody(netip.Addr) bool    { return false }

// header returns the bytes of a header.
func header(t testing.TB, version byte, from, to net.Addr) string {
	t.Helper()
	var b bytes.Buffer
	_, err := proxyproto.HeaderProxyFromAddrs(version, from, to).WriteTo(&b)
	must(t, err)
	return b.String()
}

func addr(text string) *net.TCPAddr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text)) }

// pair returns the two ends of a loopback connection.
func pair(t testing.TB) (accepted, dialled *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	d, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	a, err := l.Accept()
	must(t, err)
	t.Cleanup(func() { a.Close(); d.Close() })
	must(t, d.SetDeadline(time.Now().Add(patience)))
	return a.(*net.TCPConn), d.(*net.TCPConn)
}

// headers are what trusted and other proxies send. Without from and to the addresses are
// those of the connection.
func headers(t testing.TB) []headerCase {
	unix := &proxyproto.Header{
		Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.UnixStream,
		SourceAddr: &net.UnixAddr{Net: "unix", Name: "/run/visitor"}, DestinationAddr: &net.UnixAddr{Net: "unix", Name: "/run/proxy"},
	}
	udp := header(t, 2, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 2})
	var unixText bytes.Buffer
	_, err := unix.WriteTo(&unixText)
	must(t, err)
	four, six := addr("192.0.2.1:1000"), addr("[2001:db8::1]:1000")
	toFour, toSix := addr("192.0.2.2:443"), addr("[2001:db8::2]:443")
	noise := strings.Repeat("x", 70<<10)
	long := &proxyproto.Header{Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv4, SourceAddr: four, DestinationAddr: toFour}
	must(t, long.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_NOOP, Value: make([]byte, 3000)}}))
	var longText bytes.Buffer
	_, err = long.WriteTo(&longText)
	must(t, err)
	return []headerCase{
		{name: "v1, IPv4", sent: "PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n", from: "192.0.2.1:1000", to: "192.0.2.2:443"},
		{name: "v1, IPv6", sent: header(t, 1, six, toSix), from: six.String(), to: toSix.String()},
		{name: "v1, UNKNOWN", sent: "PROXY UNKNOWN\r\n"},
		{name: "v1, UNKNOWN with more", sent: "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"},
		{name: "v2, IPv4", sent: header(t, 2, four, toFour), from: four.String(), to: toFour.String()},
		{name: "v2, IPv6", sent: header(t, 2, six, toSix), from: six.String(), to: toSix.String()},
		{name: "v2, with more", sent: longText.String(), from: four.String(), to: toFour.String()},
		{name: "v2, LOCAL", sent: header(t, 2, nil, nil)},
		{name: "v2, unix", sent: unixText.String()},
		{name: "v2, UDP", sent: udp},
		{name: "none", sent: "", bad: true},
		{name: "v1, cut", sent: "PROXY TCP4 192.0.2.1\r\n", bad: true},
		{name: "v1, no address", sent: "PROXY TCP4 somebody 192.0.2.2 1000 443\r\n", bad: true},
		{name: "v1, only LF", sent: "PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\n", bad: true},
		{name: "v1, endless", sent: "PROXY TCP4 " + noise, bad: true},
		{name: "v2, another version", sent: "\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x00", bad: true},
		{name: "v2, too long", sent: "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + noise, bad: true},
		{name: "v2, too short", sent: "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x04abcd", bad: true},
	}
}

type headerCase struct {
	name     string
	sent     string
	from, to string
	bad      bool // refused
}

// read reads the header of a connection by which sent came, in one segment.
func read(t testing.TB, trusted func(netip.Addr) bool, sent string) (v tcp.Visitor, accepted, dialled *net.TCPConn, err error) {
	t.Helper()
	accepted, dialled = pair(t)
	go func() { _, _ = io.WriteString(dialled, sent) }() // may be more than is ever read
	v, err = Reader(trusted)(accepted)
	return v, accepted, dialled, err
}

func TestReader(t *testing.T) {
	for _, c := range headers(t) {
		t.Run(c.name, func(t *testing.T) {
			v, accepted, dialled, err := read(t, everybody, c.sent+"GET / of the visitor")
			if c.bad {
				if err == nil || !strings.HasPrefix(err.Error(), "read PROXY header: ") {
					t.Fatalf("got %+v %v", v, err)
				}
				if c.sent == "" && !strings.Contains(err.Error(), "the trusted proxy sent none") {
					t.Errorf("got %v", err)
				}
				return
			}
			must(t, err)
			wantAddrs(t, c, v.Addr, v.Local, accepted)
			must(t, dialled.CloseWrite())
			rest, err := io.ReadAll(accepted) // the deadline is no more
			must(t, err)
			if got := string(v.Early) + string(rest); got != "GET / of the visitor" {
				t.Errorf("the visitor's bytes are %q", got)
			}
		})
		t.Run(c.name+", from somebody", func(t *testing.T) {
			v, accepted, dialled, err := read(t, nobody, c.sent)
			must(t, err)
			wantAddrs(t, headerCase{}, v.Addr, v.Local, accepted)
			if len(v.Early) > 0 {
				t.Errorf("read %q", v.Early)
			}
			got := make([]byte, len(c.sent))
			must(t, second(io.ReadFull(accepted, got)))
			if string(got) != c.sent {
				t.Errorf("the visitor's bytes are %.60q", got)
			}
			_ = dialled
		})
	}
}

func wantAddrs(t testing.TB, c headerCase, from, to net.Addr, conn net.Conn) {
	t.Helper()
	if c.from == "" {
		c.from, c.to = conn.RemoteAddr().String(), conn.LocalAddr().String()
	}
	if from.String() != c.from || to.String() != c.to {
		t.Errorf("from %s to %s, want %s to %s", from, to, c.from, c.to)
	}
}

// TestReaderSlow bounds the wait for a header that does not come, or comes in drops.
func TestReaderSlow(t *testing.T) {
	for _, sent := range []string{"", "PRO", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"} {
		accepted, dialled := pair(t)
		must(t, second(io.WriteString(dialled, sent)))
		_, err := reader(everybody, 30*time.Millisecond)(accepted)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %q: %v", sent, err)
		}
	}
}

// TestTrust looks at who is asked for.
func TestTrust(t *testing.T) {
	asked := netip.Addr{}
	_, _, _, err := read(t, func(a netip.Addr) bool { asked = a; return false }, "")
	must(t, err)
	if asked != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("asked for %s", asked)
	}
	for a, want := range map[net.Addr]string{
		addr("192.0.2.1:1"):                        "192.0.2.1",
		addr("[::ffff:192.0.2.1]:1"):               "192.0.2.1",
		addr("[2001:db8::1]:1"):                    "2001:db8::1",
		&net.UnixAddr{Net: "unix", Name: "/run/a"}: "invalid IP",
	} {
		if got := addrOf(a).String(); got != want {
			t.Errorf("%s is %s, want %s", a, got, want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
