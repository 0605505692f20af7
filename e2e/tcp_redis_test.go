//go:build unix

package e2e

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestRedis sets and gets, sends commands in bulk, and has messages pushed to a subscriber.
func TestRedis(t *testing.T) {
	t.Parallel()
	server, cli := needProgram(t, "redis-server", "redis-server"), needProgram(t, "redis-cli", "redis-tools")
	private, addr := privatePort(t)
	serve(t, syscall.SIGTERM, addr, server, "--port", private, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	value := strings.Repeat("a value of many bytes, ", 200_000)
	bothWays(t, addr, func(t *testing.T, port string) string {
		var results []string
		redis := func(in string, words ...string) string {
			t.Helper()
			out := visitor{in: strings.NewReader(in)}.run(t, slices.Concat([]string{cli, "-h", "127.0.0.1", "-p", port}, words)...)
			results = append(results, out)
			return out
		}
		redis("", "FLUSHALL")
		redis(value, "-x", "SET", "large")
		if got := redis("", "--raw", "GET", "large"); got != value+"\n" {
			t.Errorf("got %d bytes back, want %d", len(got), len(value)+1)
		}

		var bulk strings.Builder
		const n = 20_000
		for i := range n {
			fmt.Fprintf(&bulk, "SET key:%d %d\r\n", i, i)
		}
		if out := redis(bulk.String(), "--pipe"); !strings.Contains(out, fmt.Sprintf("errors: 0, replies: %d", n)) {
			t.Errorf("--pipe: %s", out)
		}
		redis("", "DBSIZE")

		// A subscriber says nothing; everything comes to it.
		subscriber := &program{t: t, name: "subscriber", foreign: true, cmd: exec.Command(cli, "-h", "127.0.0.1", "-p", port, "SUBSCRIBE", "news")}
		subscriber.run()
		t.Cleanup(func() {
			subscriber.signal(syscall.SIGTERM)
			subscriber.wait()
		})
		lines := func(count int) []string {
			var got []string
			eventually(t, func() error {
				got = strings.Split(strings.TrimSpace(subscriber.log.String()), "\n")
				if len(got) < count {
					return fmt.Errorf("%d lines came to the subscriber, want %d", len(got), count)
				}
				return nil
			})
			return got
		}
		lines(3) // "subscribe", the channel and how many
		var news strings.Builder
		const messages = 1000
		for i := range messages {
			fmt.Fprintf(&news, "PUBLISH news message-%d\n", i)
		}
		redis(news.String())
		for i, line := range lines(3 + 3*messages)[3:] {
			if want := []string{"message", "news", fmt.Sprint("message-", i/3)}[i%3]; line != want {
				t.Fatalf("line %d of the subscriber: got %q, want %q", i, line, want)
			}
		}
		return strings.Join(results, "\n")
	})
}
