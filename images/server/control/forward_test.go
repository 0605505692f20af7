package control

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// forwarding serves the streams of clients as an echo, and tells of each.
func forwarding(calls chan<- string) func(*Config) {
	return func(cfg *Config) {
		cfg.Forward = func(st *tunnel.Stream, clientID string) {
			calls <- clientID + " " + st.Target().Forward
			echo(st)
		}
	}
}

// asking is a client that has nothing but forwards.
func asking(id string) tunnel.Hello {
	h := hello(id)
	h.Capabilities = []string{tunnel.CapabilityForward}
	return h
}

// forward opens a stream of the client's, and wants this reason for the failure, "" for none.
func (p *peer) forward(t *testing.T, reason string) *tunnel.Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	st, err := p.Open(ctx, tunnel.Target{Forward: "db:5432"})
	if err == nil {
		t.Cleanup(func() { st.Close() })
	}
	if got := tunnel.OpenReason(err); err == nil && reason != "" || err != nil && got != reason {
		t.Errorf("got %v, want %q", err, reason)
	}
	return st
}

func TestForwards(t *testing.T) {
	calls := make(chan string, 8)
	s := start(t, forwarding(calls))
	p := s.connect(t, asking("me"), nil)
	if !strings.Contains(strings.Join(p.hello.Capabilities, " "), tunnel.CapabilityForward) {
		t.Errorf("the server says it can %q", p.hello.Capabilities)
	}
	alive(t, p.forward(t, ""))
	if got := within(t, calls); got != "me db:5432" {
		t.Errorf("served %q", got)
	}
	doc := s.Document()
	if len(doc.Clients) != 1 || doc.Clients[0].Upstreams == nil || len(doc.Clients[0].Upstreams) != 0 {
		t.Errorf("status: %+v", doc.Clients)
	}
	// One with upstreams can, too, whatever it has said.
	both := s.connect(t, hello("both", "a.test=http://app"), echo)
	alive(t, both.forward(t, ""))
	alive(t, s.open(t, "a.test"))
}

func TestNoForwards(t *testing.T) {
	s := start(t)
	text := s.refused(t, asking("me"), 400)
	if !strings.Contains(text, "set FORWARD_ALLOW on the server, or UPSTREAMS on the client") {
		t.Errorf("refused with %s", text)
	}
	p := s.connect(t, hello("me", "a.test=http://app"), echo)
	if strings.Contains(strings.Join(p.hello.Capabilities, " "), tunnel.CapabilityForward) {
		t.Errorf("the server says it can %q", p.hello.Capabilities)
	}
	p.forward(t, "no_upstream")
	alive(t, s.open(t, "a.test")) // and the session goes on
}

// A client that says nothing of forwards has upstreams.
func TestNeitherUpstreamsNorForwards(t *testing.T) {
	s := start(t, forwarding(make(chan string, 1)))
	if text := s.refused(t, hello("me"), 400); !strings.Contains(text, "the client names no upstream") {
		t.Errorf("refused with %s", text)
	}
}

// MAX_STREAMS counts the streams of both sides.
func TestForwardsAreLimited(t *testing.T) {
	calls := make(chan string, 8)
	s := start(t, forwarding(calls), func(cfg *Config) { cfg.MaxStreams = 2 })
	p := s.connect(t, asking("me"), nil)
	p.forward(t, "")
	p.forward(t, "")
	p.forward(t, "overload")
}

// A client that may not stay gets no more forwards, also if it does not care that it was told.
func TestForwardsOfBarred(t *testing.T) {
	calls := make(chan string, 8)
	s := start(t, forwarding(calls))
	cl := &client{hello: asking("me")}
	a, b := net.Pipe()
	here := tunnel.New(tunnel.NewConn(a), tunnel.Config{Handle: s.forwards(cl)})
	p := &peer{Session: tunnel.New(tunnel.NewConn(b), tunnel.Config{Client: true})}
	t.Cleanup(func() {
		p.Close()
		here.Close()
	})
	st := p.forward(t, "")
	cl.barred.Store(true)
	p.forward(t, "denied")
	alive(t, st) // what is under way goes on
}

// A client is barred when it is sent away for good.
func TestDeniedIsBarred(t *testing.T) {
	s := start(t, forwarding(make(chan string, 8)), func(cfg *Config) { cfg.Drain = patience })
	p := s.connect(t, asking("me"), nil)
	st := p.forward(t, "")
	s.mu.Lock()
	var cl *client
	for _, cl = range s.clients {
		cl.denied <- denial{"the licence has run out", 0}
	}
	s.mu.Unlock()
	within(t, p.goAway)
	eventually(t, cl.barred.Load)
	alive(t, st)
	st.Close()
	within(t, p.Done())
}
