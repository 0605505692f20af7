//go:build !unix

package rawio

import "net"

// Wrap returns conn itself: there is nothing cheaper here.
func Wrap(conn net.Conn) net.Conn { return conn }
