package edge

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// curl asks the site and returns what curl printed, and its exit code.
func (s *site) curl(args ...string) (string, int) {
	s.tb.Helper()
	args = append([]string{"-sS", "--noproxy", "*", "--max-time", "20", "--resolve", "a.example:80:127.0.0.1", "--connect-to", "::" + s.addr}, args...)
	cmd := exec.Command("curl", args...)
	cmd.Env = append(os.Environ(), "HOME="+s.tb.TempDir()) // no .curlrc
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		s.tb.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	big := make([]byte, 3<<20) // curl asks before it sends that much
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	sum := sha256.Sum256(big)
	file := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(file, big, 0o600); err != nil {
		t.Fatal(err)
	}
	s := webSite(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sum":
			h := sha256.New()
			n, err := io.Copy(h, r.Body)
			_, _ = fmt.Fprintf(w, "%s %d %v %s", r.Method, n, err, hex.EncodeToString(h.Sum(nil)))
		case "/cut":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "hello")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/cut-chunked":
			_, _ = io.WriteString(w, "hello")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/denied":
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "denied")
		default:
			_, _ = io.WriteString(w, "hello")
		}
	})
	want := fmt.Sprintf("%d <nil> %s", len(big), hex.EncodeToString(sum[:]))
	for _, tt := range []struct {
		name string
		args []string
		out  string // contained in the output
		code int
	}{
		{"GET", []string{"http://a.example/"}, "hello", 0},
		{"HTTP/1.0", []string{"--http1.0", "http://a.example/"}, "hello", 0},
		{"HEAD", []string{"-I", "http://a.example/"}, "HTTP/1.1 200 OK", 0},
		{"two on one connection", []string{"-w", "%{num_connects}", "http://a.example/", "http://a.example/"}, "hello1hello0", 0},
		{"POST", []string{"--data-binary", "@" + file, "http://a.example/sum"}, "POST " + want, 0},
		{"POST that asks before", []string{"-H", "Expect: 100-continue", "--data-binary", "@" + file, "http://a.example/sum"}, "POST " + want, 0},
		{"PUT in chunks", []string{"-T", file, "-H", "Transfer-Encoding: chunked", "http://a.example/sum"}, "PUT " + want, 0},
		{"PUT with HTTP/1.0", []string{"--http1.0", "-T", file, "http://a.example/sum"}, "PUT " + want, 0},
		{"denied before the body", []string{"-H", "Expect: 100-continue", "-T", file, "http://a.example/denied"}, "denied", 0},
		{"h2c is not spoken", []string{"--http2", "-w", "%{http_version}", "http://a.example/"}, "hello1.1", 0},
		{"a cut body", []string{"http://a.example/cut"}, "hello", 18},
		{"a cut body in chunks", []string{"http://a.example/cut-chunked"}, "hello", 18},
		{"a cut body with HTTP/1.0", []string{"--http1.0", "http://a.example/cut-chunked"}, "hello", 56},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, code := s.curl(tt.args...)
			if !strings.Contains(out, tt.out) || code != tt.code {
				t.Errorf("curl exits with %d and says %q, want %d and %q", code, out, tt.code, tt.out)
			}
		})
	}
}
