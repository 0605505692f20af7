package service

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// lines is a log that a test can wait on.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

// await returns the next line that contains text.
func (l lines) await(t testing.TB, text string) string {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case line := <-l:
			if strings.Contains(line, text) {
				return line
			}
		case <-deadline:
			t.Fatalf("no line with %q in the log", text)
		}
	}
}

// actor is a running HTTP actor.
type actor struct {
	url       string
	log       lines
	interrupt func(error)
	done      chan error
}

func start(t testing.TB, drain time.Duration, handler http.HandlerFunc) actor {
	t.Helper()
	l, err := Listen("PORT", "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	a := actor{url: "http://" + l.Addr().String(), log: make(lines, 100), done: make(chan error, 1)}
	var execute func() error
	execute, a.interrupt = HTTP("data plane", &http.Server{Handler: handler}, l, drain, zerolog.New(a.log))
	go func() { a.done <- execute() }()
	a.log.await(t, "listening")
	return a
}

// get asks for the URL on a connection of its own and reports the body.
func (a actor) get(t testing.TB) <-chan string {
	t.Helper()
	got := make(chan string, 1)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	wg.Go(func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get(a.url)
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			body = []byte(err.Error())
		}
		got <- string(body)
	})
	return got
}

func TestHTTPDrains(t *testing.T) {
	started, finish := make(chan bool), make(chan bool)
	a := start(t, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
		close(started)
		<-finish
		io.WriteString(w, "complete")
	})
	got := a.get(t)
	<-started
	a.interrupt(nil)
	a.interrupt(nil) // once more does no harm
	if line := a.log.await(t, "draining"); !strings.Contains(line, `"server":"data plane"`) || !strings.Contains(line, `"at_most":"1m0s"`) {
		t.Errorf("got %s", line)
	}
	select {
	case err := <-a.done:
		t.Fatalf("stopped with a request in flight: %v", err)
	default:
	}
	close(finish)
	if body := <-got; body != "complete" {
		t.Errorf("got %s", body)
	}
	if err := <-a.done; err != nil {
		t.Errorf("got %v", err)
	}
	if body := <-a.get(t); !strings.Contains(body, "refused") {
		t.Errorf("still answers: %s", body)
	}
}

func TestHTTPDrainIsBounded(t *testing.T) {
	for _, drain := range []time.Duration{0, 10 * time.Millisecond} {
		t.Run(drain.String(), func(t *testing.T) {
			started := make(chan bool)
			a := start(t, drain, func(_ http.ResponseWriter, r *http.Request) {
				close(started)
				<-r.Context().Done() // closed with the connection
			})
			got := a.get(t)
			<-started
			a.interrupt(nil)
			if err := <-a.done; err != nil {
				t.Errorf("got %v", err)
			}
			a.log.await(t, "drain cut off")
			if body := <-got; !strings.Contains(body, "EOF") && !strings.Contains(body, "reset") {
				t.Errorf("got %s", body)
			}
		})
	}
}

// A group interrupts all actors as soon as one has returned, even those that
// have not yet begun.
func TestHTTPInterruptedBeforeItBegins(t *testing.T) {
	l, err := Listen("PORT", "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	execute, interrupt := HTTP("data plane", &http.Server{}, l, time.Minute, zerolog.Nop())
	interrupt(nil)
	if err := execute(); err != nil {
		t.Errorf("got %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
}

func TestHTTPFails(t *testing.T) {
	l, err := Listen("PORT", "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	execute, _ := HTTP("data plane", &http.Server{}, l, time.Minute, zerolog.Nop())
	if err := execute(); !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(err.Error(), "serve data plane: ") {
		t.Errorf("got %v", err)
	}
}

func TestHTTPKeepsErrorLog(t *testing.T) {
	srv := &http.Server{}
	HTTP("data plane", srv, nil, 0, zerolog.Nop())
	ours := srv.ErrorLog
	HTTP("data plane", srv, nil, 0, zerolog.Nop())
	if ours == nil || srv.ErrorLog != ours {
		t.Error("the error log is not kept")
	}
}

func TestErrorLog(t *testing.T) {
	for _, test := range []struct{ line, level string }{
		{"http: panic serving 192.0.2.1:1: boom\ngoroutine 7 [running]:", "error"},
		{"http: Accept error: too many open files; retrying in 5ms", "warn"},
		{"http: TLS handshake error from 192.0.2.1:1: EOF", "debug"},
	} {
		var out bytes.Buffer
		srv := &http.Server{}
		HTTP("data plane", srv, nil, 0, zerolog.New(&out))
		srv.ErrorLog.Print(test.line)
		if got := out.String(); !strings.Contains(got, `"level":"`+test.level+`"`) || !strings.Contains(got, `"server":"data plane"`) {
			t.Errorf("got %s, want level %s", got, test.level)
		}
	}
}
