//go:build unix

package e2e

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// connectProxy is an HTTP proxy that knows where names lead, as that of a company does, and may want a password.
type connectProxy struct {
	*relay
	asked record // a line for each request
}

func newConnectProxy(t testing.TB, password string, names map[string]string) *connectProxy {
	t.Helper()
	p := &connectProxy{}
	p.relay = newRelay(t, func(r *relay, conn net.Conn) {
		br := bufio.NewReader(conn)
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		fmt.Fprintf(&p.asked, "%s %s\n", req.Method, req.Host)
		if password != "" && req.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(password)) {
			io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
			return
		}
		to, err := net.Dial("tcp", names[req.Host])
		if err != nil {
			io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
		r.join(struct {
			io.Reader
			io.WriteCloser
		}{br, conn}, to, nil)
	})
	return p
}

// TestProxy has the client reach a server whose name only a proxy can resolve. (Go asks no proxy for addresses of
// this machine.)
func TestProxy(t *testing.T) {
	t.Parallel()
	up := "http://" + says(t, "hello")
	for _, c := range []struct {
		name, auto, url, host string
		variable, password    string
	}{
		{"HTTPS_PROXY", "AUTO_TLS=true", "wss://tunnel.test:8123", "tunnel.test:8123", "HTTPS_PROXY", ""},
		{"https_proxy", "AUTO_TLS=true", "wss://tunnel.test", "tunnel.test:443", "https_proxy", ""},
		{"HTTPS_PROXY with a password", "AUTO_TLS=true", "wss://tunnel.test", "tunnel.test:443", "HTTPS_PROXY", "somebody:let-me-out"},
		{"HTTP_PROXY", "AUTO_TLS=false", "ws://tunnel.test:8123", "tunnel.test:8123", "HTTP_PROXY", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, c.auto)
			proxy := newConnectProxy(t, c.password, map[string]string{c.host: s.control})
			address := "http://" + c.password + "@" + proxy.addr()
			client := connect(t, s, up, c.auto, "URL="+c.url, c.variable+"="+strings.Replace(address, "//@", "//", 1))
			must(t, answers(s.url("/"), "hello"))
			asked := "CONNECT " + c.host + "\n"
			if c.auto == "AUTO_TLS=true" {
				asked += asked // the CA first
			}
			if got := proxy.asked.String(); got != asked {
				t.Errorf("the proxy was asked for\n%swant\n%s", got, asked)
			}
			if c.auto == "AUTO_TLS=false" {
				return // plain HTTP is not asked for by CONNECT
			}
			if r := command(t, "client", "status", client.env...); r.code != 0 || !strings.Contains(r.stdout, "*="+up) {
				t.Errorf("status: %+v", r)
			}
		})
	}
	t.Run("a proxy that refuses", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		proxy := newConnectProxy(t, "somebody:let-me-out", nil)
		client := startClient(t, s, up, "URL=wss://tunnel.test", "HTTPS_PROXY=http://somebody:guess-work@"+proxy.addr())
		client.await("cannot connect", "error", "Proxy Authentication Required")
		if strings.Contains(client.log.String(), "guess-work") {
			t.Error("the proxy's password is logged")
		}
	})
	t.Run("NO_PROXY", func(t *testing.T) {
		t.Parallel()
		proxy := newConnectProxy(t, "", nil)
		client := startClient(t, startServer(t), up, "URL=wss://server.invalid", "HTTPS_PROXY=http://"+proxy.addr(), "NO_PROXY=.invalid")
		client.await("cannot connect", "error", "server.invalid")
		if got := proxy.asked.String(); got != "" {
			t.Errorf("the proxy was asked for %s", got)
		}
	})
}
