//go:build unix

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// held is a service whose answers wait: each sends its first part, reports on begun, and ends with release.
type held struct {
	begun   chan struct{}
	release chan struct{}
}

func newHeld(t testing.TB) (h held, addr string) {
	t.Helper()
	h = held{make(chan struct{}), make(chan struct{})}
	return h, upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/quick" {
			fmt.Fprint(w, "quick")
			return
		}
		fmt.Fprint(w, "first part, ")
		w.(http.Flusher).Flush()
		h.begun <- struct{}{}
		select {
		case <-h.release:
			fmt.Fprint(w, "second part")
		case <-r.Context().Done():
		}
	})
}

// visit starts a visit that the service holds, and returns where its outcome comes.
func (h held) visit(t testing.TB, url string) <-chan string {
	t.Helper()
	done := make(chan string, 1)
	go func() {
		code, body, err := get(url, "")
		done <- fmt.Sprint(code, " ", body, " ", err)
	}()
	receive(t, h.begun)
	return done
}

const whole = "200 first part, second part <nil>"

// TestStopServer ends the server with a request under way, which is finished, and nothing else is begun.
func TestStopServer(t *testing.T) {
	t.Parallel()
	service, up := newHeld(t)
	tun := newTunnel(t, "http://"+up)
	must(t, answers(tun.url("/quick"), "quick")) // leaves an idle stream, which must not keep anything
	done := service.visit(t, tun.url("/"))
	tun.signal(syscall.SIGTERM)
	tun.await("draining", "server", "data plane")
	tun.client.await("server is leaving", "reason", "the server is shutting down")
	if code, body, err := get("http://"+tun.metrics+"/readyz", ""); code != 503 {
		t.Errorf("readiness: %d %s %v", code, body, err)
	}
	must(t, answers("http://"+tun.metrics+"/healthz", "ok"))
	if code, body, err := get(tun.url("/quick"), ""); err == nil {
		t.Errorf("a new visitor got %d %s", code, body)
	}
	close(service.release)
	if got := receive(t, done); got != whole {
		t.Errorf("the visitor got %s", got)
	}
	if state := tun.wait(); state.ExitCode() != 0 {
		t.Errorf("ended with %v", state)
	}
	tun.never("drain cut off")
}

// TestStopServerLater has it go on for load balancers to notice.
func TestStopServerLater(t *testing.T) {
	t.Parallel()
	_, up := newHeld(t)
	tun := newTunnel(t, "http://"+up, "DRAIN_DELAY=1s")
	tun.signal(syscall.SIGTERM)
	tun.await("not ready any more, still accepting")
	if code, body, err := get("http://"+tun.metrics+"/readyz", ""); code != 503 {
		t.Errorf("readiness: %d %s %v", code, body, err)
	}
	must(t, answers(tun.url("/quick"), "quick"))
	if state := tun.wait(); state.ExitCode() != 0 {
		t.Errorf("ended with %v", state)
	}
}

// TestStopClient ends the client with a request under way; new ones go to the other client.
func TestStopClient(t *testing.T) {
	t.Parallel()
	service, up := newHeld(t)
	tun := newTunnel(t, "http://"+up)
	must(t, answers(tun.url("/quick"), "quick"))
	done := service.visit(t, tun.url("/"))
	connect(t, tun.server, "http://"+says(t, "the other"))
	tun.client.signal(syscall.SIGTERM)
	tun.client.await("draining")
	tun.await("client is leaving", "reason", "the client is shutting down")
	for range 4 {
		must(t, answers(tun.url("/quick"), "the other"))
	}
	close(service.release)
	if got := receive(t, done); got != whole {
		t.Errorf("the visitor got %s", got)
	}
	if state := tun.client.wait(); state.ExitCode() != 0 {
		t.Errorf("ended with %v", state)
	}
	tun.client.never("drain cut off")
	tun.client.never("cannot connect")
}

// TestStopInTime ends programs while a visitor stays for ever: after DRAIN_TIMEOUT he is cut off, visibly.
func TestStopInTime(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"server", "client"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			service, up := newHeld(t)
			tun := newTunnel(t, "http://"+up+",echo.test=http://"+upstream(t, newService(t).ServeHTTP), "DRAIN_TIMEOUT=300ms")
			done := service.visit(t, tun.url("/"))
			conn, _, err := websocket.DefaultDialer.Dial("ws://"+tun.data+"/echo", http.Header{"Host": {"echo.test"}})
			must(t, err)
			defer conn.Close()
			p := map[string]*program{"server": tun.program, "client": tun.client}[which]
			p.signal(syscall.SIGTERM)
			if state := p.wait(); state.ExitCode() != 0 {
				t.Errorf("ended with %v", state)
			}
			if got := receive(t, done); got != "200 first part,  "+io.ErrUnexpectedEOF.Error() {
				t.Errorf("the visitor got %s", got)
			}
			must(t, conn.SetReadDeadline(time.Now().Add(patience)))
			if _, _, err := conn.ReadMessage(); err == nil {
				t.Error("the websocket goes on")
			}
		})
	}
}

// TestSecondSignal ends programs that drain at once.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"server", "client"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			service, up := newHeld(t)
			tun := newTunnel(t, "http://"+up, "DRAIN_TIMEOUT=1h")
			done := service.visit(t, tun.url("/"))
			p := map[string]*program{"server": tun.program, "client": tun.client}[which]
			p.signal(syscall.SIGTERM)
			p.await("draining")
			p.signal(syscall.SIGTERM)
			if status, ok := p.wait().Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGTERM {
				t.Errorf("ended with %v", p.cmd.ProcessState)
			}
			if got := receive(t, done); got == whole {
				t.Errorf("the visitor got %s", got)
			}
		})
	}
}

// TestInterrupt is Ctrl-C.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	files := start(t, "fileserver", environment("WEBROOT="+t.TempDir())...)
	tun := newTunnel(t, "http://"+files.addr("data plane"))
	for _, p := range []*program{tun.client, tun.program, files} {
		p.signal(syscall.SIGINT)
		if state := p.wait(); state.ExitCode() != 0 {
			t.Errorf("%s ended with %v", p.name, state)
		}
	}
}
