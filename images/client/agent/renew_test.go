package agent

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/license"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// holder has a licence that changes.
type holder struct {
	mu      sync.Mutex
	license string
	changed chan struct{}
}

func newHolder(licence string) *holder {
	return &holder{license: licence, changed: make(chan struct{})}
}

func (h *holder) set(licence string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.license = licence
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *holder) config(cfg *Config) {
	cfg.License = func() string {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.license
	}
	cfg.Changed = func() <-chan struct{} {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.changed
	}
}

// admits has the server let in only who has the licence, and returns what changes that.
func (s *server) admits(t testing.TB, licence string) (set func(string)) {
	var mu sync.Mutex
	s.refuseBy(func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if got := r.Header.Values(license.Header); len(got) == 1 && got[0] == licence {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	return func(l string) {
		mu.Lock()
		defer mu.Unlock()
		licence = l
	}
}

// TestRenew has a new licence replace the session without breaking a stream.
func TestRenew(t *testing.T) {
	s := newServer(t)
	accept := s.admits(t, "first")
	h := newHolder("first")
	a := newAgent(t, s.url, "http://"+echo(t), h.config).run(t)
	old := s.next(t)
	st := old.open(t, 0)
	alive(t, st)
	accept("second")
	h.set("second")
	newer := s.next(t)
	a.log.await(t, "renewing the connection with the new credentials")
	if newer.hello.Epoch <= old.hello.Epoch {
		t.Errorf("epoch %d after %d", newer.hello.Epoch, old.hello.Epoch)
	}
	if g := within(t, old.goAway); g.Code != tunnel.CodeNone || g.Reason != "the client has a newer connection" {
		t.Errorf("left with %+v", g)
	}
	alive(t, st)
	alive(t, newer.open(t, 0))
	finish(t, st)
	must(t, st.Close())
	within(t, old.Done())
	if newer.Err() != nil || a.metric(t, "adit_reconnects_total", "renewed") != 1 {
		t.Errorf("the new one: %v", newer.Err())
	}
}

// TestRenewRefused keeps the session that there is, until the server asks for another.
func TestRenewRefused(t *testing.T) {
	s := newServer(t)
	accept := s.admits(t, "first")
	h := newHolder("first")
	a := newAgent(t, s.url, "http://"+echo(t), h.config)
	a.delays.permanent = time.Hour
	a.run(t)
	old := s.next(t)
	h.set("second")
	a.log.await(t, "cannot connect", "level", "error", "error", "refused with 403")
	if !a.Connected() {
		t.Error("not connected any more")
	}
	alive(t, old.open(t, 0))
	accept("second")
	old.GoAway(tunnel.GoAway{Code: tunnel.CodeDenied, Reason: "for a test"})
	a.log.await(t, "the server asks for another connection", "reason", "for a test")
	alive(t, s.next(t).open(t, 0))
}

// TestRenewWakes does not wait long with a new licence where the old one was refused.
func TestRenewWakes(t *testing.T) {
	s := newServer(t)
	s.admits(t, "second")
	h := newHolder("first")
	a := newAgent(t, s.url, "http://"+echo(t), h.config)
	a.delays.permanent = time.Hour
	a.run(t)
	a.log.await(t, "cannot connect", "level", "error")
	h.set("second")
	alive(t, s.next(t).open(t, 0))
}

// TestRenewLost goes on when the session breaks while its successor is refused.
func TestRenewLost(t *testing.T) {
	s := newServer(t)
	accept := s.admits(t, "first")
	h := newHolder("first")
	a := newAgent(t, s.url, "http://"+echo(t), h.config)
	a.delays.permanent = time.Hour
	a.run(t)
	old := s.next(t)
	h.set("second")
	a.log.await(t, "cannot connect", "level", "error")
	accept("second")
	old.kill(t)
	alive(t, s.next(t).open(t, 0))
}

// TestDenied says why the server does not let a session stay.
func TestDenied(t *testing.T) {
	s := newServer(t)
	a := newAgent(t, s.url, "http://"+echo(t)).run(t)
	s.next(t).GoAway(tunnel.GoAway{Code: tunnel.CodeDenied, Reason: "the licence of acme expired"})
	a.log.await(t, "the server does not let this connection stay", "level", "warn", "reason", "the licence of acme expired")
	alive(t, s.next(t).open(t, 0))
}
