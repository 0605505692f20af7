package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// played is a connection that plays bytes in pieces and takes whatever it is sent.
type played struct {
	net.Conn
	r     io.Reader
	piece int
}

func (c *played) Read(p []byte) (int, error)       { return c.r.Read(p[:min(len(p), c.piece)]) }
func (c *played) Write(p []byte) (int, error)      { return len(p), nil }
func (c *played) Close() error                     { return nil }
func (c *played) SetDeadline(time.Time) error      { return nil }
func (c *played) SetReadDeadline(time.Time) error  { return nil }
func (c *played) SetWriteDeadline(time.Time) error { return nil }

// FuzzLaneReader reads arbitrary bytes as a lane: it must neither panic nor hang, the
// pieces in which they come must not matter, and no more may come out than went in.
func FuzzLaneReader(f *testing.F) {
	f.Add(laneFrame([]byte("hello")), true, uint16(3))
	f.Add(slices.Concat(appendWSHeader(nil, opBinary, 5, nil), []byte("hello"), appendWSControl(nil, opPing, []byte("x"), false), appendWSHeader(nil, opContinuation, 70000, nil)), false, uint16(1))
	f.Add(slices.Concat(laneFrame(make([]byte, 300)), appendWSControl(nil, opClose, []byte{3, 232}, true)), true, uint16(60000))
	f.Add([]byte{0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, true, uint16(2))
	f.Fuzz(func(t *testing.T, data []byte, masked bool, piece uint16) {
		read := func(piece int, exact bool) (got, pings []byte, err error) {
			r := laneReader{conn: &played{r: bytes.NewReader(data), piece: piece}, masked: masked, ping: func(p []byte) { pings = append(pings, p...) }}
			buf := make([]byte, 1000)
			for {
				if exact {
					if err := r.next(true); err != nil {
						return got, pings, err
					}
				}
				n, err := r.read(buf)
				got = append(got, buf[:n]...)
				if err != nil {
					return got, pings, err
				}
			}
		}
		got, pings, err := read(int(piece)+1, false)
		if len(got)+len(pings) > len(data) {
			t.Errorf("%d bytes out of %d", len(got)+len(pings), len(data))
		}
		for _, exact := range []bool{false, true} {
			again, pinged, end := read(1, exact)
			if !bytes.Equal(got, again) || !bytes.Equal(pings, pinged) || err.Error() != end.Error() {
				t.Errorf("in pieces of %d: %q, pings %q, %v; of 1, exact %v: %q, %q, %v", piece+1, got, pings, err, exact, again, pinged, end)
			}
		}
	})
}

// FuzzLaneFrames cuts bytes into frames, with control frames in between, and reads them.
func FuzzLaneFrames(f *testing.F) {
	f.Add([]byte("hello"), uint64(0x0301020304), uint16(1), true)
	f.Add(bytes.Repeat([]byte("0123456789"), 9000), uint64(0x10000000), uint16(999), false)
	f.Fuzz(func(t *testing.T, p []byte, cuts uint64, piece uint16, client bool) {
		want := slices.Clone(p)
		var wire []byte
		for i := uint(0); len(p) > 0; i++ {
			n := min(len(p), int(cuts>>(8*(i%8)))&0xff<<(i%3*4)+1)
			var key *maskKey
			frame := slices.Clone(p[:n])
			if client {
				key = &maskKey{byte(cuts), byte(i), byte(cuts >> 9), 7}
				key.mask(frame, 0)
			}
			wire = append(appendWSHeader(wire, opBinary, n, key), frame...)
			if i%2 == 0 {
				wire = appendWSControl(wire, opPong, []byte("pong"), client)
			}
			p = p[n:]
		}
		wire = appendWSControl(wire, opClose, []byte{3, 232}, client)
		r := laneReader{conn: &played{r: bytes.NewReader(wire), piece: int(piece) + 1}, masked: client}
		var got []byte
		buf := make([]byte, 4096+int(piece))
		var err error
		for err == nil {
			var n int
			n, err = r.read(buf)
			got = append(got, buf[:n]...)
		}
		if err != errLaneEnd || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, error %v, want %d", len(got), err, len(want))
		}
	})
}

// FuzzLaneName reads what may stand in the header of a lane's handshake.
func FuzzLaneName(f *testing.F) {
	grant := NewLaneGrant()
	f.Add(LaneName{Grant: *grant, Stream: 2}.String())
	f.Add(LaneName{Grant: *grant, Stream: 1<<32 - 1, Up: true}.String())
	f.Add(grant.ID + " " + grant.Key + " 02 up")
	f.Add("")
	f.Fuzz(func(t *testing.T, value string) {
		name, err := ParseLaneName(value)
		if err == nil && (name.String() != value || name.Stream == 0 || !name.Grant.valid()) {
			t.Errorf("%q is read as %q", value, name.String())
		}
		if err != nil && len(value) > 8 && bytes.Contains([]byte(err.Error()), []byte(value)) {
			t.Errorf("the error tells the key: %v", err)
		}
	})
}

// FuzzLane plays arbitrary bytes to the receiving end of a lane and arbitrary frames to its
// session: what is read as complete has the length that was announced.
func FuzzLane(f *testing.F) {
	closing := appendWSControl(nil, opClose, []byte{3, 232}, true)
	f.Add(slices.Concat(laneFrame([]byte("0123456789")), closing), slices.Concat(moveFrame(2), backFrame(2, 10), finFrame(2)), uint16(5))
	f.Add(laneFrame([]byte("0123456789")), slices.Concat(moveFrame(2), backFrame(2, 9), finFrame(2)), uint16(50))
	f.Add(slices.Concat(laneFrame([]byte("01234")), closing), slices.Concat(dataFrame(2, []byte("abc")), moveFrame(2), backFrame(2, 5), dataFrame(2, []byte("de")), finFrame(2)), uint16(1))
	f.Add([]byte{}, slices.Concat(moveFrame(2), moveFrame(2)), uint16(1))
	f.Fuzz(func(t *testing.T, lane, frames []byte, piece uint16) {
		c := &recording{r: bytes.NewReader(slices.Concat(acceptFrame(2, 1000), frames)), piece: int(piece) + 1, silent: make(chan struct{}), end: make(chan struct{})}
		grant := NewLaneGrant()
		began := make(chan struct{})
		gate := &lateReader{recording: c, open: began}
		s := New(gate, Config{Lanes: &Lanes{Grant: grant, grace: time.Millisecond, dial: time.Second}})
		defer s.Close()
		s.mu.Lock()
		st := newStream(s, 2, Target{})
		st.ours = true
		s.addLocked(st)
		s.mu.Unlock()
		pending, err := s.NewLane(LaneName{Grant: *grant, Stream: 2, Up: true})
		if err != nil {
			t.Fatal(err)
		}
		pending.Attach(&played{r: bytes.NewReader(slices.Concat(appendWSControl(nil, opPing, nil, true), lane)), piece: int(piece) + 1})
		close(began)
		end := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, struct{ io.Reader }{st})
			end <- err
		}()
		select {
		case <-c.silent:
			st.Reset(CodeCancelled, "enough")
		case <-s.Done():
		}
		if err = <-end; err != nil && errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
	})
}

// lateReader is a recording that plays nothing before it is opened.
type lateReader struct {
	*recording
	open chan struct{}
}

func (c *lateReader) Read(p []byte) (int, error) {
	<-c.open
	return c.recording.Read(p)
}
