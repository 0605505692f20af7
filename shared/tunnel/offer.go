package tunnel

// Taker gets what comes next on a stream, see [Offer]. Take and Taken are called by the
// session's reader, Left by anybody: none may block.
type Taker interface {
	// Take may take p, all of it or nothing.
	Take(p []byte) bool
	// Taken is called when what Take took has left the stream, which may be used again.
	Taken()
	// Left is called when there is something for Read: what Take did not take, or an end.
	Left()
}

// Offer is for a stream whose next bytes are offered to a Taker before anybody reads them. It
// spares a wakeup: whoever awaits them need not be in Read. One Offer may serve one stream
// after the other.
type Offer struct{ taker Taker }

// NewOffer returns an Offer to t.
func NewOffer(t Taker) *Offer { return &Offer{t} }

// Offer has what the peer sends next offered, as it comes, and once. Nobody may Read before
// Withdraw has returned or Taken is called. It reports false if there is something for Read
// already.
func (st *Stream) Offer(o *Offer) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.buffered > 0 || st.lanes.moved || st.sink != nil || st.readErrLocked() != nil {
		return false
	}
	st.sink = o
	return true
}

// Withdraw ends an offer of which nothing was taken. When it returns nothing is being offered,
// nor will be; Left may still be called.
func (st *Stream) Withdraw() {
	for {
		st.mu.Lock()
		st.sink = nil
		offering := st.offering
		st.mu.Unlock()
		if !offering {
			return
		}
		<-st.readable
	}
}

// offerLocked offers what lies in c, before which nothing is queued. It unlocks the stream.
func (st *Stream) offerLocked(o *Offer, c *chunk) {
	p := c.buf[c.r:c.w]
	st.sink, st.offering = nil, true
	st.mu.Unlock()
	if o.taker.Take(p) {
		st.mu.Lock()
		c.r += len(p)
		st.dropLocked()
		st.consumedLocked(len(p))
		st.mu.Unlock()
		o.taker.Taken()
	} else {
		o.taker.Left()
	}
	st.mu.Lock()
	st.offering = false
	st.mu.Unlock()
	wake(st.readable)
}

// As a sink, which gets no bytes, an Offer tells of whatever else happens.
func (o *Offer) take([]byte) int { return 0 }
func (o *Offer) blocked()        { o.taker.Left() }
func (o *Offer) ended(error)     { o.taker.Left() }
func (o *Offer) cut(error)       { o.taker.Left() }
