package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/adit-tunnel/adit/shared/rawio"
)

// way is how one handshake reaches the server: directly, or through the proxy that the
// environment names. The connection breaks off when the context of the handshake ends,
// until it is released.
type way struct {
	proxy *url.URL                              // http or https
	socks func(*http.Request) (*url.URL, error) // for the websocket dialer, which knows how
	stop  func() bool
	ended bool
}

// wayTo looks for a proxy, as lookUp finds it. Errors do not hold its password.
func wayTo(server *url.URL, lookUp func(*http.Request) (*url.URL, error)) (*way, error) {
	at := *server
	at.Scheme = strings.Replace(server.Scheme, "ws", "http", 1)
	proxy, err := lookUp(&http.Request{URL: &at})
	if err != nil {
		return nil, errors.New("the proxy's address is not a URL: look at HTTPS_PROXY and HTTP_PROXY")
	}
	w := new(way)
	switch {
	case proxy == nil:
	case proxy.Scheme == "http", proxy.Scheme == "https":
		w.proxy = proxy
	case proxy.Scheme == "socks5", proxy.Scheme == "socks5h":
		socks := *proxy
		socks.Scheme = "socks5" // names are looked up by the proxy in any case
		if socks.Port() == "" {
			socks.Host = net.JoinHostPort(socks.Hostname(), "1080")
		}
		w.socks = http.ProxyURL(&socks)
	default:
		return nil, fmt.Errorf("the proxy's address begins with %s://: use http, https or socks5", proxy.Scheme)
	}
	return w, nil
}

// dial is a websocket.Dialer's NetDialContext.
func (w *way) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	target := addr
	if w.proxy != nil {
		addr = withPort(w.proxy)
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn = rawio.Wrap(conn)
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	// The websocket dialer heeds the deadline of ctx, but not that it is cancelled.
	w.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	if w.proxy == nil {
		return conn, nil
	}
	through, err := w.through(ctx, conn, target)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("proxy %s: %w", w.proxy.Host, err)
	}
	return through, nil
}

// release lets the connection live on after the handshake. It reports false if the
// context ended before.
func (w *way) release() bool {
	if w.stop != nil {
		w.ended = !w.stop() || w.ended
		w.stop = nil
	}
	return !w.ended
}

// through has the proxy connect us with the target.
func (w *way) through(ctx context.Context, conn net.Conn, target string) (net.Conn, error) {
	if w.proxy.Scheme == "https" {
		secure := tls.Client(conn, &tls.Config{ServerName: w.proxy.Hostname(), MinVersion: tls.VersionTLS12})
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = secure
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if user := w.proxy.User; user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	br := bufio.NewReader(io.LimitReader(conn, 64<<10))
	resp, err := http.ReadResponse(br, req)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusProxyAuthRequired:
		return nil, fmt.Errorf("%s: give it a user and a password, as in HTTPS_PROXY=http://user:password@%s", oneLine(resp.Status), w.proxy.Host)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answered %s to the request to connect %s", oneLine(resp.Status), target)
	case br.Buffered() > 0:
		return nil, errors.New("it sent something before the server was asked")
	}
	return conn, nil
}

func withPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
