package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

type carrierPair = func(testing.TB) (server, client Carrier)

// overEach runs a test over every carrier.
func overEach(t *testing.T, f func(t *testing.T, pair carrierPair)) {
	t.Helper()
	for _, c := range carriers {
		t.Run(c.name, func(t *testing.T) { f(t, c.pair) })
	}
}

// echo accepts a stream and sends back what comes, up to its end.
func echo(st *Stream) {
	defer st.Close()
	if st.Accept() != nil {
		return
	}
	if _, err := io.Copy(st, st); err == nil {
		_ = st.CloseWrite()
	}
}

// accepted is a handler that hands accepted streams to the test, which must Close them.
func accepted(tb testing.TB) (handle func(*Stream), streams <-chan *Stream) {
	c := make(chan *Stream, 64)
	return func(st *Stream) {
		if err := st.Accept(); err != nil {
			tb.Errorf("accept: %v", err)
		}
		c <- st
	}, c
}

func open(tb testing.TB, s *Session) *Stream {
	tb.Helper()
	st, err := s.Open(context.Background(), Target{})
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(func() { st.Close() })
	return st
}

// join opens a stream from srv to cli and returns both of its ends.
func join(tb testing.TB, pair carrierPair, server, client Config) (srv, cli *Session, here, there *Stream) {
	tb.Helper()
	handle, streams := accepted(tb)
	client.Handle = handle
	srv, cli = sessions(tb, pair, server, client)
	here = open(tb, srv)
	there = <-streams
	tb.Cleanup(func() { there.Close() })
	return srv, cli, here, there
}

// pattern returns n bytes that depend on the seed.
func pattern(n int, seed uint64) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	p := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(p)
	return p
}

func digest(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:8])
}

func write(tb testing.TB, w io.Writer, p []byte) {
	tb.Helper()
	if n, err := w.Write(p); err != nil || n != len(p) {
		tb.Errorf("wrote %d of %d bytes: %v", n, len(p), err)
	}
}

// wantBytes reads exactly want.
func wantBytes(tb testing.TB, r io.Reader, want []byte) {
	tb.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil {
		tb.Errorf("read %d of %d bytes: %v", n, len(want), err)
		return
	}
	if !bytes.Equal(got, want) {
		tb.Errorf("read %d bytes with digest %s, want %s", len(got), digest(got), digest(want))
	}
}

// wantAll reads to a clean end and wants exactly these bytes.
func wantAll(tb testing.TB, r io.Reader, want []byte) {
	tb.Helper()
	got, err := io.ReadAll(r)
	if err != nil {
		tb.Errorf("read after %d of %d bytes: %v", len(got), len(want), err)
	}
	if !bytes.Equal(got, want) {
		tb.Errorf("read %d bytes with digest %s, want %d with %s", len(got), digest(got), len(want), digest(want))
	}
}

// wantReset reads until the stream breaks, and wants this reason.
func wantReset(tb testing.TB, r io.Reader, code Code, reason string) {
	tb.Helper()
	_, err := io.Copy(io.Discard, r)
	wantResetError(tb, err, code, reason)
}

func wantResetError(tb testing.TB, err error, code Code, reason string) {
	tb.Helper()
	var reset *ResetError
	if !errors.As(err, &reset) {
		tb.Errorf("error is %v, want a reset", err)
		return
	}
	if want := (ResetError{Code: code, Reason: reason, Remote: true}); *reset != want {
		tb.Errorf("reset is %+v, want %+v", *reset, want)
	}
}

// frame is what a scripted peer sends or gets.
type frame struct {
	header
	payload []byte
}

// peer is the other end of a session, scripted by a test: it speaks frames over a
// net.Pipe, and takes and keeps whatever the session sends while it listens.
type peer struct {
	tb     testing.TB
	conn   net.Conn
	frames chan frame
	done   chan struct{} // closed when nothing more comes
	once   sync.Once
}

// script starts a session on a scripted peer that listens.
func script(tb testing.TB, cfg Config) (*Session, *peer) {
	s, p := deaf(tb, cfg)
	p.listen()
	return s, p
}

// deaf starts a session on a scripted peer that does not listen yet.
func deaf(tb testing.TB, cfg Config) (*Session, *peer) {
	a, b := net.Pipe()
	p := &peer{tb: tb, conn: b, frames: make(chan frame, 1<<14), done: make(chan struct{})}
	s := New(NewConn(a), cfg)
	tb.Cleanup(func() {
		b.Close()
		s.Close()
		p.listen()
		<-p.done
	})
	return s, p
}

func (p *peer) listen() {
	p.once.Do(func() {
		go func() {
			defer close(p.done)
			defer close(p.frames)
			for {
				f, err := readFrame(p.conn)
				if err != nil {
					return
				}
				p.frames <- f
			}
		}()
	})
}

func readFrame(r io.Reader) (frame, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	h, err := parseHeader(&head)
	if err != nil {
		return frame{}, err
	}
	f := frame{header: h, payload: make([]byte, h.length)}
	_, err = io.ReadFull(r, f.payload)
	return f, err
}

// send writes frames as they are.
func (p *peer) send(frames ...[]byte) {
	p.tb.Helper()
	if _, err := p.conn.Write(bytes.Join(frames, nil)); err != nil {
		p.tb.Errorf("peer: send: %v", err)
	}
}

// want returns the next frame of the type, skipping others.
func (p *peer) want(typ frameType) frame {
	p.tb.Helper()
	for f := range p.frames {
		if f.typ == typ {
			return f
		}
	}
	p.tb.Fatalf("peer: the session ended without %s", typ)
	return frame{}
}

func dataFrame(stream uint32, p []byte) []byte {
	return append(appendHeader(nil, frameData, len(p), stream), p...)
}

func openFrame(stream, window uint32) []byte { return appendOpen(nil, stream, int(window), Target{}) }

func acceptFrame(stream uint32, window uint32) []byte {
	return appendUint32Frame(nil, frameAccept, stream, window)
}

func finFrame(stream uint32) []byte { return appendHeader(nil, frameFin, 0, stream) }

func resetFrame(stream uint32, code Code, reason string) []byte {
	return appendReset(nil, stream, code, reason)
}

// openTo opens a stream to a scripted peer, which grants it a window.
func (p *peer) openTo(s *Session, window uint32) *Stream {
	p.tb.Helper()
	opened := make(chan *Stream)
	go func() {
		st, err := s.Open(context.Background(), Target{})
		if err != nil {
			p.tb.Errorf("open: %v", err)
		}
		opened <- st
	}()
	p.send(acceptFrame(p.want(frameOpen).stream, window))
	return <-opened
}

// wantEnd waits for the end of a session and wants this code.
func wantEnd(tb testing.TB, s *Session, code Code) *SessionError {
	tb.Helper()
	<-s.Done()
	var ended *SessionError
	if !errors.As(s.Err(), &ended) || ended.Code != code {
		tb.Fatalf("session ended with %v, want code %s", s.Err(), code)
	}
	return ended
}

// past is a deadline that is over.
var past = time.Unix(1, 0)
