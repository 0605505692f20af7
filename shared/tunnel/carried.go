package tunnel

import "sync/atomic"

// carried counts the payload of a stream.
type carried struct{ received, sent atomic.Int64 }

// Carried returns how many bytes of the stream have come and have been sent, so far.
func (st *Stream) Carried() (received, sent int64) {
	return st.carried.received.Load(), st.carried.sent.Load()
}

// countReceived and countSent count payload where it enters and leaves the session.
func (st *Stream) countReceived(n int) {
	st.carried.received.Add(int64(n))
	st.sess.cfg.Counters.Received.Add(uint64(n))
}

func (st *Stream) countSent(n int) {
	st.carried.sent.Add(int64(n))
	st.sess.cfg.Counters.Sent.Add(uint64(n))
}
