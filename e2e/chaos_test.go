//go:build linux

package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The tests of chaos_*_test.go are called TestChaos… and do to a tunnel what happens in production, with visitors
// who come all the time. They have two forms: a short one, where pings are frequent and a minute is seconds, and the
// one for CHAOS=1, which "make chaos" runs, with the settings that people run, for longer.

// long tells that the tests take the time that faults take in production.
var long = os.Getenv("CHAOS") != ""

// pick returns what a test takes in its short form, or in its long one.
func pick[T any](short, inProduction T) T {
	if long {
		return inProduction
	}
	return short
}

// Where a peer falls silent, pings come every pingInterval, and deadline is how long it may take until the peer is
// gone: two intervals and a bit. Elsewhere they are the default, so that a machine which stands still for a while is
// not taken for dead.
var (
	pingInterval = pick(time.Second, 15*time.Second)
	deadline     = 2*pingInterval + 5*time.Second
)

// chaosEnv is for both programs.
func chaosEnv(env ...string) []string { return append([]string{"MODE=http,tcp"}, env...) }

// silenceEnv is chaosEnv for tests where a peer falls silent.
func silenceEnv(env ...string) []string {
	return append(chaosEnv("PING_INTERVAL="+pingInterval.String()), env...)
}

// within waits until try returns nil, and returns how long that took. It fails the test if that is longer than limit.
func within(t testing.TB, limit time.Duration, try func() error) time.Duration {
	t.Helper()
	begun := time.Now()
	timeout := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return time.Since(begun)
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not within %v: %v", limit, err)
		}
	}
}

// logged returns nil if the program has logged the message since the mark.
func (p *program) logged(mark int, message string, fields ...string) error {
	for _, e := range p.log.from(mark) {
		if e.is(message, fields...) {
			return nil
		}
	}
	return fmt.Errorf("%s has not logged %q %q", p.name, message, fields)
}

// traffic is visitors who come all the time.
type traffic struct {
	t    testing.TB
	what string
	stop chan struct{}
	work sync.WaitGroup

	mu      sync.Mutex
	visits  int
	failed  []string
	slowest time.Duration
	took    []time.Duration
	more    chan struct{} // closed with the next visit
	ended   bool
}

// startTraffic has workers visit, each again after a pause. Visits must be bounded in time.
func startTraffic(t testing.TB, what string, workers int, pause time.Duration, visit func(worker, n int) error) *traffic {
	l := &traffic{t: t, what: what, stop: make(chan struct{}), more: make(chan struct{})}
	begun := time.Now()
	for worker := range workers {
		l.work.Go(func() {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for n := 0; ; n++ {
				at := time.Now()
				err := visit(worker, n)
				l.note(at.Sub(begun), time.Since(at), err)
				select {
				case <-l.stop:
					return
				case <-tick.C:
				}
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *traffic) note(at, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.visits++
	l.slowest = max(l.slowest, took)
	l.took = append(l.took, took)
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("%s, visit at %v, after %v: %v", l.what, at.Round(time.Millisecond), took.Round(time.Millisecond), err))
	}
	close(l.more)
	l.more = make(chan struct{})
}

// await waits until there were n more visits.
func (l *traffic) await(n int) {
	l.t.Helper()
	timeout := time.After(deadline + patience)
	first := -1
	for {
		l.mu.Lock()
		visits, more := l.visits, l.more
		l.mu.Unlock()
		if first < 0 {
			first = visits
		}
		if visits >= first+n {
			return
		}
		select {
		case <-more:
		case <-timeout:
			l.t.Fatalf("%s: only %d of %d visits", l.what, visits-first, n)
		}
	}
}

// end lets the last visits finish.
func (l *traffic) end() {
	if !l.ended {
		l.ended = true
		close(l.stop)
	}
	l.work.Wait()
}

// mustBeFlawless ends the traffic: no visit may have failed, nor taken longer than limit.
func (l *traffic) mustBeFlawless(limit time.Duration) {
	l.t.Helper()
	l.end()
	slices.Sort(l.took)
	l.t.Logf("%s: %d visits, %d failed, median %v, slowest %v", l.what, l.visits, len(l.failed), l.took[len(l.took)/2].Round(time.Microsecond), l.slowest.Round(time.Microsecond))
	if l.slowest > limit {
		l.t.Errorf("%s: a visit took %v, which is longer than %v", l.what, l.slowest, limit)
	}
	if n := len(l.failed); n > 0 {
		l.t.Errorf("%d of %d visits failed:\n%s", n, l.visits, strings.Join(l.failed[:min(n, 20)], "\n"))
	}
}

// visitTimeout bounds a visit of the traffic.
const visitTimeout = 20 * time.Second

// newVisitor returns an HTTP client with connections of its own, kept alive or not.
func newVisitor(t testing.TB, keepAlive bool) *http.Client {
	transport := &http.Transport{DisableKeepAlives: !keepAlive, MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: visitTimeout}
}

// fetch makes a request and wants a body.
func fetch(client *http.Client, method, url, body, want string) error {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != 200 || string(got) != want) {
		err = fmt.Errorf("%d %.100q (%d bytes)", resp.StatusCode, got, len(got))
	}
	return err
}

// newApp is a private HTTP service for the traffic: /hello is small, /slow takes a second, and /hash answers with the
// hash of what was posted.
func newApp(t testing.TB) string {
	t.Helper()
	return upstream(t, app)
}

func app(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/hello":
		fmt.Fprint(w, "hello")
	case "/hash":
		hash := sha256.New()
		if _, err := io.Copy(hash, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "%x", hash.Sum(nil))
	case "/slow":
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for range 10 {
			fmt.Fprint(w, slowPart)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	}
}

var slowPart = strings.Repeat("part ", 1000)

// stream opens a TCP connection to an echo service by dial, uses it for about as long as it is told, says that this
// was all, and wants everything back.
func stream(dial func() (net.Conn, error), lasting time.Duration) error {
	conn, err := dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(visitTimeout))
	const pieces, size = 10, 20_000
	want := sha256.New()
	sent := make(chan error, 1)
	go func() {
		tick := time.NewTicker(lasting / pieces)
		defer tick.Stop()
		data := io.TeeReader(testData(pieces*size), want)
		for range pieces {
			if _, err := io.CopyN(conn, data, size); err != nil {
				sent <- err
				return
			}
			<-tick.C
		}
		sent <- conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got := sha256.New()
	n, err := io.Copy(got, conn)
	if err != nil {
		conn.Close()
	}
	if err := errors.Join(err, <-sent); err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	if n != pieces*size || string(got.Sum(nil)) != string(want.Sum(nil)) {
		return fmt.Errorf("%d of %d bytes came back, or others", n, pieces*size)
	}
	return nil
}

// dialer returns a dial function for stream.
func dialer(addr string) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		ctx, cancel := context.WithTimeout(context.Background(), visitTimeout)
		defer cancel()
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
}

// newEcho is a private TCP service that sends back what it gets.
func newEcho(t testing.TB) string {
	t.Helper()
	return newRelay(t, func(_ *relay, conn net.Conn) { _, _ = io.Copy(conn, conn) }).addr()
}
