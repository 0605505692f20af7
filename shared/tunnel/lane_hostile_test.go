package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func backFrame(stream uint32, total uint64) []byte {
	return binary.BigEndian.AppendUint64(appendHeader(nil, frameBack, 8, stream), total)
}

func moveFrame(stream uint32) []byte { return appendHeader(nil, frameMove, 0, stream) }

// laneFrame is a frame of the client with payload, as it is on a lane.
func laneFrame(p []byte) []byte {
	key := maskKey{1, 2, 3, 4}
	b := appendWSHeader(nil, opBinary, len(p), &key)
	key.mask(append(b, p...)[len(b):], 0)
	masked := slices.Clone(p)
	key.mask(masked, 0)
	return append(b, masked...)
}

// scriptedLane is the end of a client that may do what it likes, on the session and on a
// lane.
type scriptedLane struct {
	*peer
	s     *Session
	st    *Stream
	grant *LaneGrant
	lane  net.Conn
}

func (l *scriptedLane) write(p ...[]byte) { _, _ = l.lane.Write(slices.Concat(p...)) } // it may be closed by then

// hostile returns a session with one stream, for which there is a lane in a direction.
func hostile(tb testing.TB, up bool) *scriptedLane {
	tb.Helper()
	l := &scriptedLane{grant: NewLaneGrant()}
	l.s, l.peer = script(tb, Config{Lanes: &Lanes{Grant: l.grant, grace: 20 * time.Millisecond, dial: time.Second}})
	l.st = l.openTo(l.s, 1<<20)
	tb.Cleanup(func() { l.st.Close() })
	l.lane = l.greet(tb, up)
	return l
}

// greet opens a lane.
func (l *scriptedLane) greet(tb testing.TB, up bool) net.Conn {
	tb.Helper()
	pending, err := l.s.NewLane(LaneName{Grant: *l.grant, Stream: l.st.id, Up: up})
	if err != nil {
		tb.Fatal(err)
	}
	server, client := net.Pipe()
	tb.Cleanup(func() { client.Close() })
	attached := make(chan struct{})
	go func() {
		pending.Attach(server)
		close(attached)
	}()
	if _, err := client.Write(appendWSControl(nil, opPing, nil, true)); err != nil {
		tb.Error(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 2)); err != nil {
		tb.Error(err)
	}
	<-attached
	return client
}

