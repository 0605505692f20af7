//go:build unix

package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// http2Tunnel is a tunnel whose server speaks HTTP/2 with TLS and without.
type http2Tunnel struct {
	*tunnel
	secure string // the address for HTTPS
	ca     string // a file
}

func newHTTP2Tunnel(t testing.TB, upstreams string, env ...string) *http2Tunnel {
	t.Helper()
	ca := newAuthority(t)
	_, cert, key := ca.issue(t, "127.0.0.1")
	s := startServer(t, append(env, "H2C=true", "TLS_CERT="+cert, "TLS_KEY="+key, "HTTPS_PORT=0")...)
	c := connect(t, s, upstreams, "TLS_CA="+ca.pem)
	return &http2Tunnel{&tunnel{s, c}, s.addr("data plane TLS"), write(t, "ca.pem", ca.pem)}
}

// tells is an upstream that tells what it got.
func tells(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	fmt.Fprintf(w, "%s %s %s as %s from %s: %d %v %x", r.Proto, r.Method, r.Host, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"), n, err, h.Sum(nil))
}

// TestHTTP2Programs has programs of others speak HTTP/2 with the data plane.
func TestHTTP2Programs(t *testing.T) {
	t.Parallel()
	tun := newHTTP2Tunnel(t, "http://"+upstream(t, tells))
	secure, plain := "https://"+tun.secure+"/", tun.url("/")
	big := write(t, "big", strings.Repeat("0123456789abcdef", 1<<18))
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Repeat("0123456789abcdef", 1<<18))))
	for _, test := range []struct {
		name  string
		args  []string
		proto string
		want  string
	}{
		{"TLS", []string{"--http2", secure}, "HTTP/2", "HTTP/1.1 GET 127.0.0.1:" + port(tun.secure) + " as https from 127.0.0.1: 0 "},
		{"TLS, HTTP/1.1", []string{"--http1.1", secure}, "HTTP/1.1", "HTTP/1.1 GET"},
		{"TLS, upload", []string{"--http2", "-T", big, secure}, "HTTP/2", ": 4194304 <nil> " + sum},
		{"h2c", []string{"--http2-prior-knowledge", plain}, "HTTP/2", "HTTP/1.1 GET 127.0.0.1:" + port(tun.data) + " as http from 127.0.0.1: 0 "},
		{"h2c, upload", []string{"--http2-prior-knowledge", "-T", big, plain}, "HTTP/2", ": 4194304 <nil> " + sum},
		{"h2c by upgrade", []string{"--http2", plain}, "HTTP/1.1", "HTTP/1.1 GET"},
	} {
		t.Run("curl/"+test.name, func(t *testing.T) {
			t.Parallel()
			r := curl(t, append([]string{"--cacert", tun.ca}, test.args...)...)
			r.want(t, 200, test.want)
			if r.proto != test.proto {
				t.Errorf("answered with %s, want %s", r.proto, test.proto)
			}
		})
	}
	t.Run("nghttp", func(t *testing.T) {
		t.Parallel()
		needProgram(t, "nghttp", "nghttp2-client")
		small := write(t, "small", "hello")
		for _, test := range []struct {
			size string
			args []string
		}{ // nghttp resets a stream on which it expected anything more than a second ago
			{"5", []string{"-d", small, "--expect-continue", secure}},
			{"4194304", []string{"-d", big, secure}},
			{"4194304", []string{"-d", big, plain}},
		} {
			args := append([]string{"--no-verify-peer", "--stat", "-t", "20"}, test.args...)
			out, err := exec.Command("nghttp", args...).CombinedOutput()
			if text := string(out); err != nil || !strings.Contains(text, ": "+test.size+" <nil>") || !regexp.MustCompile(`(?m) 200 +\d+[KM]? +/`).MatchString(text) {
				t.Errorf("nghttp %q: %v\n%s", args, err, text)
			}
		}
	})
	t.Run("h2load", func(t *testing.T) {
		t.Parallel()
		needProgram(t, "h2load", "nghttp2-client")
		for _, url := range []string{secure, plain} {
			out, err := exec.Command("h2load", "-n", "2000", "-c", "4", "-m", "100", "-T", "20s", url).CombinedOutput()
			if text := string(out); err != nil || !strings.Contains(text, "2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout") {
				t.Errorf("h2load %s: %v\n%s", url, err, text)
			}
		}
	})
}

// TestHTTP2Websocket is about websockets where pages come by HTTP/2: visitors open a
// connection of HTTP/1.1 for them.
func TestHTTP2Websocket(t *testing.T) {
	t.Parallel()
	reports := make(chan string, 1)
	tun := newHTTP2Tunnel(t, "http://"+upstream(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, `<!doctype html><script>
				const proto = performance.getEntriesByType("navigation")[0].nextHopProtocol
				const report = text => fetch("/report", {method: "POST", body: text})
				const ws = new WebSocket("wss://" + location.host + "/echo")
				ws.onopen = () => ws.send("hello")
				ws.onmessage = e => report(proto + " " + e.data)
				ws.onerror = () => report(proto + " failed")
			</script>`)
		case "/report":
			body, _ := io.ReadAll(r.Body)
			select {
			case reports <- string(body):
			default:
			}
		case "/echo":
			conn, err := new(websocket.Upgrader).Upgrade(w, r, nil)
			if err != nil {
				return
			}
			defer conn.Close()
			for {
				kind, message, err := conn.ReadMessage()
				if err != nil || conn.WriteMessage(kind, append([]byte("echo of "), message...)) != nil {
					return
				}
			}
		}
	}))
	t.Run("gorilla", func(t *testing.T) {
		dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, HandshakeTimeout: patience}
		conn, _, err := dialer.Dial("wss://"+tun.secure+"/echo", nil)
		must(t, err)
		defer conn.Close()
		must(t, conn.WriteMessage(websocket.TextMessage, []byte("hello")))
		_, message, err := conn.ReadMessage()
		must(t, err)
		if string(message) != "echo of hello" {
			t.Errorf("answer is %q", message)
		}
	})
	t.Run("chromium", func(t *testing.T) {
		cmd := exec.Command(needProgram(t, "chromium", "chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
			"--no-first-run", "--disable-background-networking", "--ignore-certificate-errors", "--no-proxy-server",
			"--remote-debugging-port=0", "--user-data-dir="+filepath.Join(t.TempDir(), "profile"), "https://"+tun.secure+"/")
		cmd.Env = append(inherited(), "HOME="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		var output strings.Builder // also makes Wait wait for all that chromium has started
		cmd.Stdout, cmd.Stderr = &output, &output
		must(t, cmd.Start())
		defer func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("chromium printed:\n%s", output.String())
			}
		}()
		select {
		case report := <-reports:
			if report != "h2 echo of hello" {
				t.Errorf("the page reports %q", report)
			}
		case <-time.After(patience):
			t.Error("the page reports nothing")
		}
	})
}
