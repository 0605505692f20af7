//go:build unix

package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// hashService answers what it is sent, once that has ended, with its hash: it needs the half-close.
func hashService(t testing.TB, name string) string {
	t.Helper()
	return newRelay(t, func(_ *relay, conn net.Conn) {
		hash := sha256.New()
		n, _ := io.Copy(hash, conn)
		fmt.Fprintf(conn, "%s %d %x", name, n, hash.Sum(nil))
	}).addr()
}

// ask sends n bytes, says that this was all, and returns what comes back.
func ask(addr string, n int64) (string, error) { return askWith(addr, testData(n)) }

func askWith(addr string, data io.Reader) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.Copy(conn, data); err != nil {
		return "", err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// TestTCP reaches private TCP services by ports that clients ask for.
func TestTCP(t *testing.T) {
	t.Parallel()
	shared, single := freeport.New(t), freeport.New(t)
	addr := func(port int) string { return fmt.Sprint("127.0.0.1:", port) }
	s := startServer(t, "MODE=http,tcp", "ALLOW_PORTS=20000-29999")
	one := connect(t, s, fmt.Sprintf("%d=%s,%d=%s,http://%s", shared, hashService(t, "one"), single, hashService(t, "single"), says(t, "hello")))
	connect(t, s, fmt.Sprintf("%d=%s", shared, hashService(t, "two")))

	must(t, answers(s.url("/"), "hello"))
	want := fmt.Sprintf("single %d %s", 16<<20, hashOf(testData(16<<20)))
	if got, err := ask(addr(single), 16<<20); got != want {
		t.Errorf("got %q %v, want %q", got, err, want)
	}
	seen := map[string]int{}
	for range 6 {
		got, err := ask(addr(shared), 10)
		must(t, err)
		name, _, _ := strings.Cut(got, " ")
		seen[name]++
	}
	if seen["one"] != 3 || seen["two"] != 3 {
		t.Errorf("the port was served by %v", seen)
	}
	must(t, answers("http://"+s.metrics+"/metrics", fmt.Sprintf(`tcp_dataplane_connections_total{port="%d"} 6`, shared)))

	startClient(t, s, "22=localhost:22").await("cannot connect", "level", "error", "error", "port 22 is not allowed: the server has ALLOW_PORTS=20000-29999")
	startClient(t, s, port(s.control)+"=localhost:22").await("cannot connect", "level", "error", "error", "the server uses it itself")

	one.stop()
	s.await("port closed", "port", fmt.Sprint(single))
	if got, err := ask(addr(single), 10); err == nil {
		t.Errorf("a port that nobody serves answers %q", got)
	}
	for range 3 {
		if got, err := ask(addr(shared), 10); !strings.HasPrefix(got, "two ") {
			t.Errorf("got %q %v", got, err)
		}
	}
}
