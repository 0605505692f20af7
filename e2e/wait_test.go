//go:build unix

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// appAt serves text at an address until it is stopped, or the test ends.
func appAt(t testing.TB, addr, text string) (stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	must(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	stop = func() {
		_ = srv.Close()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// seen is what visitors get who come again and again.
type seen map[int]int

// until visits url until it is answered with the code, and notes all answers.
func (s seen) until(t testing.TB, url, host string, code int, part string) {
	t.Helper()
	eventually(t, func() error {
		got, body, err := get(url, host)
		if err != nil {
			return err
		}
		s[got]++
		if got != code || !strings.Contains(body, part) {
			return fmt.Errorf("%d %q", got, body)
		}
		return nil
	})
}

// TestWaitUpstream starts a client before its app, which comes, goes and comes back: visitors get 503 or the app.
func TestWaitUpstream(t *testing.T) {
	t.Parallel()
	_, addr := privatePort(t)
	there := says(t, "there")
	s := startServer(t)
	client := connect(t, s, fmt.Sprintf("app.test=http://%s,there.test=http://%s", addr, there), "WAIT_UPSTREAM=tcp", "WAIT_INTERVAL=2s")
	metrics := "http://" + client.addr("metrics")
	client.await("waiting for upstream", "upstream", "app.test=http://"+addr)
	mark := client.mark()

	visits := seen{}
	code, body, err := get(s.url("/"), "app.test")
	if err != nil || code != 503 || !strings.Contains(body, "the service behind this host is not ready") {
		t.Errorf("before the app is there: %d %q %v", code, body, err)
	}
	visits.until(t, s.url("/"), "there.test", 200, "there")
	want(t, metrics+"/readyz", 503, "waiting for app.test=http://"+addr)
	want(t, metrics+"/healthz", 200, "ok")
	here := append(client.env, "METRICS_PORT="+port(client.addr("metrics")))
	if r := command(t, "client", "healthcheck --ready", here...); r.code != 1 || !strings.Contains(r.stderr, "waiting for app.test") {
		t.Errorf("healthcheck --ready: %+v", r)
	}
	want(t, metrics+"/metrics", 200, fmt.Sprintf("adit_upstream_healthy{upstream=\"app.test=http://%s\"} 0", addr))
	want(t, metrics+"/metrics", 200, fmt.Sprintf("adit_upstream_healthy{upstream=\"there.test=http://%s\"} 1", there))
	want(t, "http://"+s.metrics+"/metrics", 200, "adit_upstreams{state=\"waiting\"} 1")
	want(t, "https://"+s.control+"/status", 200, fmt.Sprintf("\"waiting\":[\"app.test=http://%s\"]", addr), s.bearer()...)
	if r := command(t, "server", "status", s.here()...); !strings.Contains(r.stdout, "app.test=http://"+addr+" (waiting), there.test=http://"+there+"\n") {
		t.Errorf("status: %+v", r)
	}

	stop := appAt(t, addr, "here I am")
	visits.until(t, s.url("/"), "app.test", 200, "here I am")
	if visits[502]+visits[504] > 0 {
		t.Errorf("visitors who came too early got %v", visits)
	}
	eventually(t, func() error { return answers(metrics+"/readyz", "ready") })
	want(t, "http://"+s.metrics+"/metrics", 200, "adit_upstreams{state=\"waiting\"} 0")
	if r := command(t, "client", "healthcheck --ready", here...); r.code != 0 {
		t.Errorf("healthcheck --ready: %+v", r)
	}

	stop()
	visits.until(t, s.url("/"), "app.test", 503, "not ready") // those who come in the moment get 502
	client.await("upstream does not answer any more")
	s.await("upstream does not answer any more, its visitors wait", "upstream", "app.test=http://"+addr)

	before := visits[502]
	appAt(t, addr, "back again")
	visits.until(t, s.url("/"), "app.test", 200, "back again")
	if visits[502] != before {
		t.Errorf("visitors who came too early again got %v", visits)
	}
	for _, e := range client.log.from(mark) {
		if e.is("connection lost") || e.is("connected") {
			t.Errorf("the client connected anew: %s", e.text)
		}
	}
}

// TestWaitForAnswer waits for what an upstream says of itself, where it is asked to.
func TestWaitForAnswer(t *testing.T) {
	t.Parallel()
	var healthy atomic.Bool
	app := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/up" && !healthy.Load() {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		fmt.Fprint(w, "hello")
	})
	_, gone := privatePort(t)
	s := startServer(t)
	upstreams := fmt.Sprintf("http://%s,tea.test=http://%[1]s?wait=/up=200-418,port.test=http://%[1]s?wait=tcp,off.test=http://%s?wait=off", app, gone)
	client := connect(t, s, upstreams, "WAIT_UPSTREAM=/up", "WAIT_INTERVAL=2s")
	visits := seen{}
	visits.until(t, s.url("/"), "port.test", 200, "hello")
	visits.until(t, s.url("/"), "tea.test", 200, "hello")
	client.await("waiting for upstream", "reason", "/up is answered with 418", "wait", "/up")
	for host, code := range map[string]int{"other.test": 503, "off.test": 502} {
		if got, body, err := get(s.url("/"), host); err != nil || got != code {
			t.Errorf("%s: %d %q %v, want %d", host, got, body, err, code)
		}
	}
	healthy.Store(true)
	visits.until(t, s.url("/"), "other.test", 200, "hello")
	eventually(t, func() error { return answers("http://"+client.addr("metrics")+"/readyz", "ready") })
}

// TestWaitElsewhere has a second client serve what the first one waits for.
func TestWaitElsewhere(t *testing.T) {
	t.Parallel()
	_, addr := privatePort(t)
	s := startServer(t)
	first := connect(t, s, "http://"+addr, "WAIT_UPSTREAM=tcp", "WAIT_INTERVAL=2s")
	first.await("waiting for upstream")
	connect(t, s, "http://"+says(t, "hello"), "WAIT_UPSTREAM=tcp")
	visits := seen{}
	visits.until(t, s.url("/"), "", 200, "hello")
	for range 20 {
		must(t, answers(s.url("/"), "hello"))
	}
}

// TestWaitTCP closes connections to a port at once while its service is not there, and keeps the port.
func TestWaitTCP(t *testing.T) {
	t.Parallel()
	_, addr := privatePort(t)
	public := freeport.New(t)
	s := startServer(t, "MODE=tcp,http")
	client := connect(t, s, fmt.Sprintf("%d=%s", public, addr), "WAIT_UPSTREAM=/ignored/by/ports", "WAIT_INTERVAL=2s")
	client.await("waiting for upstream", "wait", "tcp")
	say := func() (string, error) {
		conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", public))
		if errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("the port is closed: %v", err)
		}
		if err != nil { // the end came before we knew of the beginning
			return "", err
		}
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(patience)))
		_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		answer, err := io.ReadAll(conn)
		return string(answer), err
	}
	if answer, err := say(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %q, %v", answer, err)
	}
	want(t, "http://"+s.metrics+"/metrics", 200, "adit_tcp_refused_connections_total{reason=\"waiting\"} 1")
	appAt(t, addr, "hello")
	eventually(t, func() error {
		answer, err := say()
		if err == nil && !strings.HasSuffix(answer, "hello") {
			err = fmt.Errorf("got %q", answer)
		}
		return err
	})
}
