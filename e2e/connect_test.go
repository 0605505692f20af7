//go:build unix

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// whoami answers with what an upstream is told about its visitor.
func whoami(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s for %s, host %s", r.Header.Get("X-Forwarded-Proto"), r.URL.Path, r.Header.Get("X-Forwarded-For"), r.Host)
}

// TestConnect goes every way in which a client can reach a server.
func TestConnect(t *testing.T) {
	t.Parallel()
	up := "http://" + upstream(t, whoami)
	t.Run("auto-TLS", func(t *testing.T) {
		t.Parallel()
		tun := newTunnel(t, up)
		curl(t, tun.url("/a")).want(t, 200, "http /a for 127.0.0.1, host "+tun.data)
		r := curl(t, "-k", "https://"+tun.control+"/.well-known/ca.crt")
		r.want(t, 200, "-----BEGIN CERTIFICATE-----")
		// The server's certificate is one that other programs can verify, too.
		ca := write(t, "ca.crt", r.body)
		curl(t, "--cacert", ca, "https://"+tun.control+"/healthz").want(t, 200, "ok")
		curl(t, "--cacert", ca, "https://localhost:"+port(tun.control)+"/healthz").want(t, 200, "ok")
	})
	t.Run("auto-TLS with a folder and names", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		tun := newTunnel(t, up, "AUTO_TLS_DIR="+dir, "AUTO_TLS_SAN=tunnel.test,10.1.2.3")
		curl(t, tun.url("/a")).want(t, 200, "http /a")
		ca := filepath.Join(dir, "ca.crt")
		curl(t, "--cacert", ca, "--connect-to", "tunnel.test:443:"+tun.control, "https://tunnel.test/healthz").want(t, 200, "ok")
		if key, err := os.Stat(filepath.Join(dir, "ca.key")); err != nil || key.Mode().Perm() != 0o600 {
			t.Errorf("ca.key: %v %v", key, err)
		}
		tun.client.stop()
		tun.stop()
		before, err := os.ReadFile(ca)
		must(t, err)
		again := newTunnel(t, up, "AUTO_TLS_DIR="+dir)
		curl(t, "-k", "https://"+again.control+"/.well-known/ca.crt").want(t, 200, string(before))
	})
	t.Run("ws", func(t *testing.T) {
		t.Parallel()
		s := startServer(t, "AUTO_TLS=false")
		s.await("the control plane speaks plain HTTP: TLS has to end in front of it, or the token travels in clear text")
		connect(t, s, up, "AUTO_TLS=false", "URL=ws://"+s.control)
		curl(t, s.url("/a")).want(t, 200, "http /a")
		curl(t, "http://"+s.control+"/status", "-H", "Authorization: Bearer "+s.token).want(t, 200, `"clients":[{`)
		curl(t, "http://"+s.control+"/.well-known/ca.crt").want(t, 404, "set AUTO_TLS=false on the client")
	})
	t.Run("TLS_CERT by value", func(t *testing.T) {
		t.Parallel()
		ca := newAuthority(t)
		_, cert, key := ca.issue(t, "127.0.0.1", "example.com")
		s := startServer(t, "TLS_CERT="+cert, "TLS_KEY="+key, "HTTPS_PORT=0")
		connect(t, s, up, "TLS_CA="+ca.pem)
		file := write(t, "ca.pem", ca.pem)
		curl(t, "--cacert", file, "https://"+s.addr("data plane TLS")+"/a").want(t, 200, "https /a for 127.0.0.1")
		curl(t, "--cacert", file, "--connect-to", "example.com:443:"+s.addr("data plane TLS"), "https://example.com/a").
			want(t, 200, "https /a for 127.0.0.1, host example.com")
		curl(t, s.url("/a")).want(t, 200, "http /a")
	})
	t.Run("TLS_CERT of an authority that the system trusts", func(t *testing.T) {
		t.Parallel()
		ca := newAuthority(t)
		_, cert, key := ca.issue(t, "127.0.0.1")
		s := startServer(t, "TLS_CERT="+cert, "TLS_KEY="+key, "HTTPS_PORT=0")
		connect(t, s, up, "AUTO_TLS=false", "SSL_CERT_FILE="+write(t, "ca.pem", ca.pem))
		curl(t, s.url("/a")).want(t, 200, "http /a")
	})
}

// TestCertificateReplaced renews the operator's certificate under a running server.
func TestCertificateReplaced(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	old, cert, key := ca.issue(t, "127.0.0.1")
	certFile, keyFile := write(t, "tls.crt", cert), write(t, "tls.key", key)
	s := startServer(t, "TLS_CERT_FILE="+certFile, "TLS_KEY_FILE="+keyFile, "HTTPS_PORT=0")
	c := connect(t, s, "http://"+says(t, "hello"), "TLS_CA_FILE="+write(t, "ca.pem", ca.pem))
	planes := []string{s.control, s.addr("data plane TLS")}
	for _, addr := range planes {
		must(t, served(addr, old))
	}

	// A key that does not fit changes nothing.
	renewed, cert, key := ca.issue(t, "127.0.0.1")
	must(t, os.WriteFile(certFile, []byte(cert), 0o600))
	s.await("new certificate cannot be used, the one before stays in use")
	for _, addr := range planes {
		must(t, served(addr, old))
	}
	must(t, os.WriteFile(keyFile, []byte(key), 0o600))
	s.await("certificate replaced")
	for _, addr := range planes {
		must(t, served(addr, renewed))
	}
	must(t, answers(s.url("/"), "hello"))
	c.never("connection lost")
	// Whoever connects now verifies the new one.
	connect(t, s, "http://"+says(t, "hello"), "TLS_CA="+ca.pem)
}

// served returns nil if a TLS port presents the certificate.
func served(addr string, want *x509.Certificate) error {
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return err
	}
	defer conn.Close()
	if got := conn.ConnectionState().PeerCertificates[0]; !got.Equal(want) {
		return fmt.Errorf("%s presents the certificate %v, want %v", addr, got.SerialNumber, want.SerialNumber)
	}
	return nil
}
