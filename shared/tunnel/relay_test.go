package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// socketKinds are the connections that a relay joins to a stream. A cut must look like
// one from the other end; a unix socket has no way to say it.
var socketKinds = []struct {
	name string
	pair func(testing.TB) (a, b net.Conn)
	cut  func(error) bool // reports whether an error of Read is a cut
}{
	{"tcp", func(tb testing.TB) (net.Conn, net.Conn) {
		a, b := tcpPair(tb)
		return a, b
	}, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }},
	{"unix", unixPair, func(err error) bool { return err == io.EOF || errors.Is(err, syscall.ECONNRESET) }},
	{"tls", tlsPair, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) || err == io.ErrUnexpectedEOF }},
}

func unixPair(tb testing.TB) (a, b net.Conn) {
	tb.Helper()
	return accept(tb, "unix", filepath.Join(tb.TempDir(), "s"))
}

// accept returns both ends of a connection to a listener at the address.
func accept(tb testing.TB, network, address string) (accepted, dialled net.Conn) {
	tb.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	if dialled, err = net.Dial(network, l.Addr().String()); err != nil {
		tb.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { accepted.Close(); dialled.Close() })
	return accepted, dialled
}

// testCertificate is that of httptest's servers, made once.
var testCertificate = sync.OnceValue(func() tls.Certificate {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	return srv.TLS.Certificates[0]
})

func tlsPair(tb testing.TB) (a, b net.Conn) {
	tb.Helper()
	accepted, dialled := tcpPair(tb)
	server := tls.Server(accepted, &tls.Config{Certificates: []tls.Certificate{testCertificate()}})
	client := tls.Client(dialled, &tls.Config{InsecureSkipVerify: true}) // the test's own other end
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.HandshakeContext(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	if err := client.HandshakeContext(context.Background()); err != nil {
		tb.Error(err)
	}
	wg.Wait()
	return server, client
}

type halfConn interface {
	net.Conn
	CloseWrite() error
}

// relayed joins a session's stream by a relay to a socket, and returns the free ends:
// far is the stream's, near the socket's. The error of Relay comes on ended.
func relayed(t *testing.T, pair carrierPair, sockets func(testing.TB) (a, b net.Conn)) (far, relaying *Stream, near halfConn, ended <-chan error) {
	_, _, far, relaying = join(t, pair, Config{}, Config{})
	a, b := sockets(t)
	done := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { done <- Relay(relaying, a, 0) })
	t.Cleanup(func() {
		b.Close()
		far.Close()
		wg.Wait()
	})
	return far, relaying, b.(halfConn), done
}

func overSockets(t *testing.T, f func(t *testing.T, pair carrierPair, sockets func(testing.TB) (a, b net.Conn), cut func(error) bool)) {
	for _, c := range carriers {
		if c.name == "ws" { // as wss, and to the relay as tcp
			continue
		}
		for _, k := range socketKinds {
			t.Run(c.name+" "+k.name, func(t *testing.T) { f(t, c.pair, k.pair, k.cut) })
		}
	}
}

func TestRelay(t *testing.T) {
	overSockets(t, func(t *testing.T, pair carrierPair, sockets func(testing.TB) (a, b net.Conn), _ func(error) bool) {
		for _, first := range []string{"stream", "socket", "both at once"} {
			t.Run("first ends the "+first, func(t *testing.T) {
				far, _, near, ended := relayed(t, pair, sockets)
				in, out := pattern(300_000, 1), pattern(300_000, 2)
				var wg sync.WaitGroup
				send := func(w halfConn, p []byte) {
					writeInPieces(t, w, p, 1)
					if err := w.CloseWrite(); err != nil {
						t.Error(err)
					}
				}
				switch first {
				case "stream":
					wg.Go(func() { send(far, in) })
					wantAll(t, near, in)
					wg.Go(func() { send(near, out) })
					wantAll(t, far, out)
				case "socket":
					wg.Go(func() { send(near, out) })
					wantAll(t, far, out)
					wg.Go(func() { send(far, in) })
					wantAll(t, near, in)
				default:
					wg.Go(func() { send(near, out) })
					wg.Go(func() { send(far, in) })
					wg.Go(func() { wantAll(t, near, in) })
					wantAll(t, far, out)
				}
				wg.Wait()
				if err := <-ended; err != nil {
					t.Errorf("relay: %v", err)
				}
			})
		}
	})
}

