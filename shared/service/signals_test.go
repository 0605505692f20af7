//go:build unix

package service

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// draining starts the program, leaves a request in flight and sends sig.
func draining(t *testing.T, sig os.Signal) (cmd *exec.Cmd, request *io.PipeWriter, answer <-chan string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, self, helper)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := bufio.NewScanner(stderr)
	await := func(message string) string {
		t.Helper()
		for log.Scan() {
			var line struct{ Message, Addr string }
			if err := json.Unmarshal(log.Bytes(), &line); err != nil {
				t.Fatalf("%s: %v", log.Bytes(), err)
			}
			if line.Message == message {
				return line.Addr
			}
		}
		cmd.Wait()
		t.Fatalf("the program ended before %q: %v", message, cmd.ProcessState)
		return ""
	}
	addr := await("listening")
	body, request := io.Pipe()
	got := make(chan string, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Post("http://"+addr, "text/plain", body)
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		got <- string(text)
	}()
	fmt.Fprint(request, "begun")
	await("request")
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	await("draining")
	return cmd, request, got
}

func TestSignalDrains(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd, request, answer := draining(t, sig)
			request.Close()
			if got := <-answer; got != "complete" {
				t.Errorf("got %s", got)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("got %v, want exit code 0", err)
			}
		})
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	for _, test := range []struct {
		name          string
		first, second syscall.Signal
	}{
		{"terminated twice", syscall.SIGTERM, syscall.SIGTERM},
		{"interrupted twice", syscall.SIGINT, syscall.SIGINT},
		{"impatience", syscall.SIGTERM, syscall.SIGINT},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd, request, answer := draining(t, test.first)
			if err := cmd.Process.Signal(test.second); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if !status.Signaled() || status.Signal() != test.second {
				t.Errorf("ended with %v, want signal %v", cmd.ProcessState, test.second)
			}
			request.Close()
			if got := <-answer; strings.Contains(got, "complete") {
				t.Error("the request was still answered")
			}
		})
	}
}
