package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// What a peer may not send. The session opened stream 2, of which the peer granted ten
// bytes and may send 256 KiB; the peer opened stream 1.
var offences = []struct {
	name   string
	frames []byte
	want   string // part of the reason
}{
	{"text", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "second byte of the header"},
	{"payload over the limit", appendHeader(nil, 200, 1<<16-1, 0), "over the limit"},
	{"data on the session", dataFrame(0, []byte("x")), "DATA on stream 0"},
	{"ping on a stream", appendHeader(nil, framePing, 8, 2), "PING on stream 2"},
	{"short open", appendHeader(nil, frameOpen, 5, 3), "OPEN: payload of 5"},
	{"open with a cut attribute", append(appendHeader(nil, frameOpen, 8, 3), 0, 0, 0, 0, 0, 9, 1, 0), "attribute cut off"},
	{"open with a number of ours", openFrame(4, 10), "a number of ours"},
	{"open of an open stream", openFrame(1, 10), "which is open"},
	{"open with a huge window", openFrame(3, 1<<31), "a window of 2147483648"},
	{"second accept", acceptFrame(2, 10), "ACCEPT of a stream"},
	{"accept of its own stream", acceptFrame(1, 10), "ACCEPT of a stream"},
	{"credit over the limit", appendUint32Frame(nil, frameCredit, 2, 1<<31-10), "CREDIT of more than"},
	{"huge credit", appendUint32Frame(nil, frameCredit, 2, 1<<32-1), "CREDIT of more than"},
	{"data beyond the window", bytes.Repeat(dataFrame(2, make([]byte, 32<<10)), 9), "with 0 of window left"},
	{"data behind its end", append(finFrame(2), dataFrame(2, []byte("x"))...), "DATA after FIN"},
	{"second end", append(finFrame(2), finFrame(2)...), "FIN after FIN"},
}

func offended(tb testing.TB) (*Session, *peer, *Stream) {
	handle, accepted := accepted(tb)
	s, p := script(tb, Config{Handle: handle})
	st := p.openTo(s, 10)
	p.send(openFrame(1, 10))
	other := <-accepted
	tb.Cleanup(func() { other.Close(); st.Close() })
	return s, p, st
}

func TestOffences(t *testing.T) {
	for _, c := range offences {
		t.Run(c.name, func(t *testing.T) {
			s, p, st := offended(t)
			_, _ = p.conn.Write(c.frames) // the session may end in the middle of it
			ended := wantEnd(t, s, CodeProtocol)
			if !strings.Contains(ended.Reason, c.want) {
				t.Errorf("reason is %q, want %q", ended.Reason, c.want)
			}
			if err := st.Err(); !errors.Is(err, s.Err()) {
				t.Errorf("the stream ended with %v", err)
			}
			_ = s.Close()
			if left := s.budgetLeft(); left > defaultBudget {
				t.Errorf("the budget grew to %d", left)
			}
		})
	}
}

// Nor may it accept for us the stream that it opened.
func TestAcceptForUs(t *testing.T) {
	release := make(chan struct{})
	s, p := script(t, Config{Handle: func(st *Stream) {
		<-release
		st.Reset(CodeRefused, "")
	}})
	p.send(openFrame(1, 10))
	_, _ = p.conn.Write(acceptFrame(1, 10))
	wantEnd(t, s, CodeProtocol)
	close(release)
}

