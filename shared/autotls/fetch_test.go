package autotls

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestFetch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		tokens []string
		token  string
		want   error
	}{
		{name: "same token", tokens: []string{tokenA}, token: tokenA},
		{name: "rotation, old token", tokens: []string{tokenA, tokenB}, token: tokenA},
		{name: "rotation, new token", tokens: []string{tokenA, tokenB}, token: tokenB},
		{name: "another token", tokens: []string{tokenA}, token: tokenB, want: ErrUntrusted},
		{name: "server without tokens", tokens: nil, token: tokenA, want: ErrUntrusted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serveCA(t, newAuthority(t, ""), tt.tokens...)
			config, err := Fetch(t.Context(), s.wss(), tt.token, nil)
			if !errors.Is(err, tt.want) || (config == nil) != (tt.want != nil) {
				t.Fatalf("Fetch = %v, %v, want %v", config, err, tt.want)
			}
			if strings.Contains(s.saw(), tt.token) {
				t.Fatalf("the token is in the request for the CA:\n%s", s.saw())
			}
			if err != nil {
				if strings.Contains(err.Error(), tt.token) {
					t.Fatalf("the token is in the error %q", err)
				}
				return
			}
			if err := connect(t, s.addr(), config, tt.token); err != nil {
				t.Fatalf("connect: %v", err)
			}
			if !strings.Contains(s.saw(), "Authorization: Bearer "+tt.token) {
				t.Fatalf("the token did not arrive:\n%s", s.saw())
			}
		})
	}
}

func TestFetchShortTokens(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"", "fifteen-bytes.."} {
		s := serveCA(t, newAuthority(t, ""), token)
		if _, err := Fetch(t.Context(), s.wss(), token, nil); err == nil || !strings.Contains(err.Error(), "fewer than 16") {
			t.Errorf("Fetch with %d bytes of token: %v", len(token), err)
		}
		if s.saw() != "" {
			t.Errorf("a request was made:\n%s", s.saw())
		}
	}
}

func TestFetchBelowAPath(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "")
	mux := http.NewServeMux()
	mux.Handle("/_adit"+Path, a.Handler(func() []string { return []string{tokenA} }))
	s := serve(t, a.TLSConfig(), mux)
	for _, path := range []string{"/_adit", "/_adit/"} {
		if _, err := Fetch(t.Context(), s.wss()+path, tokenA, nil); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestFetchErrors(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "")
	status := func(code int) func(testing.TB) string {
		return func(t testing.TB) string {
			return serve(t, a.TLSConfig(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "https://"+r.Host+"/elsewhere")
				w.WriteHeader(code)
			})).wss()
		}
	}
	fixed := func(s string) func(testing.TB) string { return func(testing.TB) string { return s } }
	tests := []struct {
		name string
		url  func(testing.TB) string
		want error
		text string
	}{
		{name: "auto-TLS off", url: status(404), want: ErrNoCA, text: "set AUTO_TLS=false here"},
		{name: "another token", url: status(403), want: ErrUntrusted, text: "another TOKEN"},
		{name: "draining", url: status(503), text: "status 503"},
		{name: "redirect", url: status(307), text: "status 307"},
		{name: "not a control plane", url: status(200), want: ErrUntrusted, text: "is this the URL of a server's control plane?"},
		{name: "plain http", want: ErrPlainHTTP, text: "speaks plain http", url: func(t testing.TB) string {
			return serve(t, nil, http.NotFoundHandler()).URL[len("http"):]
		}},
		{name: "neither", text: "does not speak TLS", url: func(t testing.TB) string {
			return listen(t, func(conn net.Conn) {
				io.WriteString(conn, "SSH-2.0-OpenSSH_10.0\r\n")
				io.Copy(io.Discard, conn)
			})
		}},
		{name: "hangs up", text: "fetch the CA of 127.0.0.1", url: func(t testing.TB) string {
			return listen(t, func(net.Conn) {})
		}},
		{name: "nobody there", text: "refused", url: func(t testing.TB) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			return "wss://" + l.Addr().String()
		}},
		{name: "ws", url: fixed("ws://example.com"), text: "begins with wss://, not ws://"},
		{name: "http", url: fixed("http://example.com"), text: "not http://"},
		{name: "other scheme", url: fixed("ftp://example.com"), text: `begins with "ftp://"`},
		{name: "no scheme", url: fixed("example.com"), text: "malformed"},
		{name: "no host", url: fixed("wss:///x"), text: "malformed"},
		{name: "password", url: fixed("wss://me:hunter2@:x/y"), text: "malformed"},
		{name: "endless answer", want: ErrUntrusted, text: "longer than", url: func(t testing.TB) string {
			return serve(t, a.TLSConfig(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set(hmacHeader, "00")
				for {
					if _, err := w.Write(make([]byte, 4096)); err != nil {
						return
					}
				}
			})).wss()
		}},
		{name: "endless header", text: "exceeded", url: func(t testing.TB) string {
			return serve(t, a.TLSConfig(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X", strings.Repeat("x", 1<<20))
			})).wss()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target := tt.url(t)
			if strings.HasPrefix(target, "://") {
				target = "wss" + target
			}
			config, err := Fetch(t.Context(), target, tokenA, nil)
			if err == nil || config != nil {
				t.Fatalf("Fetch = %v, %v", config, err)
			}
			if tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("error %q, want %v with %q", err, tt.want, tt.text)
			}
			for _, secret := range []string{tokenA, "hunter2", "nonce="} {
				if strings.Contains(err.Error(), secret) {
					t.Fatalf("%q is in the error %q", secret, err)
				}
			}
			t.Log(err)
		})
	}
}

