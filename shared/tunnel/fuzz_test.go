package tunnel

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// recording is a carrier that plays bytes to a session, in pieces, and forgets what the
// session says.
type recording struct {
	r      io.Reader
	piece  int
	silent chan struct{} // closed when all was played
	said   sync.Once
	end    chan struct{}
	once   sync.Once
}

func (c *recording) Read(p []byte) (int, error) {
	n, err := c.r.Read(p[:min(len(p), c.piece)])
	if err == io.EOF { // the peer has said all it had to say, but stays
		c.said.Do(func() { close(c.silent) })
		<-c.end
	}
	return n, err
}

func (c *recording) WriteBatch(_, _ []byte, _ time.Duration) error { return nil }
func (c *recording) CloseWrite() error                             { return c.Close("") }
func (c *recording) RemoteAddr() net.Addr                          { return addr{"recording"} }

func (c *recording) Close(string) error {
	c.once.Do(func() { close(c.end) })
	return nil
}

// FuzzReadFrame plays arbitrary bytes to either side of a session that has a stream of
// its own and serves those of the peer: it must neither panic nor hang, and in the end
// hold nothing.
func FuzzReadFrame(f *testing.F) {
	for _, o := range offences {
		f.Add(o.frames, false, uint16(1000))
	}
	ping := append(appendHeader(nil, framePing, 8, 0), "12345678"...)
	goAway := appendGoAway(nil, GoAway{After: time.Second, Reason: "bye"})
	f.Add(slices.Concat(ping, openFrame(1, 100), dataFrame(1, []byte("hello")), finFrame(1), goAway), false, uint16(1))
	f.Add(slices.Concat(appendHeader(nil, frameHealth, 2, 0), []byte{1, 0x80}, openFrame(1, 100)), false, uint16(3))
	f.Add(slices.Concat(acceptFrame(1, 100), dataFrame(1, make([]byte, 5000)), resetFrame(1, CodeBroken, "x"), dataFrame(1, nil)), true, uint16(7))
	f.Add(appendOpen(nil, 3, 1<<20, Target{Upstream: 7, Visitor: "192.0.2.1:1", Local: "[::1]:2"}), false, uint16(5))
	f.Add(appendOpen(nil, 1, 1<<20, Target{Forward: "10.0.0.2:3000"}), false, uint16(9))
	f.Add(slices.Concat(openFrame(2, 0), dataFrame(2, make([]byte, MaxPayload)), openFrame(2, 0)), true, uint16(60000))
	f.Add(bytes.Repeat(append(openFrame(1, 10), resetFrame(1, 1, "")...), 20), false, uint16(30))
	f.Add(slices.Concat(openFrame(2, 100), appendHeader(nil, frameLane, 0, 2), moveFrame(2)), true, uint16(30))
	f.Add(slices.Concat(openFrame(1, 100), moveFrame(1), backFrame(1, 3)), false, uint16(30))

	f.Fuzz(func(t *testing.T, data []byte, client bool, piece uint16) {
		c := &recording{r: bytes.NewReader(data), piece: int(piece) + 1, silent: make(chan struct{}), end: make(chan struct{})}
		const budget = 1 << 20
		lanes := &Lanes{Grant: NewLaneGrant(), After: 1, grace: time.Millisecond, Dial: func(context.Context, string) (net.Conn, error) { return nil, ErrLaneGone }}
		s := New(c, Config{Client: client, MaxStreams: 8, Budget: budget, Lanes: lanes, GoAway: func(GoAway) {}, Health: func(Waiting) {}, Handle: func(st *Stream) {
			switch st.Target().Upstream % 4 {
			case 0:
				echo(st)
			case 1:
				st.Reset(CodeRefused, "no")
			case 2:
				_ = st.Accept()
				_, _ = io.Copy(io.Discard, struct{ io.Reader }{st})
				st.Close()
			}
		}})
		var wg sync.WaitGroup
		wg.Go(func() { // the number of its first stream is one that frames are likely to name
			st, err := s.Open(context.Background(), Target{})
			if err != nil {
				return
			}
			defer st.Close()
			_, _ = st.Write([]byte("hello"))
			_ = st.CloseWrite()
			_, _ = io.Copy(io.Discard, st)
		})
		select {
		case <-c.silent:
		case <-s.Done():
		}
		s.Close()
		wg.Wait()
		if s.Streams() != 0 || s.budgetLeft() != budget {
			t.Errorf("%d streams and %d of the budget left", s.Streams(), s.budgetLeft())
		}
	})
}

// FuzzRoundTrip carries bytes in both directions over a carrier that cuts them in pieces:
// what arrives is what was sent, and ends as it ended.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint32(0), uint32(0), uint16(1), uint16(1), uint64(1))
	f.Add(uint32(1), uint32(100_000), uint16(1), uint16(40_000), uint64(2))
	f.Add(uint32(smallData), uint32(smallData+1), uint16(9), uint16(bulkData), uint64(3))
	f.Add(uint32(700_000), uint32(bulkData+1), uint16(65535), uint16(1000), uint64(4))
	f.Fuzz(func(t *testing.T, up, down uint32, piece, writes uint16, seed uint64) {
		up, down = up%(1<<20), down%(1<<20)
		if piece < 16 { // a few bytes at a time take too long for a megabyte
			up, down = up%(1<<12), down%(1<<12)
		}
		request, answer := pattern(int(up), seed), pattern(int(down), seed+1)
		send := func(st *Stream, p []byte) {
			size := 1 + int(writes)
			for q := p; len(q) > 0; q = q[min(size, len(q)):] {
				write(t, st, q[:min(size, len(q))])
			}
			if err := st.CloseWrite(); err != nil {
				t.Errorf("end: %v", err)
			}
		}
		srv, cli := sessions(t, func(testing.TB) (Carrier, Carrier) {
			a, b := net.Pipe()
			return NewConn(&cutter{a, int(piece) + 1}), NewConn(&cutter{b, int(piece) + 1})
		}, Config{}, Config{Handle: func(st *Stream) {
			defer st.Close()
			_ = st.Accept()
			var wg sync.WaitGroup
			wg.Go(func() { send(st, answer) })
			wantAll(t, st, request)
			wg.Wait()
		}})
		st := open(t, srv)
		var wg sync.WaitGroup
		wg.Go(func() { send(st, request) })
		if seed%2 == 0 {
			wantAll(t, st, answer)
		} else {
			wantAll(t, struct{ io.Reader }{st}, answer)
		}
		wg.Wait()
		if err := st.Err(); err != nil {
			t.Errorf("the stream ended with %v", err)
		}
		cli.GoAway(GoAway{})
		<-cli.Drained()
		<-srv.Drained()
		_ = cli.Close()
		if cli.budgetLeft() != defaultBudget {
			t.Errorf("%d of the budget left", cli.budgetLeft())
		}
	})
}

// cutter is a connection that reads and writes a few bytes at a time.
type cutter struct {
	net.Conn
	piece int
}

func (c *cutter) Read(p []byte) (int, error) { return c.Conn.Read(p[:min(len(p), c.piece)]) }

func (c *cutter) Write(p []byte) (total int, err error) {
	for len(p) > 0 && err == nil {
		var n int
		n, err = c.Conn.Write(p[:min(len(p), c.piece)])
		total, p = total+n, p[n:]
	}
	return total, err
}
