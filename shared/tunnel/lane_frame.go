package tunnel

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"os"
)

// Websocket frames, RFC 6455 section 5.2.
const (
	opContinuation = 0
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10

	wsFinal  = 0x80
	wsMasked = 0x80
	// wsHeader is the longest header in bytes, wsControl the longest control frame.
	wsHeader  = 14
	wsControl = wsHeader + 125
)

// maskKey is the masking key of one frame. The zero key leaves the payload as it is.
type maskKey [4]byte

// appendWSHeader appends the header of a final frame. A frame of the client has a key.
func appendWSHeader(b []byte, opcode byte, length int, key *maskKey) []byte {
	masked := byte(0)
	if key != nil {
		masked = wsMasked
	}
	b = append(b, wsFinal|opcode)
	switch {
	case length <= 125:
		b = append(b, masked|byte(length))
	case length <= math.MaxUint16:
		b = append(b, masked|126)
		b = binary.BigEndian.AppendUint16(b, uint16(length))
	default:
		b = append(b, masked|127)
		b = binary.BigEndian.AppendUint64(b, uint64(length))
	}
	if key != nil {
		b = append(b, key[:]...)
	}
	return b
}

// appendWSControl appends a whole control frame.
func appendWSControl(b []byte, opcode byte, payload []byte, client bool) []byte {
	if !client {
		return append(appendWSHeader(b, opcode, len(payload), nil), payload...)
	}
	key := newMaskKey()
	b = appendWSHeader(b, opcode, len(payload), &key)
	at := len(b)
	b = append(b, payload...)
	key.mask(b[at:], 0)
	return b
}

func newMaskKey() (key maskKey) {
	_, _ = rand.Read(key[:]) // never fails
	return key
}

// mask changes p, which begins so many bytes into the payload, to its masked form or
// back, and returns where what follows begins.
func (key maskKey) mask(p []byte, at int) int {
	if key == (maskKey{}) {
		return 0
	}
	var block [1 << 10]byte // of the key, again and again
	room := block[:min(len(block), (len(p)+3)&^3)]
	for i := range min(4, len(room)) {
		room[i] = key[(at+i)&3]
	}
	for n := 4; n < len(room); n *= 2 {
		copy(room[n:], room[:n])
	}
	end := (at + len(p)) & 3
	for len(p) > 0 {
		p = p[subtle.XORBytes(p, p, room):]
	}
	return end
}

// errLaneEnd is what a laneReader returns at the close frame of the sender.
var errLaneEnd = errors.New("the sender has closed the lane")

// laneReader takes the payload of data frames out of a websocket, in whatever frames it
// comes: a box between may have cut them anew. A call that fails at a deadline may be
// repeated.
type laneReader struct {
	conn    net.Conn
	masked  bool              // frames must be, for they come from a client
	ping    func(data []byte) // is called for a ping, with what the answer must hold; may be nil
	control func()            // is called for every control frame; may be nil

	buf   []byte // read from conn and not yet used
	room  [4 << 10]byte
	left  uint64     // of the payload of the data frame that we are in
	ahead func() int // how much was read from below conn; nil: not known
	ended error      // what the next step returns
	key   maskKey
	at    int // how far we are in it, modulo 4
}

// need makes at least n bytes available in buf, without reading much more if exact.
func (r *laneReader) need(n int, exact bool) error {
	for len(r.buf) < n {
		copy(r.room[:], r.buf)
		end := len(r.room)
		if exact {
			end = min(end, max(n, wsHeader))
		}
		m, err := r.conn.Read(r.room[len(r.buf):end])
		r.buf = r.room[:len(r.buf)+m]
		if err != nil && len(r.buf) < n {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF // without a close frame
			}
			return err
		}
	}
	return nil
}

// errLaneFrame is what breaks the rules of RFC 6455, or ours.
var errLaneFrame = errors.New("malformed websocket frame on a lane")

// next reads headers until there is payload of a data frame, and returns errLaneEnd at
// a close frame. With exact it reads as little of the payload as it can.
func (r *laneReader) next(exact bool) error {
	for r.left == 0 {
		if _, err := r.step(exact); err != nil {
			return err
		}
	}
	return nil
}

// step reads the header of one frame, and of a control frame all. It returns errLaneEnd
// at a close frame.
func (r *laneReader) step(exact bool) (opcode byte, err error) {
	if r.ended != nil {
		return 0, r.ended
	}
	if err := r.need(2, exact); err != nil {
		return 0, err
	}
	size := 2
	switch r.buf[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	masked := r.buf[1]&wsMasked != 0
	if masked {
		size += 4
	}
	if masked != r.masked || r.buf[0]&0x70 != 0 {
		return 0, errLaneFrame
	}
	if err := r.need(size, exact); err != nil {
		return 0, err
	}
	length := uint64(r.buf[1] & 0x7f)
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(r.buf[2:]))
	case 127:
		length = binary.BigEndian.Uint64(r.buf[2:])
	}
	var key maskKey
	if masked {
		copy(key[:], r.buf[size-4:])
	}
	switch opcode = r.buf[0] & 0xf; {
	case (opcode == opBinary || opcode == opContinuation) && length <= math.MaxInt64:
		r.buf = r.buf[size:]
		r.left, r.key, r.at = length, key, 0
		return opcode, nil
	case opcode >= opClose && opcode <= opPong && length <= 125 && r.buf[0]&wsFinal != 0:
	default:
		return 0, errLaneFrame
	}
	if err := r.need(size+int(length), exact); err != nil {
		return 0, err
	}
	payload := r.buf[size : size+int(length)]
	r.buf = r.buf[size+int(length):]
	if r.control != nil {
		r.control()
	}
	switch {
	case opcode == opClose:
		return opcode, errLaneEnd
	case opcode == opPing && r.ping != nil:
		key.mask(payload, 0)
		r.ping(payload)
	}
	return opcode, nil
}

// read returns payload.
func (r *laneReader) read(p []byte) (int, error) {
	if err := r.next(false); err != nil {
		return 0, err
	}
	p = p[:min(uint64(len(p)), r.left)]
	var n int
	if len(r.buf) > 0 {
		n = copy(p, r.buf)
		r.buf = r.buf[n:]
	} else {
		var err error
		if n, err = r.conn.Read(p); n == 0 {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
	r.at = r.key.mask(p[:n], r.at)
	r.left -= uint64(n)
	return n, nil
}

// tlsRecord is the longest record of TLS in bytes (RFC 8446 section 5.2).
const tlsRecord = 5 + 1<<14 + 256

// fill is read that goes on while it need not wait.
func (r *laneReader) fill(p []byte) (int, error) {
	total, err := r.read(p)
	for err == nil && r.ahead != nil && total < len(p) && r.ahead() >= tlsRecord {
		var n int
		n, err = r.read(p[total:])
		total += n
	}
	if err != nil && total > 0 {
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			r.ended = err
		}
		err = nil
	}
	return total, err
}
