package tunnel

// CapabilityHealth in a Hello says that its sender heeds HEALTH.
const CapabilityHealth = "health"

// Waiting is a set of upstreams, by their index in the Hello: those that wait for the
// service behind them, and are to get no streams meanwhile. Bit i%8 of byte i/8 stands
// for upstream i, and what lies beyond the end is not in the set.
type Waiting []byte

// Has reports whether upstream i is in the set.
func (w Waiting) Has(i int) bool {
	return i >= 0 && i/8 < len(w) && w[i/8]&(1<<(i%8)) != 0
}

// Add puts upstream i into the set.
func (w *Waiting) Add(i int) {
	for len(*w) <= i/8 {
		*w = append(*w, 0)
	}
	(*w)[i/8] |= 1 << (i % 8)
}

// Health tells the peer which of our upstreams wait, in place of what it was told before.
// A set has room for the first 8192 upstreams of a Hello. A peer whose Hello does not have
// CapabilityHealth pays no attention.
func (s *Session) Health(w Waiting) {
	w = w[:min(len(w), maxControl)]
	s.w.control(func(b []byte) []byte {
		return append(appendHeader(b, frameHealth, len(w), 0), w...)
	})
}

// peerHealth hands on a set whose bytes are the reader's.
func (s *Session) peerHealth(p []byte) {
	if s.cfg.Health != nil {
		s.cfg.Health(append(Waiting(nil), p...))
	}
}
