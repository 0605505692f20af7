package autotls

import (
	"bytes"
	"crypto"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestKeptAuthority(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "when needed")
	first := newAuthority(t, dir)
	again := newAuthority(t, dir, "example.com")
	if !bytes.Equal(first.CertificatePEM(), again.CertificatePEM()) {
		t.Fatal("a restart has another CA")
	}
	if err := trusts(first, leafOf(t, again), "example.com"); err != nil {
		t.Errorf("a client that kept the CA: %v", err)
	}
	onDisk, err := os.ReadFile(filepath.Join(dir, certFile))
	if err != nil || !bytes.Equal(onDisk, first.CertificatePEM()) {
		t.Errorf("%s is not the CA: %v", certFile, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]fs.FileMode{certFile: 0o644, keyFile: 0o600}[e.Name()]
		if runtime.GOOS != "windows" && info.Mode() != want {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if strings.Join(names, " ") != "ca.crt ca.key" {
		t.Errorf("files %q", names)
	}
}

// keep writes a CA, made at that time, to a new directory.
func keep(t testing.TB, made time.Time) (dir string, ca *authority) {
	t.Helper()
	ca, err := makeAuthority(made)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if err := save(dir, ca, false); err != nil {
		t.Fatal(err)
	}
	return dir, ca
}

func TestKeptAuthorityDamaged(t *testing.T) {
	t.Parallel()
	_, foreign := keep(t, time.Now())
	leaf, err := foreign.issue(time.Now(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		file  string
		alter func(content []byte) []byte // nil: removed
		err   string
	}{
		{name: "certificate missing", file: certFile, err: "ca.key is there without ca.crt"},
		{name: "key missing", file: keyFile, err: "ca.crt is there without ca.key"},
		{name: "certificate empty", file: certFile, alter: func([]byte) []byte { return nil }, err: "ca.crt is empty"},
		{name: "key empty", file: keyFile, alter: func([]byte) []byte { return []byte("\n") }, err: "ca.key is empty"},
		{name: "certificate cut off", file: certFile, alter: func(b []byte) []byte { return b[:len(b)/2] }, err: "certificate"},
		{name: "key cut off", file: keyFile, alter: func(b []byte) []byte { return b[:len(b)/2] }, err: "key"},
		{name: "certificate garbled", file: certFile, alter: func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("M"), []byte("N")) }, err: "x509"},
		{name: "garbage", file: keyFile, alter: func([]byte) []byte { return []byte{0, 1, 2, 255} }, err: "key"},
		{name: "other CA's certificate", file: certFile, alter: func([]byte) []byte { return encode("CERTIFICATE", foreign.cert.Raw) }, err: "does not match"},
		{name: "two certificates", file: certFile, alter: func(b []byte) []byte { return append(b, b...) }, err: "2 certificates, not one"},
		{name: "not a CA", file: certFile, alter: func([]byte) []byte { return encode("CERTIFICATE", leaf.Leaf.Raw) }, err: "does not match"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir, _ := keep(t, time.Now())
			name := filepath.Join(dir, tt.file)
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var now []byte
			if tt.alter == nil {
				err = os.Remove(name)
			} else {
				now = tt.alter(bytes.Clone(content))
				err = os.WriteFile(name, now, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = New(dir, nil)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range []string{tt.err, dir, "remove both"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want %q", err, want)
				}
			}
			if after, err := os.ReadFile(name); tt.alter == nil && !errors.Is(err, fs.ErrNotExist) || !bytes.Equal(after, now) {
				t.Errorf("the file was touched: %v", err)
			}
		})
	}
}

func TestLoadRefusesWhatIsNoCA(t *testing.T) {
	t.Parallel()
	_, ca := keep(t, time.Now())
	leaf, err := ca.issue(time.Now(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := save(dir, &authority{cert: leaf.Leaf, key: leaf.PrivateKey.(crypto.Signer)}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := New(dir, nil); err == nil || !strings.Contains(err.Error(), "not that of a CA") {
		t.Fatalf("error %v", err)
	}
}

func TestKeptAuthorityExpired(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		made time.Time
		same bool
	}{
		{name: "new", made: time.Now(), same: true},
		{name: "a week left", made: time.Now().Add(7*day - caLife), same: true},
		{name: "an hour left", made: time.Now().Add(time.Hour - caLife)},
		{name: "expired", made: time.Now().Add(-caLife - day)},
		{name: "not yet valid, the clock may be wrong", made: time.Now().Add(30 * day), same: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir, ca := keep(t, tt.made)
			a := newAuthority(t, dir)
			if same := a.certOfCA().Equal(ca.cert); same != tt.same {
				t.Fatalf("same CA: %v, want %v", same, tt.same)
			}
			if again := newAuthority(t, dir); !again.certOfCA().Equal(a.certOfCA()) {
				t.Fatal("the next start has another CA")
			}
			if !tt.same {
				if err := trusts(a, leafOf(t, a), "localhost"); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestKeepUnwritable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A directory below a file can neither be read nor made, whoever runs the test, root too.
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		_, err := New(dir, nil)
		if err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// Of two servers that start on one empty directory the second gives up, and finds the first one's CA afterwards.
func TestKeepRace(t *testing.T) {
	t.Parallel()
	dir, first := keep(t, time.Now())
	second, err := makeAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := save(dir, second, false); err == nil || !strings.Contains(err.Error(), "start again") {
		t.Fatalf("error %v", err)
	}
	if a := newAuthority(t, dir); !a.certOfCA().Equal(first.cert) {
		t.Fatal("the CA was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Fatalf("left behind: %v %v", entries, err)
	}
}
