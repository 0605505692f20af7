package tunnel

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Carrier moves the frames of a session. One goroutine reads, another writes;
// Close may be called by any, more than once, and ends both.
type Carrier interface {
	// Read returns the bytes of the peer's frames, in order.
	io.Reader
	// WriteBatch sends whole frames, first then second, in one message and, where
	// possible, in one system call, within the timeout. Either may be empty.
	WriteBatch(first, second []byte, timeout time.Duration) error
	// CloseWrite tells the peer, after the last batch, that we have finished; the peer
	// is expected to close, and until then Read goes on.
	CloseWrite() error
	// Close ends the connection at once; the reason is told to the peer if the
	// carrier has a way to and it takes no time.
	Close(reason string) error
	RemoteAddr() net.Addr
}

// batchSize is the room for one message in a websocket's write buffer: two full
// pending buffers, see writer.
const batchSize = smallLimit + bulkLimit + 4<<10

// WriteBufferSize and WriteBufferPool are what a websocket that carries a session
// is made with: a message then leaves as one websocket frame in one write, and an
// idle connection holds no write buffer.
const WriteBufferSize = batchSize

// WriteBufferPool is shared by all websockets of the process.
var WriteBufferPool websocket.BufferPool = &sync.Pool{}

// ReadBufferSize is the read buffer of a websocket that carries a session: small where
// the socket below reads ahead, into a buffer that an idle connection does not hold.
const ReadBufferSize = readBufferSize

// NewWebsocket returns a carrier over an established websocket.
//
// Over a connection of package rawio a batch leaves in one system call, also through
// TLS, and may be tried before anything waits for the socket; and much is read at once. The
// caller must not have started to use it from several goroutines.
func NewWebsocket(conn *websocket.Conn) Carrier {
	readAhead(conn.NetConn())
	return &wsCarrier{conn: conn, below: newGatherer(conn.NetConn())}
}

type wsCarrier struct {
	conn    *websocket.Conn
	message io.Reader // the rest of the current message
	below   gatherer  // nil: none
}

// gatherer is what package rawio has for a socket below.
type gatherer interface {
	Begin()
	Try() (done bool, err error)
	Flush(timeout time.Duration) error
}

// trier is what a carrier can do on top if its socket allows it.
type trier interface {
	// TryBatch is WriteBatch that does not wait: what the socket does not take at once is
	// left to Finish, or to the next WriteBatch. It reports whether that is nothing.
	TryBatch(first, second []byte) (done bool, err error)
	// Finish sends what TryBatch has left.
	Finish(timeout time.Duration) error
}

// tries returns c as a trier, or nil if it cannot be.
func tries(c Carrier) trier {
	if ws, ok := c.(*wsCarrier); ok && ws.below != nil {
		return ws
	}
	return nil
}

func (c *wsCarrier) Read(p []byte) (int, error) {
	for {
		if c.message != nil {
			n, err := c.message.Read(p)
			if err == io.EOF { // the end of a message, not of the connection
				c.message, err = nil, nil
			}
			if n > 0 || err != nil {
				return n, err
			}
		}
		typ, message, err := c.conn.NextReader()
		if err != nil {
			return 0, err
		}
		if typ != websocket.BinaryMessage {
			return 0, protocolErrorf("a websocket message that is not binary")
		}
		c.message = message
	}
}

func (c *wsCarrier) WriteBatch(first, second []byte, timeout time.Duration) error {
	if c.below == nil {
		if err := c.conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		return c.writeMessage(first, second)
	}
	c.below.Begin()
	if err := c.writeMessage(first, second); err != nil {
		return err
	}
	return c.below.Flush(timeout)
}

func (c *wsCarrier) TryBatch(first, second []byte) (done bool, err error) {
	c.below.Begin()
	if err := c.writeMessage(first, second); err != nil {
		return false, err
	}
	return c.below.Try()
}

func (c *wsCarrier) Finish(timeout time.Duration) error { return c.below.Flush(timeout) }

func (c *wsCarrier) writeMessage(first, second []byte) error {
	if len(first) == 0 {
		first, second = second, nil
	}
	if len(second) == 0 {
		return c.conn.WriteMessage(websocket.BinaryMessage, first)
	}
	w, err := c.conn.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return err
	}
	if _, err := w.Write(first); err != nil {
		return err
	}
	if _, err := w.Write(second); err != nil {
		return err
	}
	return w.Close()
}

// CloseWrite sends the close frame, which the peer answers with its own.
func (c *wsCarrier) CloseWrite() error {
	return c.last(websocket.CloseGoingAway, "", closeTimeout)
}

func (c *wsCarrier) Close(reason string) error {
	code := websocket.CloseGoingAway // 1001, RFC 6455 section 7.4.1
	if reason != "" {
		code = websocket.CloseProtocolError
	}
	// A write that is under way keeps the lock: do not wait for it.
	_ = c.last(code, reason, 50*time.Millisecond)
	return c.conn.Close()
}

// last sends a close frame. Its reason must be UTF-8 and at most 123 bytes.
func (c *wsCarrier) last(code int, reason string, timeout time.Duration) error {
	payload := websocket.FormatCloseMessage(code, clip(reason, 123))
	return c.conn.WriteControl(websocket.CloseMessage, payload, time.Now().Add(timeout))
}

func (c *wsCarrier) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// NewConn returns a carrier over a plain byte connection: frames follow each other
// without messages around them.
func NewConn(conn net.Conn) Carrier {
	return &connCarrier{conn: conn, r: bufio.NewReaderSize(conn, 4<<10)}
}

type connCarrier struct {
	conn net.Conn
	r    *bufio.Reader
}

func (c *connCarrier) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *connCarrier) WriteBatch(first, second []byte, timeout time.Duration) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if len(first) == 0 {
		first, second = second, nil
	}
	if len(second) == 0 {
		_, err := c.conn.Write(first)
		return err
	}
	batch := net.Buffers{first, second}
	_, err := batch.WriteTo(c.conn)
	return err
}

func (c *connCarrier) CloseWrite() error {
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.conn.Close()
}

func (c *connCarrier) Close(string) error {
	err := c.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (c *connCarrier) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }
