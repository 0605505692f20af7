package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/adit-tunnel/adit/images/client/forward"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// forwarding starts an agent that wants forwards, and counts how often there is a session.
func forwarding(t *testing.T, s *server, upstreams string, up *atomic.Int32) *agent {
	t.Helper()
	return newAgent(t, s.url, upstreams, func(c *Config) {
		c.Forwards, c.Up = true, func() { up.Add(1) }
	}).run(t)
}

// forward asks for a destination, and wants an error if there is one.
func (a *agent) forward(t *testing.T, destination string, want error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	st, err := a.Forward(ctx, destination)
	if err == nil {
		defer st.Close()
	}
	if denied, ok := want.(*forward.DeniedError); ok {
		var got *forward.DeniedError
		if !errors.As(err, &got) || got.Reason != denied.Reason {
			t.Errorf("%s: got %v, want %v", destination, err, want)
		}
		return
	}
	if reset, ok := want.(*tunnel.ResetError); ok {
		var got *tunnel.ResetError
		if !errors.As(err, &got) || got.Code != reset.Code {
			t.Errorf("%s: got %v, want %v", destination, err, want)
		}
		return
	}
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", destination, err, want)
	}
}

func TestForward(t *testing.T) {
	s := newServer(t)
	var asked atomic.Int32
	s.able = []string{tunnel.CapabilityForward}
	s.handle = func(st *tunnel.Stream) {
		asked.Add(1)
		switch st.Target().Forward {
		case "db:5432":
			_ = st.Accept()
			_, _ = io.Copy(st, struct{ io.Reader }{st})
			_ = st.CloseWrite()
		case "slow:1":
			st.Reset(tunnel.CodeTimeout, "slow")
		default:
			st.Reset(tunnel.CodeDenied, "not\x1b[31m this one")
		}
	}
	var up atomic.Int32
	a := forwarding(t, s, "", &up) // which needs no upstreams
	v := s.next(t)
	if !slices.Contains(v.hello.Capabilities, tunnel.CapabilityForward) || len(v.hello.Upstreams) != 0 {
		t.Errorf("hello %+v", v.hello)
	}
	a.log.await(t, "connected")
	if up.Load() != 1 {
		t.Errorf("%d sessions", up.Load())
	}
	st, err := a.Forward(t.Context(), "db:5432")
	must(t, err)
	alive(t, st)
	finish(t, st)
	a.forward(t, "slow:1", &tunnel.ResetError{Code: tunnel.CodeTimeout})
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	denied := &forward.DeniedError{Reason: "not [31m this one"}
	for range 3 {
		a.forward(t, "other:1", denied)
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("asked %d times, want once for what is denied", n)
	}
	v.kill(t)
	s.next(t)
	a.log.await(t, "connected")
	a.forward(t, "other:1", denied)
	if n := asked.Load(); n != 4 || up.Load() != 2 {
		t.Errorf("asked %d times on %d sessions, want again on a new session", n, up.Load())
	}
}

func TestForwardWithoutServer(t *testing.T) {
	s := newServer(t)
	s.refuseWith(503, "later")
	var up atomic.Int32
	a := forwarding(t, s, "http://127.0.0.1:1", &up)
	a.log.await(t, "cannot connect")
	a.forward(t, "db:5432", forward.ErrNotConnected)
	s.refuseWith(0, "")
	v := s.next(t)
	a.log.await(t, "the server does no forwards: set FORWARD_ALLOW there, or update it if it is too old", "server_version", "test")
	a.log.await(t, "connected")
	a.forward(t, "db:5432", &forward.DeniedError{Reason: "the server does no forwards: set FORWARD_ALLOW there, or update it if it is too old"})
	s.refuseWith(503, "later") // or it would be back at once
	v.GoAway(tunnel.GoAway{})
	eventually(t, func() bool { return !a.Connected() })
	a.forward(t, "db:5432", forward.ErrNotConnected)
}

// What a server asks for as if it were a client changes nothing: an upstream is connected by
// its index, and nothing else is.
func TestServerAsksForForward(t *testing.T) {
	s := newServer(t)
	secret := listen(t, func(net.Conn) { t.Error("the client was made to connect something else") })
	a := newAgent(t, s.url, "http://"+echo(t)).run(t)
	v := s.next(t)
	a.log.await(t, "connected")
	st, err := v.Open(t.Context(), tunnel.Target{Forward: secret})
	must(t, err)
	alive(t, st) // the echo
	finish(t, st)
	_, err = v.Open(t.Context(), tunnel.Target{Upstream: 1, Forward: secret})
	var reset *tunnel.ResetError
	if !errors.As(err, &reset) || reset.Code != tunnel.CodeNoUpstream {
		t.Errorf("got %v", err)
	}
}

// An older server refuses every stream of a client.
func TestForwardFromOlderServer(t *testing.T) {
	s := newServer(t)
	var up atomic.Int32
	a := forwarding(t, s, "http://"+echo(t), &up)
	v := s.next(t)
	a.log.await(t, "connected")
	a.mu.Lock()
	a.forwards = true // as if it had said that it does them
	a.mu.Unlock()
	a.forward(t, "db:5432", &tunnel.ResetError{Code: tunnel.CodeNoUpstream})
	st := v.open(t, 0) // and the session goes on
	alive(t, st)
}
