package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

const patience = 20 * time.Second

// public signs what counts as verified by a public authority, private what does not.
var public, private authority

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "adit-upstream-")
	if err != nil {
		panic(err)
	}
	public, private = newAuthority(), newAuthority()
	file := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public.cert.Raw}), 0o600); err != nil {
		panic(err)
	}
	os.Setenv("SSL_CERT_FILE", file) // where the system's roots are, before anybody looks
	os.Setenv("SSL_CERT_DIR", dir)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority() authority {
	a := authority{}
	a.cert, a.key = issue(&x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SerialNumber: big.NewInt(1),
	}, a)
	return a
}

// certificate returns one for names and addresses.
func (a authority) certificate(names ...string) tls.Certificate {
	template := &x509.Certificate{SerialNumber: big.NewInt(2), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	cert, key := issue(template, a)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func issue(template *x509.Certificate, by authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := by.cert, by.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert, key
}

// listen accepts connections until the test ends, and handles each.
func listen(t testing.TB, network string, handle func(net.Conn)) (address string) {
	t.Helper()
	address = "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "app.sock")
	}
	l, err := net.Listen(network, address)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			handle(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

// echo sends back the first bytes.
func echo(c net.Conn) {
	p := make([]byte, 100)
	n, _ := c.Read(p)
	_, _ = c.Write(p[:n])
}

// secure is echo over TLS with a certificate, and says which name was asked for.
func secure(cert tls.Certificate) func(net.Conn) {
	return func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}})
		if s.Handshake() == nil {
			fmt.Fprintf(s, "%s %q ", s.ConnectionState().NegotiatedProtocol, s.ConnectionState().ServerName)
			echo(s)
		}
		_ = s.Close()
	}
}

func parse(t testing.TB, text string) route.Upstream {
	t.Helper()
	u, err := route.Parse(text)
	must(t, err)
	return u
}

