package autotls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// buffer is a log that may be written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// pairPEM returns a certificate for name with the CA behind it, and its key, from an authority made at that time.
func pairPEM(t testing.TB, name string, made time.Time) (certPEM, keyPEM []byte) {
	t.Helper()
	ca, err := makeAuthority(made)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.issue(made, []string{name}, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return append(encode("CERTIFICATE", leaf.Certificate[0]), encode("CERTIFICATE", ca.cert.Raw)...), encode("PRIVATE KEY", key)
}

// files is a mounted secret: a directory behind a symlink that is swapped as Kubernetes does.
type files struct {
	t    testing.TB
	root string
	n    int
}

func newFiles(t testing.TB, cert, key []byte) *files {
	t.Helper()
	f := &files{t: t, root: t.TempDir()}
	f.swap(cert, key)
	return f
}

func (f *files) swap(cert, key []byte) {
	f.t.Helper()
	f.n++
	dir := filepath.Join(f.root, string(rune('a'+f.n)))
	link := filepath.Join(f.root, "next")
	if err := errors.Join(
		os.Mkdir(dir, 0o700),
		os.WriteFile(filepath.Join(dir, "tls.crt"), cert, 0o600),
		os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600),
		os.Symlink(dir, link),
		os.Rename(link, filepath.Join(f.root, "data")),
	); err != nil {
		f.t.Fatal(err)
	}
}

func (f *files) read() (cert, key []byte, err error) {
	cert, err1 := os.ReadFile(filepath.Join(f.root, "data", "tls.crt"))
	key, err2 := os.ReadFile(filepath.Join(f.root, "data", "tls.key"))
	return cert, key, errors.Join(err1, err2)
}

func names(k *KeyPairs) string {
	cert, _ := k.GetCertificate(nil)
	return strings.Join(cert.Leaf.DNSNames, " ")
}

func TestKeyPairsReload(t *testing.T) {
	t.Parallel()
	now := time.Now()
	oneCert, oneKey := pairPEM(t, "one.example", now)
	twoCert, twoKey := pairPEM(t, "two.example", now)
	pastCert, pastKey := pairPEM(t, "past.example", now.Add(-2*leafLife))
	tests := []struct {
		name      string
		cert, key []byte
		want      string
		log       string // of the only line; "": none
	}{
		{name: "unchanged", cert: oneCert, key: oneKey, want: "one.example"},
		{name: "replaced", cert: twoCert, key: twoKey, want: "two.example", log: `"level":"info"`},
		{name: "expired", cert: pastCert, key: pastKey, want: "past.example", log: `"expired":true`},
		{name: "only the certificate", cert: twoCert, key: oneKey, want: "one.example", log: "does not match"},
		{name: "empty", want: "one.example", log: "stays in use"},
		{name: "certificate cut off", cert: twoCert[:100], key: twoKey, want: "one.example", log: "stays in use"},
		{name: "key cut off", cert: twoCert, key: twoKey[:100], want: "one.example", log: "stays in use"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFiles(t, oneCert, oneKey)
			var log buffer
			k, err := NewKeyPairs(f.read, zerolog.New(&log))
			if err != nil {
				t.Fatal(err)
			}
			loaded := log.String()
			if !strings.Contains(loaded, `"message":"certificate loaded"`) || !strings.Contains(loaded, "one.example") {
				t.Errorf("logged %s", loaded)
			}
			f.swap(tt.cert, tt.key)
			k.Reload()
			k.Reload() // the same fault is logged once
			if got := names(k); got != tt.want {
				t.Fatalf("serves %s, want %s", got, tt.want)
			}
			line := strings.TrimPrefix(log.String(), loaded)
			if strings.Count(line, "\n") != min(1, len(tt.log)) || !strings.Contains(line, tt.log) {
				t.Errorf("logged %q, want one line with %q", line, tt.log)
			}
			for _, key := range [][]byte{oneKey, tt.key} {
				if lines := strings.Split(string(key), "\n"); len(lines) > 1 && strings.Contains(log.String(), lines[1]) {
					t.Error("the key is in the log")
				}
			}
			f.swap(twoCert, twoKey)
			k.Reload()
			if got := names(k); got != "two.example" {
				t.Fatalf("after a good pair: serves %s", got)
			}
		})
	}
}

func TestKeyPairsUnreadable(t *testing.T) {
	t.Parallel()
	cert, key := pairPEM(t, "one.example", time.Now())
	f := newFiles(t, cert, key)
	var log buffer
	k, err := NewKeyPairs(f.read, zerolog.New(&log))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(f.root, "data")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		k.Reload()
	}
	if n := strings.Count(log.String(), "cannot be read"); n != 1 || names(k) != "one.example" {
		t.Fatalf("logged %d times, serves %s", n, names(k))
	}
	cert, key = pairPEM(t, "two.example", time.Now())
	f.swap(cert, key)
	k.Reload()
	if names(k) != "two.example" {
		t.Fatalf("serves %s", names(k))
	}
}

