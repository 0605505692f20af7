// Package proxy reads the PROXY protocol (versions 1 and 2) on listeners of visitors: a
// load balancer that passes on bare connections says in a header before the bytes who
// the visitor is. Only proxies that are trusted are believed, and of them the header is
// required, so that nobody behind them can write one of their own; from anybody else the
// bytes are passed on as they are.
//
// A header that names no TCP addresses (LOCAL, UNKNOWN, a unix socket) leaves the
// connection's own.
package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/adit-tunnel/adit/images/server/tcp"
)

// headerTimeout bounds the wait for the header.
const headerTimeout = 10 * time.Second

// Listener returns l with the addresses of its connections as trusted proxies tell them.
// The header is read by the connection's first user, not by Accept.
func Listener(l net.Listener, trusted func(netip.Addr) bool) net.Listener {
	return &listener{Listener: l, trusted: trusted, timeout: headerTimeout}
}

type listener struct {
	net.Listener
	trusted func(netip.Addr) bool
	timeout time.Duration
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || !l.trusted(addrOf(c.RemoteAddr())) {
		return c, err
	}
	return &conn{proxyproto.NewConn(c,
		proxyproto.WithPolicy(proxyproto.REQUIRE),
		proxyproto.SetReadHeaderTimeout(l.timeout),
		proxyproto.ValidateHeader(func(h *proxyproto.Header) error {
			if !namesTCP(h) {
				h.Command = proxyproto.LOCAL // the addresses of the connection count
			}
			return nil
		}),
	)}, nil
}

// conn is a connection from a proxy, with what users of a bare one look for.
type conn struct{ *proxyproto.Conn }

// CloseWrite sends the end of our bytes; reading goes on.
func (c *conn) CloseWrite() error {
	half, ok := c.Raw().(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// NetConn returns the connection below, for whoever wants to reset it.
func (c *conn) NetConn() net.Conn { return c.Raw() }

// Reader returns what reads the header of a connection that the TCP data plane has
// accepted.
func Reader(trusted func(netip.Addr) bool) func(net.Conn) (tcp.Visitor, error) {
	return reader(trusted, headerTimeout)
}

func reader(trusted func(netip.Addr) bool, timeout time.Duration) func(net.Conn) (tcp.Visitor, error) {
	return func(conn net.Conn) (tcp.Visitor, error) {
		v := tcp.Visitor{Addr: conn.RemoteAddr(), Local: conn.LocalAddr()}
		if !trusted(addrOf(v.Addr)) {
			return v, nil
		}
		_ = conn.SetReadDeadline(time.Now().Add(timeout))
		br := bufio.NewReader(conn)
		header, err := proxyproto.Read(br)
		if err != nil {
			if errors.Is(err, proxyproto.ErrNoProxyProtocol) {
				err = errors.New("the trusted proxy sent none")
			}
			return v, fmt.Errorf("read PROXY header: %w", err)
		}
		_ = conn.SetReadDeadline(time.Time{})
		if namesTCP(header) {
			v.Addr, v.Local = header.SourceAddr, header.DestinationAddr
		}
		early, _ := br.Peek(br.Buffered())
		v.Early = append([]byte(nil), early...)
		return v, nil
	}
}

// Announce begins a connection of ours to such a listener: if that trusts our address it
// waits for a header, which says that we speak for nobody else.
func Announce(conn net.Conn, trusted func(netip.Addr) bool) error {
	if !trusted(addrOf(conn.LocalAddr())) {
		return nil
	}
	_, err := proxyproto.HeaderProxyFromAddrs(2, nil, nil).WriteTo(conn)
	return err
}

// namesTCP reports whether the header says who the visitor is and what he reached.
func namesTCP(h *proxyproto.Header) bool {
	_, from := h.SourceAddr.(*net.TCPAddr)
	_, to := h.DestinationAddr.(*net.TCPAddr)
	return !h.Command.IsLocal() && from && to
}

func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		addr, _ := netip.AddrFromSlice(t.IP)
		return addr.Unmap()
	}
	return netip.Addr{}
}
