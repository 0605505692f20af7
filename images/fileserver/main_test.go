package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/shared/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// webroot is a folder with a small and a large file.
func webroot(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a.txt"), []byte("0123456789"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "large.bin"), bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16), 0o644))
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	old := time.Date(2024, 2, 29, 8, 1, 2, 0, time.UTC)
	must(t, os.Chtimes(filepath.Join(dir, "a.txt"), old, old))
	must(t, os.Chtimes(filepath.Join(dir, "large.bin"), old, old))
	return dir
}

// running is a fileserver on free ports of loopback.
type running struct{ data, metrics string }

// start runs serve with settings from the variables until the test ends. It learns the ports from the log.
func start(t *testing.T, variables map[string]string) running {
	t.Helper()
	for name, value := range map[string]string{"WEBROOT": webroot(t), "PORT": "0", "DATA_ADDR": "127.0.0.1",
		"METRICS_PORT": "0", "METRICS_ADDR": "127.0.0.1", "DRAIN_TIMEOUT": "5s"} {
		t.Setenv(name, value)
	}
	for name, value := range variables {
		t.Setenv(name, value)
	}
	var cfg settings
	must(t, config.Load(&cfg))
	logs, w := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, &cfg, zerolog.New(w))
		w.Close()
	}()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("serve returned %v", err)
		}
	})
	addrs := make(chan [2]string, 8)
	go func() {
		for lines := bufio.NewScanner(logs); lines.Scan(); {
			var line struct{ Server, Addr, Message string }
			if json.Unmarshal(lines.Bytes(), &line); line.Message == "listening" {
				addrs <- [2]string{line.Server, line.Addr}
			}
		}
	}()
	var r running
	for r.data == "" || r.metrics == "" && !cfg.MetricsPort.Off() {
		select {
		case a := <-addrs:
			if a[0] == "data plane" {
				r.data = "http://" + a[1]
			} else {
				r.metrics = "http://" + a[1]
			}
		case err := <-done:
			t.Fatal("serve returned", err)
		}
	}
	return r
}

func get(t testing.TB, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	must(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, string(body)
}

func TestServe(t *testing.T) {
	s := start(t, map[string]string{"BROWSE": "true"})
	for _, c := range []struct {
		name, url string
		code      int
		part      string
	}{
		{"file", s.data + "/a.txt", 200, "0123456789"},
		{"listing", s.data + "/", 200, `href="./large.bin"`},
		{"no metrics on the data plane", s.data + "/metrics", 404, "not found"},
		{"no health on the data plane", s.data + "/healthz", 404, "not found"},
		{"health", s.metrics + "/healthz", 200, "ok"},
		{"readiness", s.metrics + "/readyz", 200, "ready"},
		{"build", s.metrics + "/metrics", 200, `adit_build_info{goversion="go`},
		{"requests", s.metrics + "/metrics", 200, `adit_fileserver_requests_total{code="404",method="GET"} 2`},
		{"durations", s.metrics + "/metrics", 200, `adit_fileserver_request_duration_seconds_count{code="200",method="GET"} 2`},
		{"status", s.metrics + "/status", 200, `"mode":"fileserver"`},
		{"status without clients", s.metrics + "/status", 200, `"clients":[]`},
		{"no files on the metrics port", s.metrics + "/a.txt", 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, body := get(t, c.url); code != c.code || !strings.Contains(body, c.part) {
				t.Errorf("got %d %s, want %d %s", code, body, c.code, c.part)
			}
		})
	}
	t.Run("bytes sent", func(t *testing.T) {
		before, after := sentBytes(t, s), 0.0
		get(t, s.data+"/large.bin")
		head, err := http.Head(s.data + "/large.bin")
		must(t, err)
		head.Body.Close()
		after = sentBytes(t, s)
		if after-before != 3<<20 {
			t.Errorf("counted %v bytes, want %d", after-before, 3<<20)
		}
	})
	t.Run("subcommands", func(t *testing.T) {
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.metrics, "http://"))
		t.Setenv("METRICS_PORT", port)
		var cfg settings
		must(t, config.Load(&cfg))
		url, _, err := probe(&cfg)
		must(t, err)
		if url != s.metrics {
			t.Errorf("probes %s, want %s", url, s.metrics)
		}
		doc, err := fetchStatus(t.Context(), &cfg)
		if err != nil || doc.Info.Mode != "fileserver" || doc.Info.StartTime.IsZero() {
			t.Errorf("status: %+v %v", doc, err)
		}
	})
}

func sentBytes(t testing.TB, s running) float64 {
	t.Helper()
	_, body := get(t, s.metrics+"/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, "adit_fileserver_sent_bytes_total "); ok {
			var n float64
			must(t, json.Unmarshal([]byte(strings.TrimSpace(value)), &n))
			return n
		}
	}
	t.Fatal("no counter of bytes")
	return 0
}

