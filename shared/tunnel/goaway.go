package tunnel

import "time"

// GoAway says that a peer wants to leave, and when it would like to be called again.
type GoAway struct {
	Code   Code
	After  time.Duration // come back no sooner than this
	Jitter time.Duration // plus a random part of this
	Reason string
}

// GoAway tells the peer that we want to leave: it opens no more streams on this session,
// and those under way go on. We may still open some, for visitors who came before they
// could know. The caller closes the session in the end.
func (s *Session) GoAway(g GoAway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	s.w.control(func(b []byte) []byte { return appendGoAway(b, g) })
	s.checkDrainedLocked()
}

func (s *Session) peerGoesAway(g GoAway) {
	s.mu.Lock()
	s.leaving, s.dismissed = true, true
	s.checkDrainedLocked()
	tell := !s.told && s.cfg.GoAway != nil
	s.told = true
	s.mu.Unlock()
	if tell {
		s.cfg.GoAway(g)
	}
}

// Drained is closed when either side has said GOAWAY and no stream is left, as Streams
// counts them.
func (s *Session) Drained() <-chan struct{} { return s.drained }

func (s *Session) checkDrainedLocked() {
	if s.leaving && !s.empty && s.countLocked() == 0 {
		s.empty = true
		close(s.drained)
	}
}

// Leaving reports whether Open opens no more streams: the peer wants to leave, or the
// session has ended.
func (s *Session) Leaving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dismissed || s.err != nil
}
