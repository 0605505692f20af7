package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/run"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

// helper is the argument that makes the test binary the program of signals_test.go.
const helper = "serve-until-signal"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == helper {
		os.Exit(serveUntilSignal())
	}
	goleak.VerifyTestMain(m)
}

// serveUntilSignal is a program with the wiring of an image. A request is
// answered when its body has ended, a stop waits for that up to a minute.
func serveUntilSignal() int {
	log := zerolog.New(os.Stderr)
	l, err := Listen("PORT", "127.0.0.1", 0)
	if err != nil {
		log.Error().Err(err).Msg("stopped")
		return Exit(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.Info().Msg("request")
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "complete")
	})}
	var g run.Group
	g.Add(HTTP("data plane", srv, l, time.Minute, log))
	g.Add(Signals(context.Background()))
	return Exit(g.Run())
}

func TestListen(t *testing.T) {
	l, err := Listen("PORT", "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	if port == 0 {
		t.Fatal("got port 0")
	}

	_, err = Listen("PORT", "127.0.0.1", port)
	want := fmt.Sprintf("PORT: port %d is used by another program: stop it or set PORT to another (0 picks a free one): listen tcp", port)
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v", err)
	}

	// 192.0.2.0/24 is for documentation: no machine has it.
	_, err = Listen("PORT", "192.0.2.1", 0)
	if err == nil || !strings.HasPrefix(err.Error(), "PORT: 192.0.2.1 is not an address of this machine") {
		t.Errorf("got %v", err)
	}
}

func TestListenError(t *testing.T) {
	for _, test := range []struct {
		name  string
		cause error
		want  string
	}{
		{"in use", syscall.EADDRINUSE, "PORT: port 80 is used by another program"},
		{"in use on windows", syscall.Errno(10048), "PORT: port 80 is used by another program"},
		{"denied", syscall.EACCES, "PORT: this process may not listen on port 80: set PORT to one above 1023"},
		{"denied on windows", syscall.Errno(10013), "PORT: this process may not listen on port 80"},
		{"address", syscall.EADDRNOTAVAIL, "PORT: lan is not an address of this machine"},
		{"address on windows", syscall.Errno(10049), "PORT: lan is not an address of this machine"},
		{"other", errors.New("no such host"), "PORT: listen: no such host"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := listenError("PORT", "lan", 80, &net.OpError{Op: "listen", Err: test.cause})
			if !strings.HasPrefix(err.Error(), test.want) || !errors.Is(err, test.cause) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestExit(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		want int
	}{
		{"none", nil, 0},
		{"signal", run.SignalError{Signal: syscall.SIGTERM}, 0},
		{"pointer to signal", &run.SignalError{Signal: os.Interrupt}, 0},
		{"wrapped signal", fmt.Errorf("stop: %w", &run.SignalError{Signal: os.Interrupt}), 0},
		{"failure", errors.New("broken"), 1},
		{"canceled", context.Canceled, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Exit(test.err); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestSignalsEndWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	execute, _ := Signals(ctx)
	cancel()
	if err := execute(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	execute, interrupt := Signals(t.Context())
	interrupt(nil)
	if err := execute(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
