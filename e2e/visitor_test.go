//go:build unix

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// Upstreams are told who the visitor is by whoever is trusted with that, and by nobody else.
func TestWhoTheVisitorIs(t *testing.T) {
	t.Parallel()
	names := []string{"X-Real-Ip", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Fly-Client-Ip", "Cf-Connecting-Ip", "True-Client-Ip"}
	private := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		for _, name := range names {
			fmt.Fprintf(w, "%s|", strings.Join(r.Header[name], "+"))
		}
	})
	for _, c := range []struct{ name, trusted, want string }{
		{"nobody is trusted", "", "127.0.0.1|127.0.0.1|http|a.test||||"},
		{"platforms that this is not", "fly,heroku,cloudflare,cloudfront", "127.0.0.1|127.0.0.1|http|a.test||||"},
		{"a proxy of one's own", "private", "203.0.113.7|203.0.113.7, 10.0.0.1, 127.0.0.1|https|evil.test||||"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tun := newTunnel(t, "http://"+private, "TRUSTED_PROXIES="+c.trusted)
			header := []string{"X-Forwarded-For: 6.6.6.6, 203.0.113.7:4711, 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.test",
				"X-Real-IP: 6.6.6.6", "Fly-Client-IP: 6.6.6.6", "CF-Connecting-IP: 6.6.6.6", "True-Client-IP: 6.6.6.6"}
			args := []string{"-H", "Host: a.test"}
			for _, h := range header {
				args = append(args, "-H", h)
			}
			// Twice, on one connection: the second request is a plain one to the server.
			if got := curl(t, append(args, tun.url("/"), tun.url("/"))...).body; got != c.want+c.want {
				t.Errorf("the upstream is told %s, want %s twice", got, c.want)
			}
		})
	}
}

// Everything that visitors do is in the access log, and nothing that they may want to keep to themselves.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	private, port := says(t, "hello"), freeport.New(t)
	tun := newTunnel(t, fmt.Sprintf("a.test=http://%s,%d=%[1]s", private, port), "MODE=http,tcp", "ACCESS_LOG=true", "TRUSTED_PROXIES=private", "H2C=true")
	curl(t, "-H", "Host: a.test", "-H", "X-Forwarded-For: 203.0.113.7", "-H", "Cookie: hidden", "-u", "me:hidden", "-A", "tester",
		tun.url("/path?hidden=hidden"), tun.url("/path?hidden")).want(t, http.StatusOK, "hello")
	curl(t, "--http2-prior-knowledge", "-H", "Host: a.test", "-H", "Cookie: hidden", tun.url("/two?hidden")).want(t, http.StatusOK, "hello")
	curl(t, tun.url("/")).want(t, http.StatusNotFound, "nothing is exposed")
	curl(t, "-H", "Cookie: hidden", fmt.Sprintf("http://127.0.0.1:%d/hidden", port)).want(t, http.StatusOK, "hello")
	fields := []string{"visitor", "203.0.113.7", "method", "GET", "host", "a.test", "path", "/path", "status", "200", "sent", "5", "user_agent", "tester", "protocol", "HTTP/1.1"}
	first := tun.await("request", fields...)
	tun.await("request", "path", "/two", "protocol", "HTTP/2.0", "sent", "5", "host", "a.test")
	tun.await("request", "host", "unmatched", "visitor", "127.0.0.1", "status", "404")
	tun.await("connection", "port", fmt.Sprint(port), "visitor", "127.0.0.1", "reason", "end", "client_id", first.field("client_id"))
	n := 0
	for _, e := range tun.log.from(0) {
		if e.is("request", fields...) {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d lines for two requests", n)
	}
	if strings.Contains(tun.log.String(), "hidden") {
		t.Errorf("the log has what is to be hidden:\n%s", tun.log.String())
	}
}
