//go:build linux

package tunnel

import (
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// restingRelay is a relay that has come to rest.
type restingRelay struct {
	*relay
	far, near halfConn
	ended     chan error
}

func atRest(t *testing.T, linger time.Duration, sockets func(testing.TB) (a, b net.Conn)) *restingRelay {
	t.Helper()
	_, _, far, relaying := join(t, pipePair, Config{}, Config{})
	a, b := sockets(t)
	r := &restingRelay{far: far, near: b.(halfConn), ended: make(chan error, 1)}
	over := make(chan struct{})
	r.relay = newRelay(relaying, a, linger, func(err error) { r.ended <- err; close(over) })
	r.restAfter = time.Millisecond
	go r.start()
	t.Cleanup(func() {
		b.Close()
		far.Close()
		<-over
	})
	write(t, r.near, []byte("hello"))
	wantBytes(t, far, []byte("hello"))
	write(t, far, []byte("hello"))
	wantBytes(t, b, []byte("hello"))
	r.wantRest(t)
	return r
}

// wantRest waits until the relay has no goroutine.
func (r *restingRelay) wantRest(t *testing.T) {
	t.Helper()
	limit := time.Now().Add(20 * time.Second)
	for !r.isResting() || strings.Contains(stacks(), "tunnel.(*relay)") {
		if time.Now().After(limit) {
			t.Fatalf("no rest:\n%s", stacks())
		}
		runtime.Gosched()
	}
}

func (r *restingRelay) isResting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rest.resting
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

func TestRest(t *testing.T) {
	for _, kind := range socketKinds[:2] { // TCP and unix
		for _, tt := range []struct {
			name   string
			linger time.Duration
			do     func(t *testing.T, r *restingRelay)
			want   string // the end of the relay
		}{
			{"bytes from the socket", 0, func(t *testing.T, r *restingRelay) {
				for range 3 {
					write(t, r.near, []byte("again"))
					wantBytes(t, r.far, []byte("again"))
					r.wantRest(t)
				}
				r.far.(*Stream).Reset(CodeBroken, "gone")
			}, "stream reset by the peer: broken: gone"},
			{"bytes from the stream", 0, func(t *testing.T, r *restingRelay) {
				write(t, r.far, []byte("again"))
				wantBytes(t, r.near, []byte("again"))
				if !r.isResting() {
					t.Error("the reader was woken for nothing")
				}
				r.far.(*Stream).Reset(CodeBroken, "gone")
			}, "stream reset by the peer: broken: gone"},
			{"the socket ends first", 0, func(t *testing.T, r *restingRelay) {
				_ = r.near.CloseWrite()
				wantAll(t, r.far, nil)
				write(t, r.far, []byte("late"))
				_ = r.far.CloseWrite()
				wantAll(t, r.near, []byte("late"))
			}, ""},
			{"the stream ends first", 0, func(t *testing.T, r *restingRelay) {
				_ = r.far.CloseWrite()
				wantAll(t, r.near, nil)
				r.wantRest(t)
				write(t, r.near, []byte("late"))
				_ = r.near.CloseWrite()
				wantAll(t, r.far, []byte("late"))
			}, ""},
			{"the socket breaks", 0, func(t *testing.T, r *restingRelay) {
				abort(r.near)
				wantReset(t, r.far, CodeBroken, "the connection behind the stream broke off")
			}, "read: connection reset by peer"},
			{"the session ends", 0, func(_ *testing.T, r *restingRelay) { _ = r.st.sess.carrier.Close("") }, "session ended: connection lost"},
			{"the session is closed", 0, func(_ *testing.T, r *restingRelay) { go r.st.sess.Close() }, "session closed"},
			{"reset by a third party whose socket is closed", 0, func(_ *testing.T, r *restingRelay) {
				_ = r.conn.Close()
				r.st.Reset(CodeBroken, "enough")
			}, "stream reset here: broken: enough"},
			{"complete, and reset", 0, func(t *testing.T, r *restingRelay) {
				write(t, r.far, []byte("late"))
				_ = r.far.CloseWrite()
				r.far.Close()
				wantAll(t, r.near, []byte("late"))
			}, "stream reset by the peer: cancelled: closed"},
			{"silence behind one end", time.Millisecond, func(_ *testing.T, r *restingRelay) { _ = r.far.CloseWrite() }, errHalfClosed.Error()},
		} {
			if kind.name == "unix" && tt.name == "the socket breaks" {
				continue // it has nothing but an end
			}
			t.Run(kind.name+"/"+tt.name, func(t *testing.T) {
				r := atRest(t, tt.linger, kind.pair)
				tt.do(t, r)
				select {
				case err := <-r.ended:
					if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
						t.Errorf("relay: %v, want %q", err, tt.want)
					}
				case <-time.After(20 * time.Second):
					t.Fatal("the relay did not end")
				}
			})
		}
	}
}

// A handler that holds its stream counts as being at work until it lets go.
func TestHold(t *testing.T) {
	releases := make(chan func(), 1)
	srv, cli := sessions(t, pipePair, Config{}, Config{Handle: func(st *Stream) {
		_ = st.Accept()
		releases <- st.Hold()
	}})
	st := open(t, srv)
	release := <-releases
	st.Reset(CodeCancelled, "")
	for cli.lookup(st.id) != nil {
		runtime.Gosched()
	}
	if n := cli.Streams(); n != 1 {
		t.Errorf("%d streams while held", n)
	}
	closed := make(chan struct{})
	go func() { _ = cli.Close(); close(closed) }()
	<-cli.Done()
	select {
	case <-closed:
		t.Error("the session did not wait for what is held")
	default:
	}
	release()
	<-closed
	if n := cli.Streams(); n != 0 {
		t.Errorf("%d streams after that", n)
	}
}

// Whoever opens a connection leaves its keep-alive to the relay.
func TestRestIsProbed(t *testing.T) {
	r := atRest(t, 0, func(tb testing.TB) (net.Conn, net.Conn) {
		a, b := tcpPair(tb)
		if err := a.SetKeepAlive(false); err != nil {
			tb.Fatal(err)
		}
		return a, b
	})
	raw, err := r.conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct{ level, option, want int }{
		{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 15},
	} {
		var got int
		if cerr := raw.Control(func(fd uintptr) { got, err = syscall.GetsockoptInt(int(fd), o.level, o.option) }); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
		if got != o.want {
			t.Errorf("option %d is %d, want %d", o.option, got, o.want)
		}
	}
}
