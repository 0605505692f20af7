package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/images/client/upstream"
	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// opens opens a stream and wants this reason for the failure, "" for none.
func (v *visit) opens(t testing.TB, upstream int, reason string) {
	t.Helper()
	st, err := v.Open(t.Context(), tunnel.Target{Upstream: upstream})
	if err == nil {
		st.Close()
	}
	if got := tunnel.OpenReason(err); err == nil && reason != "" || err != nil && got != reason {
		t.Errorf("upstream %d: got %v, want %s", upstream, err, reason)
	}
}

// TestOwnUpstreamsOnly has the server ask for what the client does not expose.
func TestOwnUpstreamsOnly(t *testing.T) {
	s := newServer(t)
	newAgent(t, s.url, "a.test=http://"+echo(t)+",b.test=http://"+echo(t)).run(t)
	v := s.next(t)
	v.opens(t, 0, "")
	v.opens(t, 1, "")
	for _, index := range []int{2, 3, 1000, 65535} {
		v.opens(t, index, "no_upstream")
	}
	v.opens(t, 0, "")
}

// TestUpstreamDown tells the server why, and the log once.
func TestUpstreamDown(t *testing.T) {
	address := freeport.Addr(t)
	s := newServer(t)
	a := newAgent(t, s.url, "a.test=http://"+address+",b.test=https://"+listen(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 10))
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
	})).run(t)
	v := s.next(t)
	for range 5 {
		v.opens(t, 0, "refused")
	}
	v.opens(t, 1, "tls")
	a.log.await(t, "cannot reach upstream", "level", "warn", "upstream", "a.test=http://"+address, "error", "connection refused")
	a.log.await(t, "cannot reach upstream", "level", "warn", "upstream", "b.test=")
	if n := strings.Count(a.log.String(), `{"level":"warn","url"`); n != 2 {
		t.Errorf("%d warnings:\n%s", n, a.log)
	}
	if a.metric(t, "adit_dial_errors_total", "refused") != 5 || a.metric(t, "adit_dial_errors_total", "tls") != 1 {
		t.Error("not counted")
	}
	// It comes up, and goes down again.
	l, err := net.Listen("tcp", address)
	must(t, err)
	v.opens(t, 0, "")
	a.log.await(t, "upstream can be reached again", "upstream", "a.test=")
	l.Close()
	v.opens(t, 0, "refused")
	a.log.await(t, "cannot reach upstream", "level", "warn", "upstream", "a.test=")
}

// silent is an upstream whose TLS handshake takes for ever.
func silent(t testing.TB) (text string, asked <-chan struct{}) {
	c := make(chan struct{}, 8)
	return "https://" + listen(t, func(conn net.Conn) {
		c <- struct{}{}
		_, _ = io.Copy(io.Discard, conn)
	}), c
}

// TestDialTimeout gives up an upstream that says nothing.
func TestDialTimeout(t *testing.T) {
	s := newServer(t)
	up, _ := silent(t)
	a := newAgent(t, s.url, up, func(c *Config) { c.Dialer = upstream.Dialer{Timeout: 50 * time.Millisecond} }).run(t)
	s.next(t).opens(t, 0, "timeout")
	a.log.await(t, "cannot reach upstream", "level", "warn")
}

// TestNobodyWaits gives up an upstream that nobody waits for any more, however long
// DIAL_TIMEOUT is.
func TestNobodyWaits(t *testing.T) {
	s := newServer(t)
	up, asked := silent(t)
	a := newAgent(t, s.url, up).run(t)
	v := s.next(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := v.Open(ctx, tunnel.Target{})
		result <- err
	}()
	within(t, asked)
	cancel()
	if err := within(t, result); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.session != nil && a.session.Streams() == 0
	})
	if a.metric(t, "adit_dial_errors_total", "unreachable") != 0 {
		t.Error("counted as the upstream's fault")
	}
}

// TestConnectionLostInDial reconnects at once, although a dial is under way.
func TestConnectionLostInDial(t *testing.T) {
	s := newServer(t)
	up, asked := silent(t)
	newAgent(t, s.url, up+",b.test=http://"+echo(t)).run(t)
	v := s.next(t)
	go func() { _, _ = v.Open(context.Background(), tunnel.Target{}) }() // ends with the session
	within(t, asked)
	v.kill(t)
	alive(t, s.next(t).open(t, 1))
}

// TestEnds carries the end of either side, and breaks, to the other.
func TestEnds(t *testing.T) {
	s := newServer(t)
	seen := make(chan error, 1)
	up := listen(t, func(c net.Conn) {
		sent, err := io.ReadAll(c)
		seen <- err
		_, _ = c.Write(sent)
	})
	broken := listen(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 4))
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	newAgent(t, s.url, "a.test=http://"+up+",b.test=http://"+broken).run(t)
	v := s.next(t)
	st := v.open(t, 0)
	must(t, second(st.Write([]byte("question"))))
	must(t, st.CloseWrite())
	got, err := io.ReadAll(st)
	if err != nil || string(got) != "question" {
		t.Errorf("half-closed: got %q %v", got, err)
	}
	must(t, within(t, seen))

	st = v.open(t, 0)
	must(t, second(st.Write([]byte("question"))))
	st.Reset(tunnel.CodeCancelled, "no longer wanted")
	if err := within(t, seen); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the upstream saw %v, want a reset", err)
	}

	st = v.open(t, 1)
	must(t, second(st.Write([]byte("ping"))))
	var reset *tunnel.ResetError
	if _, err := io.Copy(io.Discard, st); !errors.As(err, &reset) || reset.Code != tunnel.CodeBroken {
		t.Errorf("the visitor's end saw %v, want a reset", err)
	}
}
