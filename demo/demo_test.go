//go:build unix

package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMakeDemo does what a newcomer does: make demo, the three commands that it
// prints, Ctrl-C.
func TestMakeDemo(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is absent")
	}
	cmd := exec.CommandContext(t.Context(), "make", "-C", "..", "demo")
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=", "PORT=1", "TLS_CERT=/nowhere") // not meant for the demo
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return interrupt(cmd) }
	cmd.WaitDelay = 30 * time.Second
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	output := bufio.NewScanner(pipe)
	for output.Scan() {
		fmt.Fprintln(&text, output.Text())
		if strings.HasPrefix(output.Text(), "Ctrl-C") {
			break
		}
	}
	printed := text.String()
	commands := regexp.MustCompile(`(?m)^  curl (?:-k?s )?(\S+)(?: -H "Authorization: (.*)")?`).FindAllStringSubmatch(printed, -1)
	if len(commands) != 3 {
		interrupt(cmd)
		rest, _ := io.ReadAll(pipe)
		t.Fatalf("not three commands to try:\n%s%s", printed, rest)
	}
	for i, want := range []string{"through a tunnel", `"upstreams":["*=http://127.0.0.1:`, "http_dataplane_requests_total{"} {
		if body := visit(t, commands[i][1], commands[i][2]); !strings.Contains(body, want) {
			t.Errorf("%s: no %q in\n%s", commands[i][0], want, body)
		}
	}

	if err := interrupt(cmd); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(pipe) // ends once no process has it open
	_ = cmd.Wait()              // make itself always ends with the signal
	if !strings.Contains(string(rest), "\nStopped.\n") {
		t.Errorf("not clean after Ctrl-C:\n%s%s", printed, rest)
	}
	addrs := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindAllString(printed, -1)
	for _, addr := range addrs {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			t.Errorf("%s still answers", addr)
		}
	}
}

// interrupt does what Ctrl-C does: everything in the foreground gets the signal.
func interrupt(cmd *exec.Cmd) error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }

// visit returns the body of an answer, which must be 200.
func visit(t *testing.T, url, authorization string) string {
	t.Helper()
	// As with curl -k.
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %d %s %v", url, resp.StatusCode, body, err)
	}
	return string(body)
}