// Over a websocket the offender is told why.
func TestOffenceIsTold(t *testing.T) {
	for _, c := range []struct {
		name    string
		kind    int
		message []byte
		want    string
	}{
		{"bad frame", websocket.BinaryMessage, dataFrame(0, []byte("x")), "protocol error: DATA on stream 0"},
		{"text message", websocket.TextMessage, []byte("hello"), "protocol error: a websocket message that is not binary"},
		{"frame cut by messages", websocket.BinaryMessage, appendHeader(nil, frameFin, 7, 9), "protocol error: FIN: payload of 7 bytes, want 0 to 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := wsPair(t, false, true)
			s := New(a, Config{})
			defer s.Close()
			conn := b.(*wsCarrier).conn
			defer conn.Close()
			if err := conn.WriteMessage(c.kind, c.message); err != nil {
				t.Fatal(err)
			}
			var err error
			for err == nil {
				_, _, err = conn.ReadMessage()
			}
			var closed *websocket.CloseError
			if !errors.As(err, &closed) || closed.Code != websocket.CloseProtocolError || closed.Text != c.want {
				t.Errorf("the peer saw %v, want 1002 %q", err, c.want)
			}
			wantEnd(t, s, CodeProtocol)
		})
	}
}

// lastReason is a carrier that keeps the first reason that it is closed with.
type lastReason struct {
	Carrier
	reasons chan string
}

func (c *lastReason) Close(reason string) error {
	c.reasons <- reason
	return c.Carrier.Close(reason)
}

// slowSink takes its time to hear of the end: meanwhile everybody else goes on.
type slowSink struct{ relay }

func (*slowSink) ended(error) { synctest.Wait() }

// The reason comes before any other close.
func TestReasonComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := linkPair(0)(t)
		c := &lastReason{a, make(chan string, 10)}
		s := New(c, Config{})
		st := newStream(s, 2, Target{})
		s.mu.Lock()
		s.addLocked(st)
		s.mu.Unlock()
		st.setSink(new(slowSink))
		_ = b.WriteBatch(appendHeader(nil, framePing, 8, 9), nil, 0)
		wantEnd(t, s, CodeProtocol)
		if reason := <-c.reasons; reason != "protocol error: PING on stream 9" {
			t.Errorf("closed first with %q", reason)
		}
		_ = s.Close()
	})
}

// The text of a close frame holds 123 bytes of UTF-8.
func TestLongOffence(t *testing.T) {
	a, b := wsPair(t, false, false)
	_ = a.Close(strings.Repeat("é", 100))
	conn := b.(*wsCarrier).conn
	defer conn.Close()
	_, _, err := conn.ReadMessage()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Text != strings.Repeat("é", 61) {
		t.Errorf("the peer saw %v", err)
	}
}

