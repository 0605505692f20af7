// Package service is the wiring that every image shares: listeners whose errors
// tell an operator what to do, HTTP servers and signals as actors of an oklog/run
// group, and the exit code of such a group.
//
// The actors of a group are interrupted one after another, so an interrupt only
// signals; execute waits for the drain. [Signals] is the last actor of a group.
package service

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"github.com/oklog/run"
)

// Windows has numbers of its own for what package syscall names after Unix.
const (
	windowsDenied       = syscall.Errno(10013)
	windowsInUse        = syscall.Errno(10048)
	windowsNotAvailable = syscall.Errno(10049)
)

// Listen listens on a TCP port of host, or of all interfaces if host is empty;
// port 0 picks a free one. The error names the variable that the port came from
// and says what to do.
func Listen(variable, host string, port int) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, listenError(variable, host, port, err)
	}
	return l, nil
}

func listenError(variable, host string, port int, err error) error {
	is := func(unix, windows syscall.Errno) bool { return errors.Is(err, unix) || errors.Is(err, windows) }
	switch {
	case is(syscall.EADDRINUSE, windowsInUse):
		return fmt.Errorf("%s: port %d is used by another program: stop it or set %s to another (0 picks a free one): %w", variable, port, variable, err)
	case is(syscall.EACCES, windowsDenied):
		return fmt.Errorf("%s: this process may not listen on port %d: set %s to one above 1023 and map it outside, or grant NET_BIND_SERVICE: %w", variable, port, variable, err)
	case is(syscall.EADDRNOTAVAIL, windowsNotAvailable):
		return fmt.Errorf("%s: %s is not an address of this machine: correct it, or leave it empty for all interfaces: %w", variable, host, err)
	}
	return fmt.Errorf("%s: %w", variable, err)
}

// Exit returns the exit code for what the Run of a group returned: 0 after a
// signal or no error, else 1.
func Exit(err error) int {
	if err == nil || errors.Is(err, run.ErrSignal) {
		return 0
	}
	return 1
}