func TestDial(t *testing.T) {
	good, wrong, own := public.certificate("127.0.0.1", "localhost"), public.certificate("elsewhere.test"), private.certificate("127.0.0.1", "localhost")
	silent := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	closed := freeport.Addr(t)
	dir := t.TempDir()
	at := func(text string, network string, handle func(net.Conn)) string {
		return strings.Replace(text, "ADDR", listen(t, network, handle), 1)
	}
	for _, c := range []struct {
		name    string
		text    string
		timeout time.Duration
		want    string      // what comes first
		code    tunnel.Code // or why nothing does
		part    string      // of the error
	}{
		{name: "http", text: at("http://ADDR", "tcp", echo)},
		{name: "tcp", text: at("2222=ADDR", "tcp", echo)},
		{name: "unix", text: at("unix://ADDR", "unix", echo)},
		{name: "tcp to unix", text: at("2222=unix://ADDR", "unix", echo)},
		{name: "https", text: at("https://ADDR", "tcp", secure(good)), want: `http/1.1 "" `},
		{name: "https by name", text: strings.Replace(at("https://ADDR", "tcp", secure(good)), "127.0.0.1", "localhost", 1), want: `http/1.1 "localhost" `},
		{name: "https, HTTP/2", text: at("https://ADDR?http2=true", "tcp", secure(good)), want: `h2 "" `},
		{name: "https, HTTP/2 not chosen", text: at("https://ADDR?http2=true", "tcp", func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{good}}).Handshake()
		}), code: tunnel.CodeTLS, part: "leave out http2=true"},
		{name: "https, HTTP/2 refused", text: at("https://ADDR?http2=true", "tcp", func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{good}, NextProtos: []string{"http/1.1"}}).Handshake()
		}), code: tunnel.CodeTLS, part: "no application protocol"},
		{name: "https, not verified", text: at("https://ADDR?insecure=true", "tcp", secure(own)), want: `http/1.1 "" `},
		{name: "https, wrong name, not verified", text: at("https://ADDR?insecure=true", "tcp", secure(wrong)), want: `http/1.1 "" `},
		{name: "https, another authority", text: at("https://ADDR", "tcp", secure(own)), code: tunnel.CodeTLS, part: "unknown authority"},
		{name: "https, wrong name", text: at("https://ADDR", "tcp", secure(wrong)), code: tunnel.CodeTLS, part: "127.0.0.1"},
		{name: "https, but it speaks HTTP", text: at("https://ADDR", "tcp", func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1000))
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		}), code: tunnel.CodeTLS},
		{name: "https, old TLS only", text: at("https://ADDR", "tcp", func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{good}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).Handshake()
		}), code: tunnel.CodeTLS},
		{name: "https, but it says nothing", text: at("https://ADDR", "tcp", silent), timeout: 50 * time.Millisecond, code: tunnel.CodeTimeout},
		{name: "https, but it hangs up", text: at("https://ADDR", "tcp", func(net.Conn) {}), code: tunnel.CodeUnreachable},
		{name: "nobody there", text: "http://" + closed, code: tunnel.CodeRefused, part: "connection refused"},
		{name: "no socket there", text: "unix://" + dir + "/none.sock", code: tunnel.CodeRefused},
		{name: "no time", text: at("http://ADDR", "tcp", echo), timeout: 1, code: tunnel.CodeTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.timeout == 0 {
				c.timeout = patience
			}
			conn, err := Dialer{Timeout: c.timeout}.Dial(t.Context(), parse(t, c.text), tunnel.Target{})
			if c.code != tunnel.CodeNone {
				if err == nil {
					conn.Close()
				}
				if err == nil || Code(err) != c.code || !strings.Contains(err.Error(), c.part) {
					t.Errorf("got %v, %s, want %s %s", err, Code(err), c.code, c.part)
				}
				return
			}
			must(t, err)
			defer conn.Close()
			must(t, second(io.WriteString(conn, "ping")))
			got, err := io.ReadAll(conn)
			must(t, err)
			if string(got) != c.want+"ping" {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestDialGivenUp ends with the context, also while the upstream says nothing.
func TestDialGivenUp(t *testing.T) {
	arrived := make(chan struct{}, 2)
	hold := func(c net.Conn) {
		arrived <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	u := parse(t, "https://"+listen(t, "tcp", hold))
	go func() {
		_, err := Dialer{Timeout: time.Hour}.Dial(ctx, u, tunnel.Target{})
		result <- err
	}()
	within(t, arrived)
	cancel()
	if err := within(t, result); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestDeadline wants no deadline of the dial to be left on the connection.
func TestDeadline(t *testing.T) {
	const timeout = 100 * time.Millisecond
	for _, text := range []string{"2222=ADDR?proxy=v2", "https://ADDR?insecure=true"} {
		late := make(chan struct{})
		u := parse(t, strings.Replace(text, "ADDR", listen(t, "tcp", func(c net.Conn) {
			if strings.HasPrefix(text, "https") {
				s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{private.certificate("127.0.0.1")}})
				_ = s.Handshake()
				c = s
			}
			<-late
			_, _ = io.WriteString(c, "late")
			_, _ = io.Copy(io.Discard, c)
		}), 1))
		conn, err := Dialer{Timeout: timeout}.Dial(t.Context(), u, tunnel.Target{})
		must(t, err)
		<-time.After(2 * timeout)
		close(late)
		must(t, second(conn.Read(make([]byte, 1))))
		must(t, second(io.WriteString(conn, "ping")))
		conn.Close()
	}
}

func TestCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want tunnel.Code
	}{
		{&net.OpError{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, tunnel.CodeRefused},
		{&net.OpError{Err: os.NewSyscallError("connect", syscall.ENOENT)}, tunnel.CodeRefused},
		{&net.OpError{Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}, tunnel.CodeUnreachable},
		{&net.OpError{Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}, tunnel.CodeTimeout},
		{&net.OpError{Err: &net.DNSError{IsNotFound: true}}, tunnel.CodeUnreachable},
		{&net.OpError{Err: &net.DNSError{IsTimeout: true}}, tunnel.CodeTimeout},
		{fmt.Errorf("dial: %w", context.DeadlineExceeded), tunnel.CodeTimeout},
		{context.Canceled, tunnel.CodeUnreachable},
		{io.EOF, tunnel.CodeUnreachable},
		{&handshakeError{&net.OpError{Op: "remote error", Err: tls.AlertError(40)}}, tunnel.CodeTLS},
		{&handshakeError{&tls.CertificateVerificationError{Err: errors.New("bad")}}, tunnel.CodeTLS},
		{&handshakeError{tls.RecordHeaderError{}}, tunnel.CodeTLS},
		{&handshakeError{errors.New("tls: server selected something odd")}, tunnel.CodeTLS},
		{&handshakeError{context.DeadlineExceeded}, tunnel.CodeTimeout},
		{&handshakeError{os.ErrDeadlineExceeded}, tunnel.CodeTimeout},
		{&handshakeError{io.EOF}, tunnel.CodeUnreachable},
		{&handshakeError{&net.OpError{Err: os.NewSyscallError("read", syscall.ECONNRESET)}}, tunnel.CodeUnreachable},
	} {
		if got := Code(c.err); got != c.want {
			t.Errorf("%v is %s, want %s", c.err, got, c.want)
		}
	}
}

func within[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatal("it takes too long")
	}
	return v
}

func second[T any](_ T, err error) error { return err }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