// What must be ignored.
func TestIgnored(t *testing.T) {
	for _, c := range []struct {
		name   string
		frames func(id uint32) []byte
	}{
		{"unknown type", func(uint32) []byte { return append(appendHeader(nil, 99, 3, 0), "abc"...) }},
		{"unknown type, no payload", func(uint32) []byte { return appendHeader(nil, 255, 0, 4711) }},
		{"unknown type, longest", func(id uint32) []byte {
			return append(appendHeader(nil, 100, MaxPayload, id), make([]byte, MaxPayload)...)
		}},
		{"type zero", func(id uint32) []byte { return append(appendHeader(nil, 0, 1500, id), make([]byte, 1500)...) }},
		{"empty data", func(id uint32) []byte { return dataFrame(id, nil) }},
		{"data of an unknown stream", func(uint32) []byte { return dataFrame(4711, make([]byte, 40_000)) }},
		{"end of an unknown stream", func(uint32) []byte { return finFrame(4711) }},
		{"reset of an unknown stream", func(uint32) []byte { return resetFrame(4711, CodeBroken, "") }},
		{"credit of an unknown stream", func(uint32) []byte { return appendUint32Frame(nil, frameCredit, 4711, 1<<32-1) }},
		{"accept of an unknown stream", func(uint32) []byte { return acceptFrame(4712, 1<<32-1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, p := script(t, Config{})
			st := p.openTo(s, 10)
			defer st.Close()
			p.send(c.frames(st.id), dataFrame(st.id, []byte("hello")), finFrame(st.id))
			wantAll(t, st, []byte("hello"))
			if err := s.Err(); err != nil {
				t.Errorf("the session ended: %v", err)
			}
		})
	}
}

// Frames that arrive after we have reset their stream are ignored, but for the window
// they had.
func TestLateFrames(t *testing.T) {
	s, p := script(t, Config{})
	st := p.openTo(s, 10)
	st.Reset(CodeCancelled, "")
	p.want(frameReset)
	p.send(dataFrame(st.id, make([]byte, 1000)), appendUint32Frame(nil, frameCredit, st.id, 5), finFrame(st.id), resetFrame(st.id, CodeBroken, ""))
	p.send(appendHeader(nil, framePing, 8, 0), make([]byte, 8))
	p.want(framePong)
	if left := s.budgetLeft(); left != defaultBudget {
		t.Errorf("%d of the budget left", left)
	}
}

// A peer that asks without reading is cut off, long before the write times out, and
// what piles up until then is bounded.
func TestFloods(t *testing.T) {
	ping := append(appendHeader(nil, framePing, 8, 0), make([]byte, 8)...)
	numbered := func(frame func(id uint32) []byte) func() []byte {
		id := uint32(1)
		return func() []byte { id += 2; return frame(id) }
	}
	for _, c := range []struct {
		name string
		cfg  Config
		next func() []byte
	}{
		{"ping", Config{}, func() []byte { return ping }},
		{"open, refused", Config{}, numbered(func(id uint32) []byte { return openFrame(id, 10) })},
		{"open, too many", Config{MaxStreams: 10, Handle: echo}, numbered(func(id uint32) []byte { return openFrame(id, 10) })},
		{"open and end", Config{Handle: echo}, numbered(func(id uint32) []byte { return append(openFrame(id, 10), finFrame(id)...) })},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := deaf(t, c.cfg)
				start := time.Now()
				for sent := 0; ; {
					var frames []byte
					for len(frames) < 1<<16 {
						frames = append(frames, c.next()...)
					}
					if _, err := p.conn.Write(frames); err != nil {
						break
					}
					if sent += len(frames); sent > 64<<20 {
						t.Fatal("it goes on for ever")
					}
				}
				wantEnd(t, s, CodeOverload)
				if took := time.Since(start); took > time.Second {
					t.Errorf("it took %v", took)
				}
				s.w.mu.Lock()
				if n := cap(s.w.small.b); n > 4*controlLimit {
					t.Errorf("%d bytes are pending", n)
				}
				s.w.mu.Unlock()
			})
		})
	}
}

// However a peer cuts its bytes, what is held for a stream is in proportion to its
// window.
func TestBufferedMemory(t *testing.T) {
	for _, size := range []int{1, 100, 2<<10 + 1, 8<<10 + 1, 32<<10 + 1, MaxPayload} {
		s, p := script(t, Config{})
		st := p.openTo(s, 0)
		total := 0
		for n := 0; n+size <= firstWindow && n < 4000*size; n += size {
			p.send(dataFrame(st.id, make([]byte, size)))
			total += size
		}
		p.send(appendHeader(nil, framePing, 8, 0), make([]byte, 8))
		p.want(framePong)
		held := 0
		st.mu.Lock()
		for c := st.head; c != nil; c = c.next {
			held += len(c.buf)
		}
		st.mu.Unlock()
		if held > 3*total+chunkClasses[0] {
			t.Errorf("%d bytes in frames of %d hold %d", total, size, held)
		}
		st.Close()
	}
}

// A reset with a hostile reason is fit for a log.
func TestHostileReason(t *testing.T) {
	s, p := script(t, Config{})
	st := p.openTo(s, 0)
	defer st.Close()
	f := appendHeader(nil, frameReset, 4+9, st.id)
	f = binary.BigEndian.AppendUint32(f, uint32(CodeBroken))
	p.send(append(f, "a\n\x00\x1b[1m\xff\x7f"...))
	wantReset(t, st, CodeBroken, "a   [1m\ufffd ")
}