// A socket that is slow to read gets everything, whether it was written at once, queued,
// or in turns of both, and holds up nobody else.
func TestRelayToSlowSocket(t *testing.T) {
	overSockets(t, func(t *testing.T, pair carrierPair, sockets func(testing.TB) (a, b net.Conn), _ func(error) bool) {
		far, relaying, near, ended := relayed(t, pair, sockets)
		want := pattern(2<<20, 3)
		var wg sync.WaitGroup
		wg.Go(func() {
			writeInPieces(t, far, want, 3)
			_ = far.CloseWrite()
		})
		// Another stream of the session works meanwhile.
		other := open(t, far.sess)
		wg.Go(func() {
			write(t, other, want[:100_000])
			_ = other.CloseWrite()
		})
		var got []byte
		buf := make([]byte, 100_000)
		for i := 0; ; i++ {
			n, err := near.Read(buf[:1+i*7919%len(buf)])
			got = append(got, buf[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Error(err)
				break
			}
			if n := relaying.unread(); n > maxWindow {
				t.Errorf("%d bytes are queued", n)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got %d bytes with digest %s, want %s", len(got), digest(got), digest(want))
		}
		_ = near.CloseWrite()
		if err := <-ended; err != nil {
			t.Errorf("relay: %v", err)
		}
		other.Reset(CodeCancelled, "")
		wg.Wait()
	})
}

// wantCut reads up to a cut, which must not look like an end.
func wantCut(tb testing.TB, r io.Reader, cut func(error) bool) {
	tb.Helper()
	buf := make([]byte, 32<<10)
	for {
		if _, err := r.Read(buf); err != nil {
			if !cut(err) {
				tb.Errorf("the socket saw %v", err)
			}
			return
		}
	}
}

// Whatever breaks the stream, the socket is cut off.
func TestRelayStreamBreaks(t *testing.T) {
	overSockets(t, func(t *testing.T, pair carrierPair, sockets func(testing.TB) (a, b net.Conn), cut func(error) bool) {
		for _, c := range []struct {
			name   string
			before func(far *Stream, near halfConn)
			by     func(far, relaying *Stream)
			want   string
		}{
			{"reset", nil, func(far, _ *Stream) { far.Reset(CodeBroken, "gone") }, "stream reset by the peer: broken: gone"},
			{"reset while queued", flood, func(far, _ *Stream) { far.Reset(CodeBroken, "gone") }, "stream reset by the peer: broken: gone"},
			{"session closed there", nil, func(far, _ *Stream) { go far.sess.Close() }, "session ended: connection lost"},
			{"session closed here", flood, func(_, relaying *Stream) { go relaying.sess.Close() }, "session closed"},
			{"carrier cut", flood, func(_, relaying *Stream) { _ = relaying.sess.carrier.Close("") }, "session ended: connection lost"},
			{"reset by a third party", nil, func(_, relaying *Stream) { relaying.Reset(CodeOverload, "enough") }, "stream reset here: overload: enough"},
			{"closed by a third party", flood, func(_, relaying *Stream) { relaying.Close() }, net.ErrClosed.Error()},
			{"half-closed by the socket", func(_ *Stream, near halfConn) { _ = near.CloseWrite() },
				func(far, _ *Stream) { wantAll(t, far, nil); far.Reset(CodeBroken, "gone") }, "stream reset by the peer: broken: gone"},
		} {
			t.Run(c.name, func(t *testing.T) {
				far, relaying, near, ended := relayed(t, pair, sockets)
				write(t, far, []byte("hello"))
				wantBytes(t, near, []byte("hello"))
				if c.before != nil {
					c.before(far, near)
				}
				c.by(far, relaying)
				err := <-ended
				if err == nil || len(err.Error()) < len(c.want) || err.Error()[:len(c.want)] != c.want {
					t.Errorf("relay: %v, want %q", err, c.want)
				}
				wantCut(t, near, cut)
			})
		}
	})
}

// flood sends a whole window that nobody reads.
func flood(far *Stream, _ halfConn) {
	_, _ = far.Write(make([]byte, firstWindow))
}

// A socket that breaks resets the stream.
func TestRelaySocketBreaks(t *testing.T) {
	overEach(t, func(t *testing.T, pair carrierPair) {
		far, relaying, near, ended := relayed(t, pair, socketKinds[0].pair)
		write(t, far, []byte("hello"))
		wantBytes(t, near, []byte("hello"))
		abort(near)
		wantReset(t, far, CodeBroken, "the connection behind the stream broke off")
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("relay: %v", err)
		}
		if relaying.Err() == nil {
			t.Error("the stream did not break")
		}
	})
	// It is noticed when writing, too: the other direction has ended before.
	t.Run("half-closed", func(t *testing.T) {
		far, _, near, ended := relayed(t, pipePair, socketKinds[0].pair)
		_ = near.CloseWrite()
		wantAll(t, far, nil)
		abort(near)
		var err error
		for err == nil {
			_, err = far.Write([]byte("x"))
		}
		wantResetError(t, err, CodeBroken, "the connection behind the stream broke off")
		if err := <-ended; !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("relay: %v", err)
		}
	})
}

// What was complete arrives whole though the stream is gone by then, also from the
// kernel's buffers.
func TestRelayKeepsWhatIsWritten(t *testing.T) {
	overSockets(t, func(t *testing.T, pair carrierPair, sockets func(testing.TB) (a, b net.Conn), _ func(error) bool) {
		for _, size := range []int{0, 10, firstWindow} {
			far, _, near, ended := relayed(t, pair, sockets)
			want := pattern(size, 1)
			write(t, far, want)
			_ = far.CloseWrite()
			far.Close()
			if size < 1000 { // all of it is in the kernel
				wantResetError(t, <-ended, CodeCancelled, "closed")
				wantAll(t, near, want)
				continue
			}
			wantAll(t, near, want)
			wantResetError(t, <-ended, CodeCancelled, "closed")
		}
	})
}
