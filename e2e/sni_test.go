//go:build unix

package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestCertificatesBySNI gives the server three certificates, and changes one under an open connection.
func TestCertificatesBySNI(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one, oneCert, oneKey := ca.issue(t, "one.test", "127.0.0.1")
	two, twoCert, twoKey := ca.issue(t, "*.two.test")
	three, threeCert, threeKey := ca.issue(t, "three.test")
	certFile := write(t, "tls.crt", oneCert+twoCert+threeCert)
	keyFile := write(t, "tls.key", threeKey+oneKey+twoKey)
	s := startServer(t, "TLS_CERT_FILE="+certFile, "TLS_KEY_FILE="+keyFile, "HTTPS_PORT=0")
	caFile := write(t, "ca.pem", ca.pem)
	connect(t, s, "http://"+says(t, "hello"), "TLS_CA="+ca.pem)
	addr := s.addr("data plane TLS")

	for _, tt := range []struct {
		name string
		want *x509.Certificate
	}{{"one.test", one}, {"a.two.test", two}, {"three.test", three}, {"other.test", one}, {"", one}} {
		must(t, presents(addr, tt.name, tt.want))
	}
	for _, name := range []string{"one.test", "a.two.test", "three.test"} {
		curl(t, "--cacert", caFile, "--connect-to", name+":443:"+addr, "https://"+name+"/").want(t, 200, "hello")
	}
	if openssl, err := exec.LookPath("openssl"); err == nil {
		out, err := exec.Command(openssl, "s_client", "-connect", addr, "-servername", "three.test", "-CAfile", caFile, "-verify_return_error").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "CN = three.test") && !strings.Contains(string(out), "CN=three.test") {
			t.Errorf("openssl s_client: %v\n%s", err, out)
		}
	}
	if metrics := curl(t, "http://"+s.metrics+"/metrics"); !strings.Contains(metrics.body, fmt.Sprintf(`adit_certificate_expiry_timestamp_seconds{name="tls_cert"} %v`, float64(one.NotAfter.Unix()))) {
		t.Errorf("metrics: %s", metrics.body)
	}

	// A visitor who is connected stays so.
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: "three.test"})
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	answers := bufio.NewReader(conn)
	ask := func() {
		t.Helper()
		_, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: three.test\r\n\r\n")
		must(t, err)
		resp, err := http.ReadResponse(answers, nil)
		must(t, err)
		_, err = resp.Body.Read(make([]byte, 5))
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatalf("got %d %v", resp.StatusCode, err)
		}
	}
	ask()
	renewed, threeCert, threeKey := ca.issue(t, "three.test")
	must(t, os.WriteFile(keyFile, []byte(threeKey+oneKey+twoKey), 0o600))
	s.await("new certificate cannot be used, the one before stays in use", "error", `subject "CN=three.test"`)
	must(t, presents(addr, "three.test", three))
	must(t, os.WriteFile(certFile, []byte(oneCert+twoCert+threeCert), 0o600))
	s.await("certificate replaced", "subject", "CN=three.test")
	must(t, presents(addr, "three.test", renewed))
	must(t, presents(addr, "a.two.test", two))
	ask()
}

// presents returns nil if a TLS port presents the certificate to who asks for the name.
func presents(addr, name string, want *x509.Certificate) error {
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: name})
	if err != nil {
		return err
	}
	defer conn.Close()
	if got := conn.ConnectionState().PeerCertificates[0]; !got.Equal(want) {
		return fmt.Errorf("%s presents the certificate for %v to who asks for %q, want that for %v", addr, got.DNSNames, name, want.DNSNames)
	}
	return nil
}