// listen accepts connections and returns its URL; each handle is waited for.
func listen(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return "wss://" + l.Addr().String()
}

// Fetch does not outlive its context when the server accepts and then says nothing.
func TestFetchCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("shutting down")
	target := listen(t, func(conn net.Conn) {
		cancel(reason)
		io.Copy(io.Discard, conn)
	})
	if _, err := Fetch(ctx, target, tokenA, nil); !errors.Is(err, reason) {
		t.Fatalf("error %v, want %v", err, reason)
	}
}

// A platform that ends TLS in front of a server whose auto-TLS is on looks the same as someone in the middle.
func TestFetchBehindTLSTermination(t *testing.T) {
	t.Parallel()
	s := serve(t, newAuthority(t, "").TLSConfig(), newAuthority(t, "").Handler(func() []string { return []string{tokenA} }))
	_, err := Fetch(t.Context(), s.wss(), tokenA, nil)
	if !errors.Is(err, ErrIntercepted) || !strings.Contains(err.Error(), "AUTO_TLS=false") {
		t.Fatalf("error %v, want %v", err, ErrIntercepted)
	}
}

// After a restart with a new CA the old configuration is refused, and a new Fetch works.
func TestFetchAgainAfterRestart(t *testing.T) {
	t.Parallel()
	before := serveCA(t, newAuthority(t, ""), tokenA)
	after := serveCA(t, newAuthority(t, ""), tokenA)
	config, err := Fetch(t.Context(), before.wss(), tokenA, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := connect(t, after.addr(), config, tokenA); !errors.Is(err, ErrIntercepted) {
		t.Fatalf("old CA: %v, want %v", err, ErrIntercepted)
	}
	if strings.Contains(after.saw(), tokenA) {
		t.Fatal("the token was sent")
	}
	if config, err = Fetch(t.Context(), after.wss(), tokenA, nil); err != nil {
		t.Fatal(err)
	}
	if err := connect(t, after.addr(), config, tokenA); err != nil {
		t.Fatal(err)
	}
}

// proxy is an HTTP proxy that knows CONNECT only, and wants a password.
func proxy(t testing.TB, config *tls.Config, connected chan<- string) *url.URL {
	t.Helper()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:hunter2"))
	s := serve(t, config, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != want {
			http.Error(w, "no", http.StatusProxyAuthRequired)
			return
		}
		connected <- r.Host
		up, err := net.Dial("tcp", r.Host)
		if err != nil {
			t.Error(err)
			return
		}
		defer up.Close()
		down, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer down.Close()
		io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		relay(down, buffered.Reader, up)
	}))
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("me", "hunter2")
	return u
}

// relay copies both ways until both sides have ended.
func relay(down net.Conn, from *bufio.Reader, up net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(up, from)
		up.Close()
	}()
	io.Copy(down, up)
	down.Close()
	<-done
}

func TestFetchThroughProxy(t *testing.T) {
	t.Parallel()
	trusted := newAuthority(t, "")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted.CertificatePEM())
	tests := []struct {
		name  string
		proxy *tls.Config // nil: plain http
		want  string
	}{
		{name: "http"},
		{name: "https", proxy: trusted.TLSConfig()},
		{name: "https, unknown certificate", proxy: newAuthority(t, "").TLSConfig(), want: "signed by unknown authority"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			connected := make(chan string, 1)
			via := proxy(t, tt.proxy, connected)
			s := serveCA(t, newAuthority(t, ""), tokenA)
			_, err := Fetch(t.Context(), s.wss(), tokenA, &http.Transport{
				Proxy:           http.ProxyURL(via),
				TLSClientConfig: &tls.Config{RootCAs: roots},
			})
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := <-connected; got != s.addr() {
				t.Fatalf("the proxy connected to %s, not %s", got, s.addr())
			}
		})
	}
	t.Run("malformed", func(t *testing.T) {
		t.Parallel()
		_, err := Fetch(t.Context(), "wss://example.com", tokenA, &http.Transport{
			Proxy: func(*http.Request) (*url.URL, error) { return nil, errors.New("http://me:hunter2@:x") },
		})
		if err == nil || !strings.Contains(err.Error(), "HTTPS_PROXY") || strings.Contains(err.Error(), "hunter2") {
			t.Fatalf("error %v", err)
		}
	})
}

func TestVerifierTime(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ca, err := makeAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		made time.Time
		text string
	}{
		{name: "now", made: now},
		{name: "the server's clock is half a day fast", made: now.Add(day / 2)},
		{name: "expired", made: now.Add(-2 * leafLife), text: "is the clock right, here and there?"},
		{name: "from the future", made: now.Add(2 * day), text: "is the clock right, here and there?"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			leaf, err := ca.issue(tt.made, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = verifier(ca.cert)(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf.Leaf}})
			if (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("error %v, want %q", err, tt.text)
			}
		})
	}
	if err := verifier(ca.cert)(tls.ConnectionState{}); !errors.Is(err, ErrIntercepted) {
		t.Errorf("no certificate: %v", err)
	}
}

func BenchmarkFetch(b *testing.B) {
	a := newAuthority(b, "")
	s := serveCA(b, a, tokenA)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Fetch(b.Context(), s.wss(), tokenA, nil); err != nil {
			b.Fatal(err)
		}
	}
}
