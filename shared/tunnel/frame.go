package tunnel

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

const (
	// headerSize is the size of a frame's header in bytes.
	headerSize = 8

	// MaxPayload is the largest payload of a frame in bytes: with its header a
	// frame is at most 64 KiB.
	MaxPayload = 1<<16 - headerSize

	// maxReason bounds the text of a RESET or GOAWAY, and maxControl the payload of
	// any frame but DATA, in bytes.
	maxReason  = 512
	maxControl = 1 << 10
)

// frameType says what a frame is; the package documentation lists who sends
// which, when, and what its payload holds.
type frameType uint8

const (
	frameOpen   frameType = 1
	frameAccept frameType = 2
	frameData   frameType = 3
	frameFin    frameType = 4
	frameReset  frameType = 5
	frameCredit frameType = 6
	framePing   frameType = 7
	framePong   frameType = 8
	frameGoAway frameType = 9
	frameHealth frameType = 10
	frameLane   frameType = 11
	frameMove   frameType = 12
	frameBack   frameType = 13
)

var frameNames = [...]string{
	frameOpen: "OPEN", frameAccept: "ACCEPT", frameData: "DATA", frameFin: "FIN", frameReset: "RESET",
	frameCredit: "CREDIT", framePing: "PING", framePong: "PONG", frameGoAway: "GOAWAY",
	frameHealth: "HEALTH",
	frameLane:   "LANE", frameMove: "MOVE", frameBack: "BACK",
}

