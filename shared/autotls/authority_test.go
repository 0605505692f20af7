package autotls

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func leafOf(t testing.TB, a *Authority) *x509.Certificate {
	t.Helper()
	cert, err := a.TLSConfig().GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

// trusts verifies the way curl --cacert does: by name.
func trusts(a *Authority, leaf *x509.Certificate, name string) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.CertificatePEM())
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
	return err
}

func TestNewNames(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		names   []string
		valid   []string
		invalid []string
		err     string
	}{
		{name: "always", valid: []string{"localhost", "127.0.0.1", "::1", host}, invalid: []string{"example.com", "192.0.2.1"}},
		{name: "more", names: []string{"Tunnel.example.com", " *.example.org ", "192.0.2.1", "2001:db8::1", "", "localhost", "my_service"},
			valid: []string{"tunnel.example.com", "a.example.org", "192.0.2.1", "2001:db8::1", "localhost", "my_service"}, invalid: []string{"example.org", "192.0.2.2"}},
		{name: "url", names: []string{"https://example.com"}, err: `"https://example.com" is neither`},
		{name: "port", names: []string{"example.com:8123"}, err: "is neither"},
		{name: "space", names: []string{"a b"}, err: "is neither"},
		{name: "international", names: []string{"bücher.example"}, err: "xn--"},
		{name: "bad address", names: []string{"192.0.2.300"}, err: "is neither"},
		{name: "zone", names: []string{"fe80::1%eth0"}, err: "is neither"},
		{name: "star alone", names: []string{"*"}, err: "is neither"},
		{name: "star inside", names: []string{"a.*.example.com"}, err: "is neither"},
		{name: "long label", names: []string{strings.Repeat("a", 64) + ".example.com"}, err: "is neither"},
		{name: "long", names: []string{strings.Repeat("a.", 127) + "aa"}, err: "is neither"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, err := New("", tt.names)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			leaf := leafOf(t, a)
			for _, name := range tt.valid {
				if err := trusts(a, leaf, name); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			for _, name := range tt.invalid {
				if err := trusts(a, leaf, name); err == nil {
					t.Errorf("valid for %s", name)
				}
			}
			if sorted := slices.Sorted(slices.Values(leaf.DNSNames)); len(slices.Compact(sorted)) != len(leaf.DNSNames) {
				t.Errorf("repeated names: %q", leaf.DNSNames)
			}
		})
	}
}

func TestAuthorityCertificates(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t, ""), newAuthority(t, "")
	ca, leaf := a.certOfCA(), leafOf(t, a)
	if !ca.IsCA || leaf.IsCA || ca.MaxPathLen != 0 || !ca.MaxPathLenZero {
		t.Errorf("CA %v with path length %d, leaf CA %v", ca.IsCA, ca.MaxPathLen, leaf.IsCA)
	}
	if ca.Subject.String() == other.certOfCA().Subject.String() || bytes.Equal(a.CertificatePEM(), other.CertificatePEM()) {
		t.Error("two authorities are the same")
	}
	if bytes.Equal(ca.RawSubjectPublicKeyInfo, leaf.RawSubjectPublicKeyInfo) {
		t.Error("the leaf has the CA's key")
	}
	if err := trusts(other, leaf, "localhost"); err == nil {
		t.Error("a certificate is trusted by another authority")
	}
	if left := time.Until(a.NotAfter()); left < 9*365*day || left > 11*365*day {
		t.Errorf("the CA lasts %v", left)
	}
	if leaf != leafOf(t, a) {
		t.Error("a new certificate for each connection")
	}
	if ca.SerialNumber.Sign() <= 0 || len(ca.SerialNumber.Bytes()) > 20 {
		t.Errorf("serial %v", ca.SerialNumber)
	}
}

// handshake connects once over a pipe and returns the certificate that the client saw.
func handshake(t *testing.T, server, client *tls.Config) (*x509.Certificate, error) {
	t.Helper()
	c, s := net.Pipe()
	defer c.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.Close()
		_ = tls.Server(s, server).HandshakeContext(t.Context())
	}()
	conn := tls.Client(c, client)
	err := conn.HandshakeContext(t.Context())
	c.Close()
	<-done
	if err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}

func TestLeafRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, "")
		server := a.TLSConfig() // made once: renewal needs no restart
		client := &tls.Config{InsecureSkipVerify: true, VerifyConnection: verifier(a.certOfCA())}
		var last *x509.Certificate
		renewed := 0
		for range 60 { // ten years in steps of two months, less a bit to stay within the CA's life
			cert, err := handshake(t, server, client)
			if err != nil {
				t.Fatal(err)
			}
			if last != nil && !cert.Equal(last) {
				renewed++
			}
			if left := time.Until(cert.NotAfter); left < leafMargin-time.Minute {
				t.Fatalf("presented with %v left", left)
			}
			last = cert
			<-time.After(60 * day)
		}
		if renewed < 50 {
			t.Fatalf("renewed %d times", renewed)
		}
	})
}

func TestLeafIsNotRenewedEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, "")
		first := leafOf(t, a)
		<-time.After(leafLife - leafMargin - time.Hour)
		if leafOf(t, a) != first {
			t.Error("renewed too early")
		}
		<-time.After(2 * time.Hour)
		if leafOf(t, a) == first {
			t.Error("not renewed")
		}
	})
}

// A process that outlives its CA makes another; so does one whose clock was wrong when it started.
func TestAuthorityRenewal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, dir)
		old := a.certOfCA()
		<-time.After(caLife - caMargin - time.Hour)
		last := leafOf(t, a)
		if !last.NotAfter.Equal(old.NotAfter) {
			t.Fatalf("the last certificate ends %v, the CA %v", last.NotAfter, old.NotAfter)
		}
		if err := trusts(a, last, "localhost"); err != nil {
			t.Fatal(err)
		}
		if leafOf(t, a) != last {
			t.Fatal("a new certificate for each connection")
		}
		<-time.After(2 * time.Hour)
		leaf := leafOf(t, a)
		if a.certOfCA().Equal(old) {
			t.Fatal("the CA was not replaced")
		}
		if err := trusts(a, leaf, "localhost"); err != nil {
			t.Fatal(err)
		}
		if again := newAuthority(t, dir); !again.certOfCA().Equal(a.certOfCA()) {
			t.Fatal("the new CA was not kept")
		}
	})
}

func TestAuthorityConcurrent(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if _, err := a.certificate(nil); err != nil || a.NotAfter().IsZero() || len(a.CertificatePEM()) == 0 {
					t.Error("unusable", err)
				}
			}
		})
	}
	wg.Wait()
}
