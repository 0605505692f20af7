package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"time"
)

// ErrOpenTimeout is returned by Open when the deadline of its context passed before the
// peer had connected the upstream or refused.
var ErrOpenTimeout = errors.New("the peer did not open the stream in time")

// OpenReason returns a word for why Open failed, fit for a metric's label.
func OpenReason(err error) string {
	var reset *ResetError
	switch {
	case errors.As(err, &reset):
		return reset.Code.String()
	case errors.Is(err, ErrOpenTimeout):
		return "open_timeout"
	case errors.Is(err, context.Canceled):
		return "visitor_left"
	case errors.Is(err, ErrTooManyStreams):
		return "too_many_streams"
	}
	return "session"
}

// Silent reports whether the peer has let a deadline pass and has not been heard of
// since: there are better sessions to use until it is. A peer whose process is frozen is
// noticed in this way long before its pings are missed.
func (s *Session) Silent() bool {
	missed := s.missed.Load()
	return missed != 0 && s.heard.Load() <= missed
}

// Missed notes that the peer has let a deadline pass, and asks it for a sign of life.
func (s *Session) Missed() {
	s.missed.Store(int64(s.clock()))
	s.sendPing()
}

// LastHeard returns when the peer last sent something.
func (s *Session) LastHeard() time.Time { return s.began.Add(time.Duration(s.heard.Load())) }

// Nudge asks the peer for a sign of life, ahead of the next ping.
func (s *Session) Nudge() { s.sendPing() }

func (s *Session) sendPing() {
	sent := s.clock()
	s.w.control(func(b []byte) []byte {
		return binary.BigEndian.AppendUint64(appendHeader(b, framePing, 8, 0), uint64(sent))
	})
}