// What a client may not do about a lane, and what becomes of the session or the stream.
func TestLaneOffences(t *testing.T) {
	closing := appendWSControl(nil, opClose, []byte{3, 232}, true)
	data := laneFrame([]byte("0123456789"))
	for _, c := range []struct {
		name    string
		session []byte // after MOVE
		lane    []byte
		cut     bool
		end     string // of the session, part of the reason; or only the stream breaks
	}{
		{"second move", moveFrame(2), nil, false, "MOVE out of turn"},
		{"data behind the move", dataFrame(2, []byte("x")), nil, false, "DATA behind MOVE"},
		{"back twice", append(backFrame(2, 10), backFrame(2, 10)...), nil, false, "BACK out of turn"},
		{"move behind the end", slices.Concat(backFrame(2, 1), finFrame(2), moveFrame(2)), nil, false, "MOVE out of turn"},
		{"data behind the end", slices.Concat(backFrame(2, 1), finFrame(2), dataFrame(2, []byte("x"))), nil, false, "DATA after FIN"},
		{"short back", append(appendHeader(nil, frameBack, 4, 2), 0, 0, 0, 0), nil, false, "BACK: payload of 4"},
		{"more than announced", append(backFrame(2, 9), finFrame(2)...), slices.Concat(data, closing), false, ""},
		{"less than announced", append(backFrame(2, 11), finFrame(2)...), slices.Concat(data, closing), false, ""},
		{"cut", append(backFrame(2, 11), finFrame(2)...), data, true, ""},
		{"cut within a frame", append(backFrame(2, 10), finFrame(2)...), data[:len(data)-1], true, ""},
		{"cut with nothing announced", nil, data, true, ""},
		{"end with nothing but fin", finFrame(2), slices.Concat(data, closing), true, "FIN after MOVE, without BACK"},
		{"text", append(backFrame(2, 2), finFrame(2)...), append([]byte{0x81, 0x82, 1, 2, 3, 4}, "xy"...), false, ""},
		{"not masked", append(backFrame(2, 2), finFrame(2)...), append([]byte{0x82, 0x02}, "xy"...), false, ""},
		{"reserved bits", append(backFrame(2, 2), finFrame(2)...), append([]byte{0xc2, 0x82, 1, 2, 3, 4}, "xy"...), false, ""},
		{"long ping", append(backFrame(2, 2), finFrame(2)...), []byte{0x89, 0xfe, 1, 0, 1, 2, 3, 4}, false, ""},
		{"endless frame", append(backFrame(2, 2), finFrame(2)...), []byte{0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, false, ""},
		{"http", append(backFrame(2, 2), finFrame(2)...), []byte("HTTP/1.1 502 Bad Gateway\r\n\r\n"), false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := hostile(t, true)
			read := make(chan error, 1)
			go func() {
				_, err := io.Copy(io.Discard, l.st)
				read <- err
			}()
			l.send(moveFrame(2))
			go func() {
				if l.write(c.lane); c.cut {
					l.lane.Close()
				}
			}()
			_, _ = l.conn.Write(c.session)
			if c.end != "" {
				if ended := wantEnd(t, l.s, CodeProtocol); !strings.Contains(ended.Reason, c.end) {
					t.Errorf("reason is %q, want %q", ended.Reason, c.end)
				}
				if err := <-read; err == nil {
					t.Error("a clean end")
				}
				return
			}
			err := <-read
			var reset *ResetError
			if !errors.As(err, &reset) || reset.Code != CodeBroken {
				t.Errorf("the reader got %v", err)
			}
			if f := l.want(frameReset); f.stream != 2 || binary.BigEndian.Uint32(f.payload) != uint32(CodeBroken) {
				t.Errorf("the peer got %+v", f)
			}
			if err := l.s.Err(); err != nil {
				t.Errorf("the session ended: %v", err)
			}
			l.lane.Close()
		})
	}
}

// Frames about lanes that are not there.
func TestLaneNone(t *testing.T) {
	for _, lanes := range []*Lanes{nil, {Grant: NewLaneGrant()}} {
		s, p := script(t, Config{Lanes: lanes})
		st := p.openTo(s, 10)
		p.send(appendHeader(nil, frameLane, 0, 2)) // only a server says that
		p.send(moveFrame(2))
		if f := p.want(frameReset); f.stream != 2 || binary.BigEndian.Uint32(f.payload) != uint32(CodeBroken) {
			t.Errorf("the peer got %+v", f)
		}
		p.send(moveFrame(2), backFrame(2, 1), moveFrame(44)) // of streams that are over
		if st.Err() == nil || s.Err() != nil {
			t.Errorf("stream %v, session %v", st.Err(), s.Err())
		}
		st = p.openTo(s, 10)
		_, _ = p.conn.Write(backFrame(st.id, 0))
		wantEnd(t, s, CodeProtocol)
	}
}

// Who may open a lane, and for what.
func TestLaneNames(t *testing.T) {
	l := hostile(t, true)
	other := NewLaneGrant()
	for _, c := range []struct {
		name string
		lane LaneName
		want error
	}{
		{"another session", LaneName{Grant: *other, Stream: 2}, ErrLaneUnknown},
		{"another key", LaneName{Grant: LaneGrant{ID: l.grant.ID, Key: other.Key}, Stream: 2}, ErrLaneUnknown},
		{"no key", LaneName{Grant: LaneGrant{ID: l.grant.ID}, Stream: 2}, ErrLaneUnknown},
		{"no such stream", LaneName{Grant: *l.grant, Stream: 4}, ErrLaneGone},
		{"a second one", LaneName{Grant: *l.grant, Stream: 2, Up: true}, ErrLaneGone},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := l.s.NewLane(c.lane); err != c.want {
				t.Errorf("error is %v, want %v", err, c.want)
			}
		})
	}
	client, _ := script(t, Config{Client: true, Lanes: &Lanes{Grant: l.grant}})
	if _, err := client.NewLane(LaneName{Grant: *l.grant, Stream: 2}); err != ErrLaneUnknown {
		t.Errorf("a client took a lane: %v", err)
	}
	_ = l.s.Close()
	if _, err := l.s.NewLane(LaneName{Grant: *l.grant, Stream: 2}); err != ErrLaneGone {
		t.Errorf("a session that is over took a lane: %v", err)
	}
}

