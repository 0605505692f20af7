//go:build unix

package grpc

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// patience is how long anything may take before a test gives up.
const patience = 30 * time.Second

var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "adit-grpc-")
	if err != nil {
		panic(err)
	}
	cmd := exec.Command("go", "build", "-o", dir+"/", "./images/server", "./images/client")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(string(out))
	}
	binaries = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// program is a running binary.
type program struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex
	lines []map[string]any
	more  chan struct{} // closed with the next line
}

func start(t testing.TB, name string, env ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command(filepath.Join(binaries, name)), done: make(chan struct{}), more: make(chan struct{})}
	p.cmd.Env = append([]string{
		"DATA_ADDR=127.0.0.1", "CONTROL_ADDR=127.0.0.1", "METRICS_ADDR=127.0.0.1", "PORT=0", "CONTROL_PORT=0", "METRICS_PORT=0",
		"TOKEN=0123456789abcdef0123", "DRAIN_TIMEOUT=10s",
	}, env...)
	out, err := p.cmd.StderrPipe()
	must(t, err)
	must(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			var line map[string]any
			_ = json.Unmarshal(scanner.Bytes(), &line)
			p.mu.Lock()
			p.lines = append(p.lines, line)
			close(p.more)
			p.more = make(chan struct{})
			p.mu.Unlock()
		}
		_ = p.cmd.Wait()
	}()
	t.Cleanup(p.stop)
	return p
}

// await returns a field of the first line of the log with the message and, if name is not
// "", that name of a server.
func (p *program) await(message, name, field string) string {
	p.t.Helper()
	timeout := time.After(patience)
	for seen := 0; ; {
		p.mu.Lock()
		lines, more := p.lines[seen:], p.more
		p.mu.Unlock()
		for _, line := range lines {
			if seen++; line["message"] == message && (name == "" || line["server"] == name) {
				text, _ := line[field].(string)
				return text
			}
		}
		select {
		case <-more:
		case <-p.done:
			p.t.Fatalf("%s has ended", p.cmd.Path)
		case <-timeout:
			p.t.Fatalf("%s does not log %q", p.cmd.Path, message)
		}
	}
}

func (p *program) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
		p.t.Errorf("%s does not end", p.cmd.Path)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Errorf("%s ended with %d", p.cmd.Path, code)
	}
}

// tunnel is a server with a client that is connected.
type tunnel struct {
	t              testing.TB
	server, client *program
	plain, secure  string // addresses for visitors
	cert           string
	roots          *x509.CertPool
}

func newTunnel(t testing.TB, upstreams string, env ...string) *tunnel {
	t.Helper()
	certificate, cert, key := newCertificate(t)
	tun := &tunnel{t: t, cert: cert, roots: x509.NewCertPool()}
	tun.roots.AddCert(certificate)
	tun.server = start(t, "server", append(env, "H2C=true", "TLS_CERT="+cert, "TLS_KEY="+key, "HTTPS_PORT=0")...)
	tun.plain, tun.secure = tun.server.await("listening", "data plane", "addr"), tun.server.await("listening", "data plane TLS", "addr")
	tun.client = tun.join(upstreams)
	tun.server.await("client connected", "", "client_id")
	return tun
}

// join starts a client, and waits until it is connected.
func (tun *tunnel) join(upstreams string) *program {
	tun.t.Helper()
	c := start(tun.t, "client", "URL=wss://"+tun.server.await("listening", "control plane", "addr"), "TLS_CA="+tun.cert, "UPSTREAMS="+upstreams)
	c.await("connected", "", "")
	return c
}

// dial returns a connection of a visitor, which is made with the first call.
func (tun *tunnel) dial(overTLS bool) *grpc.ClientConn {
	tun.t.Helper()
	addr, creds := tun.plain, insecure.NewCredentials()
	if overTLS {
		addr, creds = tun.secure, credentials.NewTLS(&tls.Config{RootCAs: tun.roots})
	}
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	must(tun.t, err)
	tun.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// service starts the server of a private service on an address, ":0" for a free one.
func service(t testing.TB, addr string, handler testgrpc.TestServiceServer, opts ...grpc.ServerOption) (*grpc.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1"+addr)
	must(t, err)
	s := grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(64<<20))...)
	testgrpc.RegisterTestServiceServer(s, handler)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		wg.Wait()
	})
	return s, l.Addr().String()
}

// newCertificate returns a certificate that has signed itself, for 127.0.0.1.
func newCertificate(t testing.TB) (certificate *x509.Certificate, certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	certificate, err = x509.ParseCertificate(der)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return certificate, encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)
}

// call returns a context for one call.
func call(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':'):] }
