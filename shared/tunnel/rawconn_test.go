//go:build unix

package tunnel

import (
	"errors"
	"os"
	"testing"
	"time"
)

// A write that waits tells of what the socket has taken before it has taken all, and ends
// at the deadline.
func TestRawWrite(t *testing.T) {
	a, b := tcpPair(t)
	raw, ok := newRawConn(a)
	if !ok {
		t.Fatal("a TCP connection cannot be used")
	}
	want := pattern(32<<20, 1) // more than the sockets hold
	moved := make(chan struct{}, 1)
	type result struct {
		n   int
		err error
	}
	wrote := make(chan result, 1)
	start := func() {
		go func() {
			n, err := raw.write(want, func() { wake(moved) })
			wrote <- result{n, err}
		}()
	}
	start()
	select {
	case <-moved: // and nobody has read
	case r := <-wrote:
		t.Fatalf("%d bytes were written unnoticed, %v", r.n, r.err)
	}
	wantBytes(t, b, want)
	if r := <-wrote; r.n != len(want) || r.err != nil {
		t.Errorf("%d bytes were written of %d, %v", r.n, len(want), r.err)
	}
	<-moved // of the end of the first
	start()
	<-moved
	_ = a.SetWriteDeadline(time.Unix(1, 0))
	if r := <-wrote; r.n == 0 || r.n == len(want) || !errors.Is(r.err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes were written of %d, %v", r.n, len(want), r.err)
	}
}
