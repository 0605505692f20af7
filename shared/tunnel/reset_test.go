package tunnel

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
)

func TestReset(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		for _, c := range []struct {
			name string
			ends func(here, there *Stream) (from, to *Stream)
		}{
			{"by the opener", func(here, there *Stream) (from, to *Stream) { return here, there }},
			{"by the acceptor", func(here, there *Stream) (from, to *Stream) { return there, here }},
		} {
			t.Run(c.name, func(t *testing.T) {
				_, _, here, there := join(t, pair, Config{}, Config{})
				from, to := c.ends(here, there)
				var wg sync.WaitGroup
				for _, st := range []*Stream{from, to} { // both wait in Write, for credit or their turn
					wg.Go(func() {
						for {
							if _, err := st.Write(make([]byte, 50_000)); err != nil {
								wantBroken(t, err, st == to)
								return
							}
						}
					})
				}
				wantBytes(t, to, make([]byte, 1000))
				from.Reset(CodeBroken, "it\nbroke")
				wantReset(t, to, CodeBroken, "it broke")
				_, err := from.Read(make([]byte, 1))
				wantBroken(t, err, false)
				wg.Wait()
				wantBroken(t, from.Err(), false)
				wantBroken(t, to.Err(), true)
				from.Reset(CodeInternal, "again")
				from.Close()
				wantBroken(t, from.CloseWrite(), false)
			})
		}
	})
}

func wantBroken(tb testing.TB, err error, remote bool) {
	tb.Helper()
	var reset *ResetError
	if !errors.As(err, &reset) || reset.Code != CodeBroken || reset.Remote != remote {
		tb.Errorf("error is %#v, want broken, remote %t", err, remote)
	}
}

func TestResetErrorText(t *testing.T) {
	for want, err := range map[string]error{
		"stream reset here: cancelled":                    &ResetError{Code: CodeCancelled},
		"stream reset by the peer: refused: no listener":  &ResetError{Code: CodeRefused, Reason: "no listener", Remote: true},
		"session ended: it was silent":                    &SessionError{Reason: "it was silent"},
		"session ended: connection lost: unexpected EOF":  &SessionError{Reason: "connection lost", Err: io.ErrUnexpectedEOF},
		"session ended: protocol error: DATA on stream 0": protocolErrorf("DATA on stream %d", 0),
	} {
		if got := err.Error(); got != want {
			t.Errorf("error is %q, want %q", got, want)
		}
	}
}

// What a stream gives when it ends in the order that the peer sends.
func TestEndings(t *testing.T) {
	for _, c := range []struct {
		name   string
		frames func(id uint32) [][]byte
		want   string // what can be read
		err    string // then, or "" for a clean end
	}{
		{"clean", func(id uint32) [][]byte {
			return [][]byte{dataFrame(id, []byte("ab")), dataFrame(id, []byte("c")), finFrame(id)}
		}, "abc", ""},
		{"reset", func(id uint32) [][]byte {
			return [][]byte{dataFrame(id, []byte("abc")), resetFrame(id, CodeBroken, "")}
		}, "abc", "stream reset by the peer: broken"},
		{"reset behind the end", func(id uint32) [][]byte {
			return [][]byte{dataFrame(id, []byte("abc")), finFrame(id), resetFrame(id, CodeBroken, "")}
		}, "abc", ""},
		{"reset with an unknown code", func(id uint32) [][]byte {
			return [][]byte{resetFrame(id, 77, "new")}
		}, "", "stream reset by the peer: internal: new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, p := script(t, Config{})
			st := p.openTo(s, 10)
			defer st.Close()
			p.send(c.frames(st.id)...)
			wantReadable(t, st, c.want, c.err)
		})
		t.Run(c.name+", then the session breaks", func(t *testing.T) {
			s, p := script(t, Config{})
			st := p.openTo(s, 10)
			defer st.Close()
			p.send(c.frames(st.id)...)
			p.conn.Close()
			<-s.Done()
			wantReadable(t, st, c.want, c.err)
		})
	}
	t.Run("session breaks", func(t *testing.T) {
		s, p := script(t, Config{})
		st := p.openTo(s, 10)
		defer st.Close()
		p.send(dataFrame(st.id, []byte("abc")))
		p.send(dataFrame(st.id, []byte("rest"))[:headerSize+2]) // in the middle of a frame
		p.conn.Close()
		wantReadable(t, st, "abc", "session ended: connection lost")
	})
}

func wantReadable(tb testing.TB, r io.Reader, want, wantErr string) {
	tb.Helper()
	got, err := io.ReadAll(r)
	if string(got) != want {
		tb.Errorf("read %q, want %q", got, want)
	}
	switch {
	case wantErr == "" && err != nil:
		tb.Errorf("error is %v, want a clean end", err)
	case wantErr != "" && (err == nil || !strings.HasPrefix(err.Error(), wantErr)):
		tb.Errorf("error is %v, want %q", err, wantErr)
	}
}

