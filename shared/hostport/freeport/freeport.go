// Package freeport gives tests ports that nothing else takes while they run, not even a test of another process: what
// a listener on port 0 had and closed can be taken before the test uses it, by any connection of the machine.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports are chosen below those that a system gives out by itself: from 32768 on Linux (net.ipv4.ip_local_port_range),
// from 49152 on macOS.
const (
	first = 20000
	count = 10000
)

// New returns a port on which nothing listens. It is the test's until the test ends.
func New(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := first + rand.IntN(count) // #nosec G404 -- nothing to guess
		// Tests ask here for TCP ports only: the one of UDP with the same number tells all processes that this is taken.
		claim, err := net.ListenPacket("udp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			continue
		}
		if !free(port) {
			claim.Close()
			continue
		}
		t.Cleanup(func() { claim.Close() })
		return port
	}
	t.Fatal("freeport: 100 ports are taken")
	return 0
}

// Addr returns the address of a port as New does, on 127.0.0.1.
func Addr(t testing.TB) string {
	t.Helper()
	return fmt.Sprint("127.0.0.1:", New(t))
}

func free(port int) bool {
	for _, host := range []string{"127.0.0.1", ""} { // macOS lets one listen although the other does
		l, err := net.Listen("tcp", fmt.Sprint(host, ":", port))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}
