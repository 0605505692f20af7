package agent

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// asks is what a proxy was asked for.
type asks struct{ target, authorization string }

// connectProxy is a proxy that connects everybody with address after it was asked, or
// answers something else.
func connectProxy(t testing.TB, address, answer string) (proxy string, asked <-chan asks) {
	c := make(chan asks, 8)
	return listen(t, func(conn net.Conn) {
		br := bufio.NewReader(conn)
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		c <- asks{req.Method + " " + req.Host, req.Header.Get("Proxy-Authorization")}
		if answer != "" {
			_, _ = io.WriteString(conn, answer)
			_, _ = io.Copy(io.Discard, conn)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
		join(conn, address)
	}), c
}

// socksProxy is one that speaks SOCKS5 (RFC 1928) without authentication.
func socksProxy(t testing.TB, address string) (proxy string, asked <-chan asks) {
	c := make(chan asks, 8)
	return listen(t, func(conn net.Conn) {
		head := make([]byte, 2)
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		_, _ = io.ReadFull(conn, make([]byte, head[1])) // methods
		_, _ = conn.Write([]byte{5, 0})
		request := make([]byte, 5)
		_, _ = io.ReadFull(conn, request)
		name := make([]byte, int(request[4])+2)
		_, _ = io.ReadFull(conn, name)
		host, port := name[:len(name)-2], binary.BigEndian.Uint16(name[len(name)-2:])
		c <- asks{target: fmt.Sprintf("%d %s:%d", request[3], host, port)}
		_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		join(conn, address)
	}), c
}

// join carries bytes both ways.
func join(conn net.Conn, address string) {
	there, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(there, conn)
		there.Close()
	})
	_, _ = io.Copy(conn, there)
	conn.Close()
	both.Wait()
}

// through returns what finds the proxy for everything.
func through(t testing.TB, text string) func(*http.Request) (*url.URL, error) {
	t.Helper()
	u, err := url.Parse(text)
	must(t, err)
	return http.ProxyURL(u)
}

func TestProxy(t *testing.T) {
	s := newServer(t)
	address := s.Listener.Addr().String()
	for _, c := range []struct {
		name, user string
		socks      bool
		server     string
		want       asks
	}{
		{"http", "", false, "ws://server.test", asks{target: "CONNECT server.test:80"}},
		{"another port", "", false, "ws://server.test:8123", asks{target: "CONNECT server.test:8123"}},
		{"user and password", "me:let%20me@", false, "ws://server.test", asks{"CONNECT server.test:80", "Basic " + base64.StdEncoding.EncodeToString([]byte("me:let me"))}},
		{"user only", "me@", false, "ws://server.test", asks{"CONNECT server.test:80", "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"))}},
		{"socks5", "", true, "ws://server.test", asks{target: "3 server.test:80"}}, // by name
	} {
		t.Run(c.name, func(t *testing.T) {
			u, err := ParseURL(c.server)
			must(t, err)
			a := newAgent(t, u, "http://"+echo(t))
			proxy, asked := connectProxy(t, address, "")
			scheme := "http://"
			if c.socks {
				proxy, asked = socksProxy(t, address)
				scheme = "socks5h://"
			}
			a.proxy = through(t, scheme+c.user+proxy)
			a.run(t)
			alive(t, s.next(t).open(t, 0))
			if got := within(t, asked); got != c.want {
				t.Errorf("asked for %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestProxyRefuses has the proxy be none, or not willing: the log says why, without the
// password.
func TestProxyRefuses(t *testing.T) {
	closed := freeport.Addr(t)
	answers := func(text string) string {
		proxy, _ := connectProxy(t, "", text)
		return "http://me:let-me@" + proxy
	}
	for _, c := range []struct{ name, proxy, want string }{
		{"wants a password", answers("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"),
			"407 Proxy Authentication Required: give it a user and a password, as in HTTPS_PROXY=http://user:password@127.0.0.1"},
		{"forbids", answers("HTTP/1.1 403 Forbidden\r\n\r\n"), "it answered 403 Forbidden to the request to connect server.test:80"},
		{"no reason", answers("HTTP/1.1 503\r\n\r\n"), "it answered 503 to the request"},
		{"not HTTP", answers("SSH-2.0\r\n"), "malformed HTTP"},
		{"endless", answers("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), "proxy 127.0.0.1"},
		{"early", answers("HTTP/1.1 200 OK\r\n\r\nhello"), "it sent something before the server was asked"},
		{"hangs up", "http://me:let-me@" + listen(t, func(net.Conn) {}), "proxy 127.0.0.1"},
		{"is not there", "http://me:let-me@" + closed, "connection refused"},
		{"unknown scheme", "gopher://me:let-me@proxy.test", "the proxy's address begins with gopher://: use http, https or socks5"},
		{"https that is none", strings.Replace(answers("HTTP/1.1 400 Bad Request\r\n\r\n"), "http", "https", 1), "proxy 127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u, err := ParseURL("ws://server.test")
			must(t, err)
			a := newAgent(t, u, "http://app")
			a.proxy = through(t, c.proxy)
			a.run(t)
			a.log.await(t, "cannot connect", "error", c.want)
			if strings.Contains(a.log.String(), "let-me") || strings.Contains(a.log.String(), token) {
				t.Errorf("a secret is in the log: %s", a.log)
			}
		})
	}
	t.Run("malformed", func(t *testing.T) {
		u, err := ParseURL("ws://server.test")
		must(t, err)
		a := newAgent(t, u, "http://app")
		a.proxy = func(*http.Request) (*url.URL, error) { return nil, errors.New("let-me") }
		a.run(t)
		a.log.await(t, "cannot connect", "error", "look at HTTPS_PROXY")
		if strings.Contains(a.log.String(), "let-me") {
			t.Errorf("a secret is in the log: %s", a.log)
		}
	})
}

func TestWayTo(t *testing.T) {
	var asked string
	u, err := ParseURL("wss://Server.Test/below")
	must(t, err)
	_, err = wayTo(u, func(r *http.Request) (*url.URL, error) {
		asked = r.URL.String()
		return nil, nil
	})
	must(t, err)
	if asked != "https://server.test/below" {
		t.Errorf("asked for the proxy of %s", asked)
	}
	for text, want := range map[string]string{"http://p": "p:80", "https://p": "p:443", "http://p:3128": "p:3128", "http://[::1]": "[::1]:80"} {
		u, err := url.Parse(text)
		must(t, err)
		if got := withPort(u); got != want {
			t.Errorf("%s is at %s, want %s", text, got, want)
		}
	}
}