func TestMetricsOff(t *testing.T) {
	s := start(t, map[string]string{"METRICS_PORT": "off"})
	if code, _ := get(t, s.data+"/a.txt"); code != 200 {
		t.Errorf("got %d", code)
	}
}

// TestOptions holds that the server answers even "OPTIONS *" by itself, and refuses headers without end.
func TestOptions(t *testing.T) {
	s := start(t, nil)
	for _, c := range []struct{ name, request, status string }{
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"},
		{"huge header", "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n",
			"HTTP/1.1 431 Request Header Fields Too Large"},
		{"two lengths", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
			"HTTP/1.1 400 Bad Request"},
		{"connect", "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.data, "http://"))
			must(t, err)
			defer conn.Close()
			must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			io.WriteString(conn, c.request) // the answer may come before the end
			line, err := bufio.NewReader(conn).ReadString('\n')
			must(t, err)
			if strings.TrimSpace(line) != c.status {
				t.Errorf("got %s, want %s", line, c.status)
			}
		})
	}
}

// TestDrain holds that a download in flight is finished after a stop was asked for.
func TestDrain(t *testing.T) {
	var cfg settings
	t.Setenv("WEBROOT", webroot(t))
	must(t, config.Load(&cfg))
	cfg.Port, cfg.DataAddr = 0, "127.0.0.1"
	must(t, cfg.MetricsPort.Decode("off"))
	must(t, os.Truncate(filepath.Join(cfg.Webroot, "large.bin"), 64<<20))
	lines := make(lineWriter, 16)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- serve(ctx, &cfg, zerolog.New(lines)) }()
	conn, err := net.Dial("tcp", lines.until(t, "listening")["addr"].(string))
	must(t, err)
	defer conn.Close()
	io.WriteString(conn, "GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n")
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	must(t, err)
	defer res.Body.Close()
	cancel()
	lines.until(t, "draining")
	if n, err := io.Copy(io.Discard, res.Body); n != 64<<20 || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// lineWriter hands on what is logged, line by line.
type lineWriter chan []byte

func (l lineWriter) Write(p []byte) (int, error) {
	l <- bytes.Clone(p)
	return len(p), nil
}

func (l lineWriter) until(t testing.TB, message string) map[string]any {
	t.Helper()
	for line := range l {
		var fields map[string]any
		must(t, json.Unmarshal(line, &fields))
		if fields["message"] == message {
			return fields
		}
	}
	return nil
}

// TestCurl resumes, asks for ranges and asks conditionally with the real thing.
func TestCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	s := start(t, map[string]string{"BASIC_AUTH": "me:s3cret:with colon"})
	dir := t.TempDir()
	curl := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("curl", append([]string{"-sS", "--max-time", "20", "--noproxy", "*", "-u", "me:s3cret:with colon"}, args...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("curl %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	code := []string{"-o", "/dev/null", "-w", "%{http_code} %{size_download}"}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"whole", []string{s.data + "/a.txt"}, "0123456789"},
		{"range", []string{"-r", "2-4", s.data + "/a.txt"}, "234"},
		{"suffix", []string{"-r", "-3", s.data + "/a.txt"}, "789"},
		{"newer than", append(code, "-z", "Fri, 01 Mar 2024 00:00:00 GMT", s.data+"/a.txt"), "304 0"},
		{"older than", append(code, "-z", "Wed, 28 Feb 2024 00:00:00 GMT", s.data+"/a.txt"), "200 10"},
		{"wrong password", append(code, "-u", "me:wrong", "-X", "HEAD", "-I", s.data+"/a.txt"), "401 0"},
		{"path as it is", append(code, "--path-as-is", s.data+"/../../etc/passwd"), "404 31"},
		{"redirect", append(code, "-L", s.data+"/sub"), "404 91"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := curl(c.args...); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
	t.Run("resume", func(t *testing.T) {
		must(t, os.WriteFile(filepath.Join(dir, "large.bin"), bytes.Repeat([]byte("0123456789abcdef"), 1000), 0o644))
		if got := curl("-C", "-", "-O", "-w", "%{http_code}", s.data+"/large.bin"); got != "206" {
			t.Errorf("got %s, want 206", got)
		}
		got, err := os.ReadFile(filepath.Join(dir, "large.bin"))
		must(t, err)
		if !bytes.Equal(got, bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16)) {
			t.Errorf("%d bytes, not the file", len(got))
		}
	})
	t.Run("tag", func(t *testing.T) {
		curl("--etag-save", "tag", "-o", "a.txt", s.data+"/a.txt")
		if got := curl(append(code, "--etag-compare", "tag", s.data+"/a.txt")...); got != "304 0" {
			t.Errorf("got %s, want 304", got)
		}
	})
}
