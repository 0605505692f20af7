//go:build unix

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// The tests of tcp_*_test.go have a program that people know serve, and its own client visit it: straight, and then
// through a tunnel, with the same result.

// serviceUser is the prefix of a command for services that refuse to run as root.
func serviceUser() []string {
	if os.Getuid() != 0 {
		return nil
	}
	return []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"}
}

// serve runs a program of others until the test ends, when it gets the signal that means to stop. It returns when
// the program listens on addr.
func serve(t testing.TB, stop os.Signal, addr string, words ...string) *program {
	t.Helper()
	p := &program{t: t, name: filepath.Base(words[0]), foreign: true, cmd: exec.Command(words[0], words[1:]...)}
	p.run()
	t.Cleanup(func() {
		p.signal(stop)
		p.wait()
	})
	eventually(t, func() error {
		select {
		case <-p.done:
			t.Fatalf("%s ended: %v\n%s", p.name, p.cmd.ProcessState, p.log.String())
		default:
		}
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err
	})
	return p
}

// visitor is one run of somebody's client program.
type visitor struct {
	dir string
	env []string
	in  io.Reader
	out io.Writer // nil: run returns it
}

// run runs the program to its end, which must be a success.
func (v visitor) run(t testing.TB, words ...string) string {
	t.Helper()
	code, out := v.exit(t, words...)
	if code != 0 {
		t.Fatalf("%q ended with %d", words, code)
	}
	return out
}

// exit runs the program to its end and returns its exit code.
func (v visitor) exit(t testing.TB, words ...string) (int, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = v.dir
	cmd.Env = slices.Concat(inherited(), v.env)
	cmd.SysProcAttr = processAttributes()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = v.in, v.out, &stderr
	if v.out == nil {
		cmd.Stdout = &stdout
	}
	cmd.WaitDelay = time.Second // for output that a grandchild holds open
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(2*patience, func() {
		t.Errorf("%q does not end", words)
		_ = cmd.Process.Kill()
	})
	_ = cmd.Wait() // how it ended is in ProcessState
	timer.Stop()
	if code := cmd.ProcessState.ExitCode(); code != 0 && stderr.Len() > 0 {
		t.Logf("%q: %s", words, stderr.String())
	}
	return cmd.ProcessState.ExitCode(), stdout.String()
}

// privatePort returns a port for a service, and its address.
func privatePort(t testing.TB) (port, addr string) {
	t.Helper()
	n := freeport.New(t)
	return fmt.Sprint(n), fmt.Sprint("127.0.0.1:", n)
}

// exposePort makes a private address reachable by a port of a tunnel, and returns the public address. options follow
// the upstream, such as "?proxy=v2".
func exposePort(t testing.TB, private, options string) string {
	t.Helper()
	public := freeport.New(t)
	s := startServer(t, "MODE=tcp,http")
	startClient(t, s, fmt.Sprintf("%d=%s%s", public, private, options)).await("connected")
	s.await("client connected")
	return fmt.Sprint("127.0.0.1:", public)
}

// bothWays runs visit with the service's own port and then with that of a tunnel. What it returns must be the same.
func bothWays(t *testing.T, private string, visit func(t *testing.T, port string) string) {
	t.Helper()
	public := exposePort(t, private, "")
	var direct string
	if !t.Run("direct", func(t *testing.T) { direct = visit(t, port(private)) }) {
		return
	}
	t.Run("tunnel", func(t *testing.T) {
		if got := visit(t, port(public)); got != direct {
			t.Errorf("got\n%s\nwant, as without the tunnel,\n%s", got, direct)
		}
	})
}

// testFile writes n bytes that look random to a file, and returns its path and their hash.
func testFile(t testing.TB, n int64) (path, hash string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "data.bin")
	f, err := os.Create(path)
	must(t, err)
	_, err = io.Copy(f, testData(n))
	must(t, err)
	must(t, f.Close())
	return path, hashOf(testData(n))
}

// hashOfFile returns the hash of a file's content.
func hashOfFile(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	return hashOf(f)
}