func TestNewKeyPairsErrors(t *testing.T) {
	t.Parallel()
	cert, key := pairPEM(t, "one.example", time.Now())
	otherCert, otherKey := pairPEM(t, "two.example", time.Now())
	other, _ := pem.Decode(otherCert)
	otherLeaf := pem.EncodeToMemory(other)
	leaf, ca := pem.Decode(cert)
	reversed := append(bytes.Clone(ca), pem.EncodeToMemory(leaf)...)
	tests := []struct {
		name      string
		cert, key []byte
		err       error
		want      string
	}{
		{name: "unreadable", err: os.ErrPermission, want: "permission denied"},
		{name: "empty", want: "certificate"},
		{name: "other key", cert: cert, key: otherKey, want: "does not match"},
		{name: "chain in the wrong order", cert: reversed, key: key, want: "must be the first in its file"},
		{name: "swapped", cert: key, key: cert, want: "certificate"},
		{name: "key without a certificate", cert: cert, key: append(bytes.Clone(key), otherKey...), want: "key 2 matches none of the certificates"},
		{name: "certificate without a key", cert: append(bytes.Clone(cert), otherLeaf...), key: key, want: `no key matches the certificate with the subject "CN=adit server"`},
		{name: "certificate damaged", cert: append(bytes.Clone(cert), encode("CERTIFICATE", []byte("verysecret"))...), key: key, want: "certificate 3 cannot be read"},
		{name: "key damaged", cert: cert, key: encode("PRIVATE KEY", []byte("verysecret")), want: "key 1 cannot be read"},
		{name: "both damaged", cert: encode("CERTIFICATE", nil), key: encode("EC PRIVATE KEY", nil), want: "\nkey 1 cannot be read"},
		{name: "key of another kind", cert: cert, key: encode("OPENSSH PRIVATE KEY", []byte("verysecret")), want: `key 1 is a block of type "OPENSSH PRIVATE KEY"`},
		{name: "no PEM at all", cert: []byte("/etc/tls.crt"), key: []byte("/etc/tls.key"), want: "there is no private key in PEM form"},
		{name: "encrypted key, whole", cert: cert, key: encode("ENCRYPTED PRIVATE KEY", []byte("verysecret")), want: "key 1 is encrypted: decrypt it first"},
		{name: "encrypted key", cert: cert, key: []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), want: "decrypt it first"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			read := func() ([]byte, []byte, error) { return tt.cert, tt.key, tt.err }
			_, err := NewKeyPairs(read, zerolog.Nop())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "verysecret") {
				t.Errorf("the error tells what is in a block: %v", err)
			}
		})
	}
}

func TestKeyPairsServesChain(t *testing.T) {
	t.Parallel()
	cert, key := pairPEM(t, "one.example", time.Now())
	k, err := NewKeyPairs(func() ([]byte, []byte, error) { return cert, key, nil }, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	_, ca := pem.Decode(cert)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	leaf, err := handshake(t, k.TLSConfig(), &tls.Config{RootCAs: roots, ServerName: "one.example"})
	if err != nil {
		t.Fatal(err)
	}
	if !leaf.NotAfter.Equal(k.NotAfter()) {
		t.Errorf("NotAfter = %v, want %v", k.NotAfter(), leaf.NotAfter)
	}
	served, _ := k.GetCertificate(&tls.ClientHelloInfo{ServerName: "other.example"})
	if len(served.Certificate) != 2 {
		t.Errorf("%d certificates served", len(served.Certificate))
	}
}

func TestKeyPairsBySNI(t *testing.T) {
	t.Parallel()
	now := time.Now()
	oneCert, oneKey := pairPEM(t, "one.example", now)
	manyCert, manyKey := pairPEM(t, "*.two.example", now)
	soonCert, soonKey := pairPEM(t, "soon.example", now.Add(-time.Hour))
	cert := slices.Concat(oneCert, manyCert, soonCert)
	key := slices.Concat(soonKey, oneKey, manyKey) // the order of the keys does not matter
	k, err := NewKeyPairs(func() ([]byte, []byte, error) { return cert, key, nil }, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		asked, want string
		valid       bool
	}{
		{"one.example", "one.example", true},
		{"ONE.example", "one.example", true},
		{"a.two.example", "*.two.example", true},
		{"two.example", "one.example", false},
		{"a.b.two.example", "one.example", false},
		{"soon.example", "soon.example", true},
		{"other.example", "one.example", false},
		{"", "one.example", false},
	} {
		leaf, err := handshake(t, k.TLSConfig(), &tls.Config{InsecureSkipVerify: true, ServerName: tt.asked})
		if err != nil {
			t.Fatal(err)
		}
		if got := leaf.DNSNames[0]; got != tt.want {
			t.Errorf("asked for %q, got %s, want %s", tt.asked, got, tt.want)
		}
		if got := k.ValidFor(tt.asked); got != tt.valid {
			t.Errorf("ValidFor(%q) = %v", tt.asked, got)
		}
		if !k.Serves(leaf) {
			t.Errorf("Serves(%s) = false", leaf.DNSNames)
		}
	}
	soon, _ := pem.Decode(soonCert)
	leaf, err := x509.ParseCertificate(soon.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !k.NotAfter().Equal(leaf.NotAfter) {
		t.Errorf("NotAfter = %v, want that of the first to expire, %v", k.NotAfter(), leaf.NotAfter)
	}
}

func TestKeyPairsRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		oneCert, oneKey := pairPEM(t, "one.example", time.Now())
		twoCert, twoKey := pairPEM(t, "two.example", time.Now())
		f := newFiles(t, oneCert, oneKey)
		k, err := NewKeyPairs(f.read, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx, 10*time.Second) }()
		<-time.After(time.Minute)
		f.swap(twoCert, twoKey)
		<-time.After(11 * time.Second)
		synctest.Wait()
		if names(k) != "two.example" {
			t.Errorf("serves %s", names(k))
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}
