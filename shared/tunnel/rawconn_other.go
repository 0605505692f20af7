//go:build !unix

package tunnel

import "net"

// rawConn is not available here: relays use a goroutine for each busy direction.
type rawConn struct{}

func newRawConn(net.Conn) (rawConn, bool)             { return rawConn{}, false }
func (rawConn) tryWrite([]byte) (int, error)          { panic("tunnel: no raw connections") }
func (rawConn) write([]byte, func()) (int, error)     { panic("tunnel: no raw connections") }
func (rawConn) read(bool, bool) (*Buffer, int, error) { panic("tunnel: no raw connections") }

// plainTCP returns the socket of a connection that has nothing in between, or nil.
func plainTCP(conn net.Conn) *net.TCPConn {
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}
