//go:build unix

package tunnel

import (
	"crypto/tls"
	"net"

	"github.com/adit-tunnel/adit/shared/rawio"
)

const readBufferSize = 512

// newGatherer looks for a connection of package rawio below conn.
func newGatherer(conn net.Conn) gatherer {
	through := true // TLS writes a record at a time
	for {
		switch c := conn.(type) {
		case *rawio.Conn:
			return c.Gather(through)
		case *tls.Conn:
			through = false
		}
		below, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = below.NetConn()
	}
}

// readAhead has a connection of package rawio below conn read ahead, and returns how much
// it has; nil if there is none.
func readAhead(conn net.Conn) func() int {
	for {
		if c, ok := conn.(*rawio.Conn); ok {
			c.ReadAhead()
			return c.Ahead
		}
		below, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = below.NetConn()
	}
}
