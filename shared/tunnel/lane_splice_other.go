//go:build !linux

package tunnel

import "net"

const (
	canSplice  = false
	spliceMost = 1 << 20
)

// rawSocket, splicer: only Linux moves bytes between sockets in the kernel.
type rawSocket struct{}

func rawOf(net.Conn) (rawSocket, error) { return rawSocket{}, errNoSplice }

func (rawSocket) wait() error              { return errNoSplice }
func (rawSocket) write([]byte, bool) error { return errNoSplice }

type splicer struct{}

func (*splicer) open() error                             { return errNoSplice }
func (*splicer) close()                                  {}
func (*splicer) fill(rawSocket, int) (int, error)        { return 0, errNoSplice }
func (*splicer) drain(rawSocket, int, func(n int)) error { return errNoSplice }