// Bytes where only signs of life belong.
func TestLaneWrongWay(t *testing.T) {
	l := hostile(t, false)
	l.write(appendWSControl(nil, opPong, nil, true))
	wrote := make(chan error, 1)
	go func() {
		for {
			if _, err := l.st.Write(make([]byte, 1000)); err != nil {
				wrote <- err
				return
			}
		}
	}()
	l.want(frameMove)
	go func() { _, _ = io.Copy(io.Discard, l.lane) }()
	l.write(laneFrame([]byte("x")))
	if f := l.want(frameReset); binary.BigEndian.Uint32(f.payload) != uint32(CodeBroken) {
		t.Errorf("the peer got %+v", f)
	}
	if err := <-wrote; err == nil {
		t.Error("the writer learned nothing")
	}
}

// A lane on which nobody speaks ends by itself, before and after the greeting.
func TestLaneHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		grant := NewLaneGrant()
		s, p := script(t, Config{Lanes: &Lanes{Grant: grant}, PingInterval: time.Hour})
		st := p.openTo(s, 1<<20)
		name := LaneName{Grant: *grant, Stream: st.id}
		name.Up = true
		pending, err := s.NewLane(name)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		server, client := net.Pipe()
		defer client.Close()
		pending.Attach(server)
		if took := time.Since(began); took > laneDial+laneGrace || s.cfg.Counters.Lanes.Load() != 0 {
			t.Errorf("a silent lane lived for %v", took)
		}
		name.Up = false
		if pending, err = s.NewLane(name); err != nil {
			t.Fatal(err)
		}
		server, client = net.Pipe()
		defer client.Close()
		go pending.Attach(server)
		_, _ = client.Write(appendWSControl(nil, opPing, nil, true))
		_, _ = io.ReadFull(client, make([]byte, 2))
		if _, err := io.Copy(io.Discard, client); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 2*laneDial+2*laneGrace {
			t.Errorf("lanes lived for %v", took)
		}
		if st.Err() != nil || s.cfg.Counters.LaneErrors.Timeout.Load() != 2 {
			t.Errorf("stream %v, errors %+v", st.Err(), s.cfg.Counters.LaneErrors.Timeout.Load())
		}
		st.Close()
		s.Close()
		p.conn.Close()
		synctest.Wait()
	})
}

// A lane that dies before it is used is noticed by whoever would receive on it, though nobody
// reads it yet, and makes room for another.
func TestLaneDiesUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := hostile(t, true)
		began, over := time.Now(), l.st.laneIn().over
		l.lane.Close()
		<-over
		if took := time.Since(began); took > laneBeat {
			t.Errorf("noticed after %v", took)
		}
		if n := l.s.cfg.Counters.Lanes.Load(); n != 0 || l.st.Err() != nil {
			t.Errorf("%d lanes are left, stream: %v", n, l.st.Err())
		}
		l.greet(t, true)
	})
}