func (t frameType) String() string {
	if int(t) < len(frameNames) && frameNames[t] != "" {
		return frameNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// header is the decoded header of a frame.
type header struct {
	typ    frameType
	length int
	stream uint32
}

// appendHeader appends the header of a frame to b.
func appendHeader(b []byte, t frameType, length int, stream uint32) []byte {
	return append(b, byte(t), 0, byte(length>>8), byte(length),
		byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
}

// parseHeader decodes and checks a header: everything that can be known to be
// wrong before the payload is read. Unknown types pass, they are to be skipped.
func parseHeader(b *[headerSize]byte) (header, error) {
	h := header{
		typ:    frameType(b[0]),
		length: int(binary.BigEndian.Uint16(b[2:4])),
		stream: binary.BigEndian.Uint32(b[4:8]),
	}
	if b[1] != 0 {
		return h, protocolErrorf("%s: the second byte of the header is %#x, not zero", h.typ, b[1])
	}
	if h.length > MaxPayload {
		return h, protocolErrorf("%s: payload of %d bytes is over the limit of %d", h.typ, h.length, MaxPayload)
	}
	least, most, session := 0, MaxPayload, false
	switch h.typ {
	case frameOpen:
		least, most = 6, maxControl
	case frameAccept, frameCredit:
		least, most = 4, 4
	case frameFin, frameLane, frameMove:
		most = 0
	case frameBack:
		least, most = 8, 8
	case frameReset:
		least, most = 4, 4+maxReason
	case framePing, framePong:
		least, most, session = 8, 8, true
	case frameGoAway:
		least, most, session = 12, 12+maxReason, true
	case frameHealth:
		most, session = maxControl, true
	case frameData:
	default:
		return h, nil
	}
	if h.length < least || h.length > most {
		return h, protocolErrorf("%s: payload of %d bytes, want %d to %d", h.typ, h.length, least, most)
	}
	if session != (h.stream == 0) {
		return h, protocolErrorf("%s on stream %d", h.typ, h.stream)
	}
	return h, nil
}

// Attributes of OPEN.
const (
	attributeVisitor = 1
	attributeLocal   = 2
	attributeForward = 3
)

// Target says what a new stream is to be connected to and for whom.
type Target struct {
	// Upstream is the index of the upstream in the acceptor's Hello.
	Upstream int
	// Visitor is the address "ip:port" of who connected to the data plane, and
	// Local the address that they reached. Both may be empty.
	Visitor, Local string
	// Forward is the address "host:port" that a client wants to reach beside the server, with
	// 0 for Upstream; empty in the other direction, where it would count for nothing.
	Forward string
}

// check refuses what does not fit into an OPEN frame.
func (t Target) check() error {
	if t.Upstream < 0 || t.Upstream > 1<<16-1 {
		return fmt.Errorf("upstream %d: the index must be 0 to %d", t.Upstream, 1<<16-1)
	}
	if n := t.length(); n > maxControl {
		return fmt.Errorf("addresses: %d bytes, at most %d fit", n, maxControl)
	}
	return nil
}

// length is the size of the payload of OPEN in bytes.
func (t Target) length() int {
	length := 6
	for _, v := range [...]string{t.Visitor, t.Local, t.Forward} {
		if v != "" {
			length += 3 + len(v)
		}
	}
	return length
}

func appendOpen(b []byte, stream uint32, window int, t Target) []byte {
	b = appendHeader(b, frameOpen, t.length(), stream)
	b = binary.BigEndian.AppendUint16(b, uint16(t.Upstream))
	b = binary.BigEndian.AppendUint32(b, uint32(window))
	b = appendAttribute(b, attributeVisitor, t.Visitor)
	b = appendAttribute(b, attributeLocal, t.Local)
	return appendAttribute(b, attributeForward, t.Forward)
}

func appendAttribute(b []byte, typ byte, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, typ)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

func parseOpen(p []byte) (window uint32, t Target, err error) {
	t.Upstream = int(binary.BigEndian.Uint16(p))
	window = binary.BigEndian.Uint32(p[2:])
	for p = p[6:]; len(p) > 0; {
		if len(p) < 3 {
			return 0, t, protocolErrorf("OPEN: attribute cut off")
		}
		typ, n := p[0], int(binary.BigEndian.Uint16(p[1:]))
		if p = p[3:]; len(p) < n {
			return 0, t, protocolErrorf("OPEN: attribute %d cut off", typ)
		}
		switch typ {
		case attributeVisitor:
			t.Visitor = string(p[:n])
		case attributeLocal:
			t.Local = string(p[:n])
		case attributeForward:
			t.Forward = string(p[:n])
		}
		p = p[n:]
	}
	return window, t, nil
}

func appendUint32Frame(b []byte, t frameType, stream uint32, v uint32) []byte {
	b = appendHeader(b, t, 4, stream)
	return binary.BigEndian.AppendUint32(b, v)
}

func appendReset(b []byte, stream uint32, code Code, reason string) []byte {
	reason = clip(reason, maxReason)
	b = appendHeader(b, frameReset, 4+len(reason), stream)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, reason...)
}

func appendGoAway(b []byte, g GoAway) []byte {
	reason := clip(g.Reason, maxReason)
	b = appendHeader(b, frameGoAway, 12+len(reason), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(g.Code))
	b = binary.BigEndian.AppendUint32(b, millis(g.After))
	b = binary.BigEndian.AppendUint32(b, millis(g.Jitter))
	return append(b, reason...)
}

func parseGoAway(p []byte) GoAway {
	at := func(i int) uint32 { return binary.BigEndian.Uint32(p[i:]) }
	return GoAway{
		Code:   codeOf(at(0)),
		After:  time.Duration(at(4)) * time.Millisecond,
		Jitter: time.Duration(at(8)) * time.Millisecond,
		Reason: printable(p[12:]),
	}
}

func millis(d time.Duration) uint32 {
	return uint32(min(max(d.Milliseconds(), 0), 1<<32-1))
}

// clip makes a reason valid UTF-8 of at most most bytes.
func clip(reason string, most int) string {
	reason = strings.ToValidUTF8(reason, "?")
	if len(reason) <= most {
		return reason
	}
	return strings.ToValidUTF8(reason[:most], "") // without half a rune at the end
}

// printable makes text of a peer fit for a log: no control characters, valid UTF-8.
func printable(p []byte) string {
	out := make([]rune, 0, len(p))
	for _, r := range string(p) {
		if r < ' ' || r == 0x7f {
			r = ' '
		}
		out = append(out, r)
	}
	return string(out)
}
