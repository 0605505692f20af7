//go:build !unix

package tunnel

import "net"

// rawConn is not available here: relays use a goroutine for each busy direction.
type rawConn struct{}

func newRawConn(net.Conn) (rawConn, bool)    { return rawConn{}, false }
func (rawConn) tryWrite([]byte) (int, error) { panic("tunnel: no raw connections") }
func (rawConn) read() (*buffer, int, error)  { panic("tunnel: no raw connections") }
