//go:build !unix

package tunnel

import "net"

const readBufferSize = 4 << 10

func newGatherer(net.Conn) gatherer { return nil }

func readAhead(net.Conn) func() int { return nil }
