package edge

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frames is one end of a connection of HTTP/2 whose frames a test scripts.
type frames struct {
	net.Conn
	*http2.Framer
	tb      testing.TB
	block   bytes.Buffer
	encoder *hpack.Encoder
	ended   atomic.Bool // what the server sends was read to its end, see flood
}

func newFrames(tb testing.TB, conn net.Conn) *frames {
	_ = conn.SetDeadline(soon())
	f := &frames{Conn: conn, Framer: http2.NewFramer(conn, conn), tb: tb}
	f.start()
	tb.Cleanup(func() { _ = conn.Close() })
	return f
}

func (f *frames) start() {
	f.encoder = hpack.NewEncoder(&f.block)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.AllowIllegalWrites = true
}

// dialFrames connects a visitor who speaks HTTP/2, and has sent the preface and SETTINGS.
func (s *site) dialFrames(settings ...http2.Setting) *frames {
	s.tb.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.tb.Fatal(err)
	}
	f := newFrames(s.tb, conn)
	f.must(io.WriteString(conn, preface))
	if err := f.WriteSettings(settings...); err != nil {
		s.tb.Fatal(err)
	}
	return f
}

func (f *frames) must(_ any, err error) {
	f.tb.Helper()
	if err != nil {
		f.tb.Fatal(err)
	}
}

// encode returns a header block: names and values in turn.
func (f *frames) encode(fields ...string) []byte {
	f.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = f.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return f.block.Bytes()
}

// request sends HEADERS; an error is not the test's failure.
func (f *frames) request(id uint32, end bool, fields ...string) error {
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndStream: end, EndHeaders: true, BlockFragment: f.encode(fields...)})
}

// next returns the next frame that is about streams, or nil at the end of the connection. It
// answers SETTINGS and PING.
func (f *frames) next() http2.Frame {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return nil
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				_ = f.WritePing(true, frame.Data)
			}
		case *http2.WindowUpdateFrame:
		default:
			return frame
		}
	}
}

// status returns the :status of the next HEADERS, or the code of what comes in its place.
func (f *frames) status() string {
	f.tb.Helper()
	switch frame := f.next().(type) {
	case *http2.MetaHeadersFrame:
		return frame.PseudoValue("status")
	case *http2.RSTStreamFrame:
		return frame.ErrCode.String()
	case *http2.GoAwayFrame:
		return "GOAWAY " + frame.ErrCode.String()
	case nil:
		return "closed"
	default:
		return frame.Header().String()
	}
}

// getFields are those of a plain request.
var getFields = []string{":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/"}

// dialALPN connects with TLS and offers these protocols.
func (s *site) dialALPN(protocols ...string) *tls.Conn {
	s.tb.Helper()
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { _ = conn.Close() })
	return conn
}
