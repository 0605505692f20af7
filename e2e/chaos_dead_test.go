//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// mostWait is what a fault of another client may cost a visitor.
const mostWait = 4 * time.Second

// TestChaosKill kills one of two clients again and again while visitors get.
func TestChaosKill(t *testing.T) {
	t.Parallel()
	s := startServer(t, chaosEnv()...)
	upstreams := "http://" + newApp(t)
	stays, dies := startClient(t, s, upstreams, chaosEnv()...), startClient(t, s, upstreams, chaosEnv()...)
	stays.await("connected")
	dies.await("connected")
	keep, once := newVisitor(t, true), newVisitor(t, false)
	all := []*traffic{
		startTraffic(t, "GET", 6, 2*time.Millisecond, func(int, int) error { return fetch(keep, "GET", s.url("/hello"), "", "hello") }),
		startTraffic(t, "GET, a connection each", 2, 10*time.Millisecond, func(int, int) error { return fetch(once, "GET", s.url("/hello"), "", "hello") }),
	}
	for range pick(3, 30) {
		awaitAll(all)
		dies.kill()
		awaitAll(all)
		dies = startClient(t, s, upstreams, chaosEnv()...)
		dies.await("connected")
	}
	for _, l := range all {
		l.mustBeFlawless(visitTimeout)
	}
}

// freeze stops a process as it stands: its connections stay, and nobody answers. It goes on with the test's end, or
// by the function that is returned.
func (p *program) freeze() (thaw func()) {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	within(p.t, patience, p.stopped) // until then it may take on a stream, and stand still with it
	thawed := false
	thaw = func() {
		if !thawed {
			thawed = true
			p.signal(syscall.SIGCONT)
		}
	}
	p.t.Cleanup(thaw)
	return thaw
}

// stopped returns nil once no thread of the process runs any more (proc(5): state T).
func (p *program) stopped() error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		return fmt.Errorf("no threads: %v", err)
	}
	for _, path := range tasks {
		stat, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, state, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(state, "T") {
			return fmt.Errorf("%s: %s", path, stat)
		}
	}
	return nil
}

// TestChaosFrozenClient freezes one of two clients. Visitors are served by the other, those of a port that only the
// frozen one has are told soon, and that port is given back.
func TestChaosFrozenClient(t *testing.T) {
	// Not in parallel with other tests: it measures time.
	ping := pick(3*time.Second, pingInterval) // longer than opening a stream may take
	env := chaosEnv("PING_INTERVAL=" + ping.String())
	s := startServer(t, env...)
	both, one := freeport.New(t), freeport.New(t)
	addr := func(port int) string { return fmt.Sprint("127.0.0.1:", port) }
	echo, web := newEcho(t), newApp(t)
	good := startClient(t, s, fmt.Sprintf("http://%s,%d=%s", web, both, echo), env...)
	bad := startClient(t, s, fmt.Sprintf("http://%s,%d=%s,%d=%s", web, both, echo, one, echo), env...)
	good.await("connected")
	bad.await("connected")
	keep, once := newVisitor(t, true), newVisitor(t, false)
	all := []*traffic{
		startTraffic(t, "GET", 8, 5*time.Millisecond, func(int, int) error { return fetch(keep, "GET", s.url("/hello"), "", "hello") }),
		startTraffic(t, "GET, a connection each", 2, 20*time.Millisecond, func(int, int) error { return fetch(once, "GET", s.url("/hello"), "", "hello") }),
		startTraffic(t, "TCP", 4, 20*time.Millisecond, func(int, int) error { return stream(dialer(addr(both)), 10*time.Millisecond) }),
	}
	awaitAll(all)
	must(t, stream(dialer(addr(one)), time.Millisecond))

	all[2].mustBeFlawless(mostWait) // a connection that the frozen client carries stands still with it
	thaw := bad.freeze()
	frozen := time.Now()
	all[2] = startTraffic(t, "TCP", 4, 20*time.Millisecond, func(int, int) error { return stream(dialer(addr(both)), 10*time.Millisecond) })
	awaitAll(all)

	told := startTraffic(t, "TCP, to the frozen one", 2, 20*time.Millisecond, func(int, int) error {
		if err := stream(dialer(addr(one)), time.Millisecond); err == nil {
			return errors.New("somebody answers")
		}
		return nil
	})
	told.await(2)
	within(t, 2*ping+5*time.Second-time.Since(frozen), func() error {
		l, err := net.Listen("tcp", addr(one))
		if err == nil {
			l.Close()
		}
		return err
	})
	t.Logf("the frozen client's port was free after %v", time.Since(frozen).Round(time.Millisecond))
	awaitAll(all)
	told.mustBeFlawless(mostWait)

	thaw()
	within(t, patience, func() error { return stream(dialer(addr(one)), time.Millisecond) })
	awaitAll(all)
	for _, l := range all {
		l.mustBeFlawless(mostWait)
	}
}

// TestChaosFrozenServer freezes one of two servers: the client notices, and serves the other meanwhile.
func TestChaosFrozenServer(t *testing.T) {
	t.Parallel()
	token := newToken()
	good, bad := startServer(t, silenceEnv("TOKEN="+token)...), startServer(t, silenceEnv("TOKEN="+token)...)
	c := startClient(t, good, "http://"+newApp(t), silenceEnv("URL=wss://"+good.control+",wss://"+bad.control)...)
	for _, s := range []*server{good, bad} {
		c.await("connected", "url", s.control)
	}
	keep := newVisitor(t, true)
	visits := startTraffic(t, "GET", 2, 10*time.Millisecond, func(int, int) error { return fetch(keep, "GET", good.url("/hello"), "", "hello") })
	visits.await(2)
	mark := c.mark()
	thaw := bad.freeze()
	took := within(t, deadline, func() error { return c.logged(mark, "connection lost", "url", bad.control, "reason", "silent") })
	t.Logf("noticed after %v", took.Round(time.Millisecond))
	thaw()
	within(t, 2*patience, func() error { return c.logged(mark, "connected", "url", bad.control) })
	within(t, patience, func() error { return answers(bad.url("/hello"), "hello") })
	visits.mustBeFlawless(visitTimeout)
}
