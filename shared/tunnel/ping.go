package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

// ping keeps the connection awake, measures it, and ends it when the peer is silent. It is
// the callback of the session's timer: a goroutine that waits would cost each idle session
// more memory than all else here.
func (s *Session) ping() {
	if s.Err() != nil {
		return
	}
	interval := s.cfg.PingInterval
	silent := s.clock() - time.Duration(s.heard.Load())
	if silent >= 2*interval {
		s.end(&SessionError{Code: CodeDead, Reason: "the peer was silent for " + silent.Round(time.Millisecond).String()})
		return
	}
	s.sendPing()
	s.pinger.Reset(min(interval, 2*interval-silent)) // after the end it fires once more, for nothing
}

// clock is the time since the session began. Unlike the time of day it never jumps.
func (s *Session) clock() time.Duration { return time.Since(s.began) }

// pong takes the answer to a ping that carried the time when it was sent.
func (s *Session) pong(sent uint64) {
	now := s.clock()
	if sent <= uint64(now) { // otherwise it is no answer to a ping of ours
		s.rtt.add(max(now-time.Duration(sent), 1))
	}
}

const remeasureEvery = 50 * time.Millisecond

// remeasure is called while the round trips so far keep a stream from a lane. The only one of a young session is from
// when both programs had just begun to work, or from a machine that was busy: it can be far too long, and the next
// would be an interval later.
func (s *Session) remeasure() {
	now, last := s.clock(), s.remeasured.Load()
	if now-time.Duration(last) >= remeasureEvery && s.remeasured.CompareAndSwap(last, int64(now)) {
		s.sendPing()
	}
}

// RTT returns the smallest round trip of the last pings, or 0 before the first answer.
func (s *Session) RTT() time.Duration { return s.rtt.least() }

// rttForTuning is the round trip for the growth of windows.
func (s *Session) rttForTuning() time.Duration {
	return max(s.rtt.least(), 500*time.Microsecond)
}

// rttMeter keeps the last round trips; the least of them has the least queueing in it.
type rttMeter struct {
	mu   sync.Mutex
	last [8]time.Duration
	n    int
	low  atomic.Int64
}

func (m *rttMeter) add(rtt time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last[m.n%len(m.last)] = rtt
	m.n++
	low := m.last[0]
	for _, v := range m.last[1:min(m.n, len(m.last))] {
		low = min(low, v)
	}
	m.low.Store(int64(low))
}

func (m *rttMeter) least() time.Duration { return time.Duration(m.low.Load()) }
