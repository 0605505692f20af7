package freeport

import (
	"fmt"
	"net"
	"testing"
)

func TestNew(t *testing.T) {
	given := map[int]bool{}
	t.Run("held", func(t *testing.T) {
		for range 200 {
			port := New(t)
			if port < first || port >= first+count || given[port] {
				t.Fatalf("got %d again, or out of range", port)
			}
			given[port] = true
			if claim, err := net.ListenPacket("udp", fmt.Sprint("127.0.0.1:", port)); err == nil {
				claim.Close()
				t.Fatalf("%d can be claimed by others", port)
			}
			l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
			if err != nil {
				t.Fatal(err)
			}
			if free(port) {
				t.Errorf("%d is listened on", port)
			}
			l.Close()
		}
	})
	for port := range given {
		claim, err := net.ListenPacket("udp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			t.Fatalf("after the test: %v", err)
		}
		claim.Close()
	}
}
