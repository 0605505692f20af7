//go:build unix

package e2e

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestManInTheMiddle puts somebody between client and server who does not know the token: he gets neither a session
// nor the token.
func TestManInTheMiddle(t *testing.T) {
	t.Parallel()
	up := "http://" + says(t, "hello")
	_, cert, key := newAuthority(t).issue(t, "127.0.0.1")
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	own := &tls.Config{Certificates: []tls.Certificate{pair}}

	for _, c := range []struct {
		name, auto, level string
		explained         string // in the client's log
		seen              string // by the man
	}{
		{"auto-TLS", "AUTO_TLS=true", "", "the certificate is not signed by the server's CA", "GET /.well-known/ca.crt?nonce="},
		{"public authorities", "AUTO_TLS=false", "", "the server's certificate is not from a public authority", ""},
	} {
		t.Run("relay, "+c.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			heard := new(record)
			man := newRelay(t, func(r *relay, conn net.Conn) {
				visitor := tls.Server(conn, own)
				if visitor.Handshake() != nil {
					return
				}
				// He trusts any server: he has nothing to lose.
				if real, err := tls.Dial("tcp", s.control, &tls.Config{InsecureSkipVerify: true}); err == nil {
					r.join(visitor, real, heard)
				}
			})
			client := startClient(t, s, up, c.auto, "URL=wss://"+man.addr())
			client.await("cannot connect", "error", c.explained)
			mark := client.mark()
			client.awaitFrom(mark, "cannot connect", "error", c.explained) // it does not give in
			client.never("connected")
			s.never("client connected")
			got := heard.String()
			if !strings.HasPrefix(got, c.seen) || c.seen == "" && got != "" {
				t.Errorf("he heard %q, want %q", got, c.seen)
			}
			if strings.Contains(got, s.token) || strings.Contains(got, "Authorization") {
				t.Errorf("he heard %q", got)
			}
			must(t, answers("https://"+s.control+"/status", `"clients":[]`, s.bearer()...))
		})
	}
	t.Run("CA of his own", func(t *testing.T) {
		t.Parallel()
		heard := new(record)
		man := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(heard, "%s %s %v\n", r.Method, r.URL.Path, r.Header)
			var guess [32]byte
			_, _ = rand.Read(guess[:])
			w.Header().Set("Adit-Ca-Hmac", hex.EncodeToString(guess[:]))
			fmt.Fprint(w, cert)
		}))
		man.TLS = own
		man.StartTLS()
		t.Cleanup(man.Close)
		s := startServer(t)
		client := startClient(t, s, up, "URL=wss://"+man.Listener.Addr().String())
		client.await("cannot connect", "error", "the server's CA is not proven by the token")
		client.never("connected")
		got := heard.String()
		for line := range strings.Lines(got) {
			if !strings.HasPrefix(line, "GET /.well-known/ca.crt ") {
				t.Errorf("he was asked %s", line)
			}
		}
		if got == "" || strings.Contains(got, s.token) || strings.Contains(got, "Authorization") {
			t.Errorf("he heard %q", got)
		}
	})
	t.Run("who passes bytes on does no harm", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		heard := new(record)
		man := newRelay(t, func(r *relay, conn net.Conn) {
			if real, err := net.Dial("tcp", s.control); err == nil {
				r.join(conn, real, heard)
			}
		})
		connect(t, s, up, "URL=wss://"+man.addr())
		must(t, answers(s.url("/"), "hello"))
		if got := heard.String(); got == "" || strings.Contains(got, s.token) {
			t.Errorf("he heard %q", got)
		}
	})
}

// TestDowngrade has somebody in the middle offer the client less than TLS that it can verify: it does not take it.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	_, cert, key := newAuthority(t).issue(t, "127.0.0.1")
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	must(t, err)
	for _, c := range []struct {
		name      string
		secure    bool
		answer    http.HandlerFunc
		explained string
	}{
		{"plain HTTP", false, http.NotFound, "the server speaks plain http on this port"},
		{"no CA", true, http.NotFound, "the server has no auto-TLS CA"},
		{"elsewhere", true, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+r.Host+"/.well-known/ca.crt", http.StatusFound)
		}, "the server answered with status 302"},
		{"refused", true, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }, "the server has another TOKEN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			heard := new(record)
			man := newRelay(t, func(_ *relay, conn net.Conn) {
				if c.secure {
					conn = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}})
				}
				br := bufio.NewReader(io.TeeReader(conn, heard))
				for {
					req, err := http.ReadRequest(br)
					if err != nil {
						_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
						return
					}
					w := httptest.NewRecorder()
					c.answer(w, req)
					resp := w.Result()
					resp.ContentLength = int64(w.Body.Len())
					if resp.Write(conn) != nil {
						return
					}
				}
			})
			token := newToken()
			client := start(t, "client", environment("URL=wss://"+man.addr(), "TOKEN="+token, "UPSTREAMS=http://127.0.0.1:1")...)
			client.await("cannot connect", "error", c.explained)
			client.never("connected")
			if got := heard.String(); strings.Contains(got, token) || strings.Contains(got, "Authorization") {
				t.Errorf("he heard %q", got)
			}
		})
	}
}
