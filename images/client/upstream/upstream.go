// Package upstream connects the private services that a client exposes: plain TCP,
// TLS, or a unix socket, with a PROXY header in front for those that ask for one. Health
// finds out whether those answer that visitors are to wait for.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
	_ "golang.org/x/crypto/x509roots/fallback" // a scratch image has no certificate authorities of its own

	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// Dialer connects upstreams. It may be used by any goroutine.
type Dialer struct {
	Timeout time.Duration // for name look-up, connection and TLS handshake together
}

// Dial connects the upstream for a visitor. HTTPS upstreams are verified under the host
// name of their address, unless they say ?insecure=true.
func (d Dialer) Dial(ctx context.Context, u route.Upstream, t tunnel.Target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	network := "tcp"
	if u.Scheme == route.Unix {
		network = "unix"
	}
	dialer := net.Dialer{KeepAlive: -1} // left to the relay
	conn, err := dialer.DialContext(ctx, network, u.Address)
	if err == nil && u.Proxy != 0 {
		if err = writeProxy(ctx, conn, byte(u.Proxy), t); err != nil {
			conn.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	if u.Scheme != route.HTTPS {
		return conn, nil
	}
	host, _, err := net.SplitHostPort(u.Address)
	if err != nil {
		conn.Close()
		return nil, err
	}
	protocol := "http/1.1"
	if u.HTTP2 {
		protocol = "h2"
	}
	secure := tls.Client(conn, &tls.Config{
		ServerName:         host,
		InsecureSkipVerify: u.Insecure, // #nosec G402 -- by ?insecure=true
		NextProtos:         []string{protocol},
		MinVersion:         tls.VersionTLS12,
	})
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, &handshakeError{err}
	}
	if u.HTTP2 && secure.ConnectionState().NegotiatedProtocol != protocol {
		conn.Close()
		return nil, &handshakeError{errNotHTTP2}
	}
	return secure, nil
}

var errNotHTTP2 = errors.New("the service does not offer HTTP/2 (ALPN h2): leave out http2=true")

// handshakeError is why the TLS handshake with an upstream failed.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// writeProxy writes the PROXY header, which goes before TLS. A visitor whose address is
// not known is announced as such.
func writeProxy(ctx context.Context, conn net.Conn, version byte, t tunnel.Target) error {
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetWriteDeadline(deadline)
		defer conn.SetWriteDeadline(time.Time{})
	}
	var from, to net.Addr
	if src, err := netip.ParseAddrPort(t.Visitor); err == nil {
		if dst, err := netip.ParseAddrPort(t.Local); err == nil {
			from, to = net.TCPAddrFromAddrPort(src), net.TCPAddrFromAddrPort(dst)
		}
	}
	_, err := proxyproto.HeaderProxyFromAddrs(version, from, to).WriteTo(conn)
	return err
}

// windowsRefused is what Windows calls ECONNREFUSED.
const windowsRefused = syscall.Errno(10061)

// Code says why Dial failed, for the server to tell its visitor.
func Code(err error) tunnel.Code {
	var (
		handshake *handshakeError
		errno     syscall.Errno
		timeout   interface{ Timeout() bool }
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, windowsRefused), errors.Is(err, syscall.ENOENT):
		return tunnel.CodeRefused
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return tunnel.CodeTimeout
	case errors.Is(err, io.EOF), errors.As(err, &errno), errors.Is(err, context.Canceled):
		return tunnel.CodeUnreachable // in the middle of the handshake, perhaps
	case errors.As(err, &handshake):
		return tunnel.CodeTLS
	}
	return tunnel.CodeUnreachable
}