// A stream that ends between our decision to end it, too, and BACK is not over before its
// lane is.
func TestLaneEndsBeforeBack(t *testing.T) {
	l := hostile(t, false)
	l.write(appendWSControl(nil, opPong, nil, true))
	received := make(chan int, 1)
	go func() {
		n, buf := 0, make([]byte, 1000)
		r := laneReader{conn: l.lane}
		for {
			m, err := r.read(buf)
			if n += m; err != nil {
				if err != errLaneEnd {
					t.Errorf("the lane ended with %v", err)
				}
				received <- n
				return
			}
		}
	}()
	for l.st.lane() == nil {
		write(t, l.st, []byte("x"))
	}
	on := l.st.lane()
	write(t, l.st, []byte("on the lane"))
	l.s.GoAway(GoAway{})

	l.st.wmu.Lock() // CloseWrite, with the peer's FIN in the middle
	l.st.mu.Lock()
	l.st.finSent = true
	l.st.mu.Unlock()
	l.send(finFrame(2), append(appendHeader(nil, framePing, 8, 0), "answered"...))
	for string(l.want(framePong).payload) != "answered" {
	}
	select {
	case <-l.s.Drained():
		t.Error("drained with the lane in use")
	default:
	}
	if !l.st.back(on, true) {
		t.Error("no way back")
	}
	l.st.wmu.Unlock()
	if n := <-received; uint64(n) != on.sent {
		t.Errorf("%d bytes came by lane, want %d", n, on.sent)
	}
	select {
	case <-l.s.Drained():
		t.Error("drained with the lane open")
	default:
	}
	l.write(appendWSControl(nil, opClose, []byte{3, 232}, true))
	<-l.s.Drained()
	if n := l.s.Streams(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

// Bytes that come by lane and move keep a half-closed relay alive, too, however slowly.
func TestLaneLingerSeesBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := hostile(t, true)
		a, b := duplexPair()
		defer b.Close()
		ended := make(chan error, 1)
		go func() { ended <- Relay(l.st, a, 20*time.Millisecond) }()
		_ = b.(halfConn).CloseWrite()
		want := pattern(100_000, 1)
		l.send(moveFrame(2), backFrame(2, uint64(len(want))), finFrame(2))
		go l.write(laneFrame(want), appendWSControl(nil, opClose, []byte{3, 232}, true))
		go func() { _, _ = io.Copy(io.Discard, l.lane) }()
		readSlowly(t, b, want, 1000, time.Millisecond)
		if err := <-ended; err != nil {
			t.Errorf("relay: %v", err)
		}
	})
}

// A deadline of the stream does not keep the close frame from a reader that is slow.
func TestLaneClosesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := hostile(t, false)
		l.write(appendWSControl(nil, opPong, nil, true))
		r := laneReader{conn: l.lane}
		synctest.Wait()
		go func() {
			write(t, l.st, []byte("x"))
			_ = l.st.CloseWrite()
		}()
		if n, err := r.read(make([]byte, 10)); n != 1 || err != nil {
			t.Fatalf("read %d bytes, error %v", n, err)
		}
		synctest.Wait()
		_ = l.st.SetWriteDeadline(past)
		synctest.Wait()
		if err := r.next(false); err != errLaneEnd {
			t.Errorf("the lane ended with %v", err)
		}
	})
}

// A stream for whose bytes the server has no use for a lane asks for one once.
func TestLaneGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, streams := accepted(t)
		dials := 0
		s, p := script(t, Config{Client: true, Handle: handle, Lanes: &Lanes{Grant: NewLaneGrant(), After: 1000,
			Dial: func(context.Context, string) (net.Conn, error) {
				dials++
				return nil, ErrLaneGone
			}}})
		for id := uint32(2); id <= 4; id += 2 { // it concerns no other stream
			p.send(openFrame(id, 1<<20))
			st := <-streams
			defer st.Close()
			for range 3 {
				write(t, st, make([]byte, 2000))
				synctest.Wait()
			}
			if want := int(id / 2); dials != want {
				t.Errorf("%d dials, want %d", dials, want)
			}
		}
		if s.lanesPaused() {
			t.Error("no lane is tried for a while")
		}
	})
}

// A server that asks for lanes without end gets as many as there may be.
func TestLaneDemands(t *testing.T) {
	handle, streams := accepted(t)
	grant := NewLaneGrant()
	dials := make(chan string, 100)
	s, p := script(t, Config{Client: true, Handle: handle, Lanes: &Lanes{Grant: grant, Most: 3,
		Dial: func(ctx context.Context, name string) (net.Conn, error) {
			dials <- name
			<-ctx.Done()
			return nil, ctx.Err()
		}}})
	for id := uint32(2); id < 22; id += 2 {
		p.send(openFrame(id, 10))
		st := <-streams
		defer st.Close()
		p.send(bytes.Repeat(appendHeader(nil, frameLane, 0, id), 5))
	}
	p.send(append(appendHeader(nil, framePing, 8, 0), "answered"...))
	for string(p.want(framePong).payload) != "answered" {
	}
	for i := range 3 {
		if name, want := <-dials, fmt.Sprintf("%s %s ", grant.ID, grant.Key); !strings.HasPrefix(name, want) || !strings.HasSuffix(name, " down") {
			t.Errorf("dial %d is for %q", i, name)
		}
	}
	if n := len(dials); n != 0 {
		t.Errorf("%d dials too many", n)
	}
	_ = s.Close()
}