// What Close tells the peer.
func TestClose(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, p *peer, st *Stream)
		want []string
	}{
		{"at once", func(*testing.T, *peer, *Stream) {}, []string{"FIN", "RESET cancelled closed"}},
		{"behind bytes", func(t *testing.T, p *peer, st *Stream) {
			write(t, st, []byte("hello"))
		}, []string{"DATA hello", "FIN", "RESET cancelled closed"}},
		{"peer has ended", func(t *testing.T, p *peer, st *Stream) {
			p.send(dataFrame(st.id, []byte("x")), finFrame(st.id))
			wantAll(t, st, []byte("x"))
		}, []string{"FIN"}},
		{"our bytes have ended", func(t *testing.T, p *peer, st *Stream) {
			_ = st.CloseWrite()
		}, []string{"FIN", "RESET cancelled closed"}},
		{"both have ended", func(t *testing.T, p *peer, st *Stream) {
			_ = st.CloseWrite()
			p.send(finFrame(st.id))
			wantAll(t, st, nil)
		}, []string{"FIN"}},
		{"unread bytes", func(t *testing.T, p *peer, st *Stream) {
			p.send(dataFrame(st.id, []byte("xy")))
			wantBytes(t, st, []byte("x"))
		}, []string{"RESET cancelled closed"}},
		{"after a reset", func(t *testing.T, p *peer, st *Stream) {
			p.send(resetFrame(st.id, CodeBroken, ""))
			wantReset(t, st, CodeBroken, "")
		}, nil},
		{"a write waits", func(t *testing.T, p *peer, st *Stream) {
			go st.Write(make([]byte, 11))
			for f := range p.frames { // ten bytes of credit
				if f.typ == frameData {
					break
				}
			}
		}, []string{"RESET cancelled closed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, p := script(t, Config{})
			st := p.openTo(s, 10)
			c.do(t, p, st)
			if err := st.Close(); err != nil {
				t.Error(err)
			}
			if _, err := st.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("read after Close: %v", err)
			}
			if _, err := st.Write(make([]byte, 1)); err == nil {
				t.Error("written after Close")
			}
			if err := st.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
			if n := s.Streams(); n != 0 {
				t.Errorf("%d streams left", n)
			}
			for _, want := range c.want {
				if got := p.nextOf(st.id); got != want {
					t.Errorf("the peer got %q, want %q", got, want)
				}
			}
			_ = s.Close()
			for f := range p.frames {
				if f.stream == st.id {
					t.Errorf("the peer got %s too", f.typ)
				}
			}
		})
	}
}

// nextOf returns the next frame of a stream as text, but CREDIT.
func (p *peer) nextOf(id uint32) string {
	for f := range p.frames {
		if f.stream != id || f.typ == frameCredit {
			continue
		}
		switch f.typ {
		case frameData:
			return "DATA " + string(f.payload)
		case frameReset:
			return "RESET " + codeOf(uint32(f.payload[3])).String() + " " + string(f.payload[4:])
		}
		return f.typ.String()
	}
	return "nothing"
}

// Bytes of one stream must never show up in another, though streams that are reset in
// the middle leave their chunks behind, and those in use are recycled.
func TestChunksStayApart(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		srv, _ := sessions(t, pair, Config{}, Config{Handle: func(st *Stream) {
			defer st.Close()
			_ = st.Accept()
			stamp := bytes.Repeat([]byte{byte(st.id)}, 20_000)
			for {
				if _, err := st.Write(stamp[:1+int(st.id)*997%len(stamp)]); err != nil {
					return
				}
			}
		}})
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for i := range 20 {
					st := open(t, srv)
					check := &stamped{t: t, want: byte(st.id), limit: (i*7919 + worker*104729) % 300_000}
					var err error
					if i%2 == 0 {
						_, err = st.WriteTo(check)
					} else {
						_, err = io.Copy(check, struct{ io.Reader }{st})
					}
					if err != errEnough {
						t.Errorf("stream %d: %v", st.id, err)
					}
					if worker%2 == 0 {
						st.Reset(CodeCancelled, "")
					}
					st.Close()
				}
			})
		}
		wg.Wait()
	})
}

var errEnough = errors.New("enough")

// stamped takes a number of bytes that must all be the same.
type stamped struct {
	t     *testing.T
	want  byte
	limit int
}

func (s *stamped) Write(p []byte) (int, error) {
	if n := bytes.Count(p, []byte{s.want}); n != len(p) {
		s.t.Errorf("%d of %d bytes are not of the stream", len(p)-n, len(p))
		return n, errEnough
	}
	if s.limit -= len(p); s.limit < 0 {
		return len(p), errEnough
	}
	return len(p), nil
}
