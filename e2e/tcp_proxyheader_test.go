//go:build unix

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// headerService is an nginx that demands a PROXY header, and answers with what it says.
func headerService(t testing.TB) string {
	t.Helper()
	nginx := needProgram(t, "nginx", "nginx-light")
	_, addr := privatePort(t)
	dir := t.TempDir()
	config := write(t, "nginx.conf", fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/pid; error_log stderr warn;
events { worker_connections 64; }
http {
	access_log off;
	client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	server {
		listen %[2]s proxy_protocol;
		return 200 "$proxy_protocol_addr:$proxy_protocol_port to $proxy_protocol_server_addr:$proxy_protocol_server_port, forwarded for $http_x_forwarded_for";
	}
}`, dir, addr))
	serve(t, syscall.SIGTERM, addr, nginx, "-c", config, "-e", "stderr")
	return addr
}

// say opens a connection, sends text, and returns the body of the HTTP answer and the two ends of the connection.
func say(addr, text string) (body, from string, err error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		return "", "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", conn.LocalAddr().String(), err
	}
	b, err := io.ReadAll(resp.Body)
	return string(b), conn.LocalAddr().String(), err
}

// TestProxyHeader passes on who the visitor is to nginx: as the connection has it, and as a load balancer in front
// of the server says, whose word counts for HTTP as well.
func TestProxyHeader(t *testing.T) {
	t.Parallel()
	const request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
	private := headerService(t)
	v1, v2, none := freeport.New(t), freeport.New(t), freeport.New(t)
	upstreams := fmt.Sprintf("%d=%s?proxy=v1,%d=%s?proxy=v2,%d=%s,a.test=http://%s?proxy=v2", v1, private, v2, private, none, private, private)
	for _, c := range []struct {
		name, header string
		env          []string
		want         string // with FROM and TO for the connection's ends
		web          string // forwarded for
	}{
		{"no load balancer", "", nil, "FROM to TO, forwarded for ", "127.0.0.1"},
		{"a load balancer", "PROXY TCP4 203.0.113.7 198.51.100.9 4711 443\r\n", []string{"PROXY_PROTOCOL=true", "TRUSTED_PROXIES=127.0.0.0/8"},
			"203.0.113.7:4711 to 198.51.100.9:443, forwarded for ", "203.0.113.7"},
		{"a load balancer, version 2", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\xc6\x33\x64\x09\x12\x67\x01\xbb", []string{"PROXY_PROTOCOL=true", "TRUSTED_PROXIES=127.0.0.1"},
			"203.0.113.7:4711 to 198.51.100.9:443, forwarded for ", "203.0.113.7"},
		{"a load balancer for IPv6", "PROXY TCP6 2001:db8::7 2001:db8::9 4711 443\r\n", []string{"PROXY_PROTOCOL=true", "TRUSTED_PROXIES=127.0.0.1"},
			"2001:db8::7:4711 to 2001:db8::9:443, forwarded for ", "2001:db8::7"},
		{"a health check of the load balancer", "PROXY UNKNOWN\r\n", []string{"PROXY_PROTOCOL=true", "TRUSTED_PROXIES=127.0.0.1"},
			"FROM to TO, forwarded for ", "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) { // one after another: the ports are the same
			s := startServer(t, append(c.env, "MODE=http,tcp")...)
			startClient(t, s, upstreams).await("connected")
			for _, port := range []int{v1, v2} {
				addr := fmt.Sprint("127.0.0.1:", port)
				got, from, err := say(addr, c.header+request)
				if want := strings.NewReplacer("FROM", from, "TO", addr).Replace(c.want); got != want {
					t.Errorf("got %q %v, want %q", got, err, want)
				}
			}
			got, _, err := say(s.data, c.header+request)
			if !strings.HasSuffix(got, ", forwarded for "+c.web) {
				t.Errorf("HTTP: got %q %v, want it forwarded for %s", got, err, c.web)
			}
			// nginx gets no header here, so it must not understand a word.
			if got, _, err := say(fmt.Sprint("127.0.0.1:", none), c.header+request); err == nil {
				t.Errorf("an upstream that was not to get a header got one: %q", got)
			}
		})
	}
	t.Run("lies", func(t *testing.T) {
		s := startServer(t, "MODE=http,tcp", "PROXY_PROTOCOL=true", "TRUSTED_PROXIES=192.0.2.1")
		startClient(t, s, upstreams).await("connected")
		const lie = "PROXY TCP4 203.0.113.7 198.51.100.9 4711 443\r\n"
		if got, _, err := say(fmt.Sprint("127.0.0.1:", v2), lie+request); err == nil && strings.Contains(got, "203.0.113.7") {
			t.Errorf("TCP: somebody who is not trusted was believed: %q", got)
		}
		if got, _, err := say(s.data, lie+request); err == nil && strings.Contains(got, "203.0.113.7") {
			t.Errorf("HTTP: somebody who is not trusted was believed: %q", got)
		}
		// Their bytes are passed on as they are.
		got, from, err := say(fmt.Sprint("127.0.0.1:", v2), request)
		if want := fmt.Sprintf("%s to 127.0.0.1:%d, forwarded for ", from, v2); got != want {
			t.Errorf("got %q %v, want %q", got, err, want)
		}
	})
	t.Run("no header from a load balancer", func(t *testing.T) {
		s := startServer(t, "MODE=http,tcp", "PROXY_PROTOCOL=true", "TRUSTED_PROXIES=127.0.0.1")
		startClient(t, s, upstreams).await("connected")
		for _, addr := range []string{s.data, fmt.Sprint("127.0.0.1:", v2)} {
			if got, _, err := say(addr, request); err == nil && got != "" {
				t.Errorf("%s answers %q to a connection whose origin nobody knows", addr, got)
			}
		}
	})
}
