package tunnel

import (
	"encoding/binary"
	"errors"
)

// read is the session's reader: it takes the frames from the carrier and hands
// each to its stream. The payload of DATA goes straight into the stream's buffer.
// It returns the error that ends the session.
func (s *Session) read() error {
	var (
		head  [headerSize]byte
		small [64]byte // of control frames, but for those with an address or a reason
	)
	for {
		if err := s.readFull(head[:]); err != nil {
			return err
		}
		h, err := parseHeader(&head)
		if err != nil {
			return err
		}
		if h.typ == frameData {
			if err := s.readData(h); err != nil {
				return err
			}
			continue
		}
		if h.length > maxControl { // a type that we do not know
			if err := s.discard(h.length); err != nil {
				return err
			}
			continue
		}
		p := small[:min(h.length, len(small))]
		if h.length > len(small) {
			p = make([]byte, h.length)
		}
		if err := s.readFull(p); err != nil {
			return err
		}
		if err := s.handle(h, p); err != nil {
			return err
		}
	}
}

// readFull fills p. Every piece that arrives is a sign of life: on a slow link a
// frame may take longer than the peer may be silent.
func (s *Session) readFull(p []byte) error {
	for len(p) > 0 {
		n, err := s.carrier.Read(p)
		if n > 0 {
			s.heard.Store(int64(s.clock()))
		}
		if p = p[n:]; err != nil && len(p) > 0 {
			return lost(err)
		}
	}
	return nil
}

// discard skips the next n bytes.
func (s *Session) discard(n int) error {
	buf := copyPool.Get().(*Buffer)
	defer copyPool.Put(buf)
	for n > 0 {
		p := buf.b[:min(n, len(buf.b))]
		if err := s.readFull(p); err != nil {
			return err
		}
		n -= len(p)
	}
	return nil
}

// lost makes an error of the carrier the end of the session.
func lost(err error) error {
	var ended *SessionError
	if errors.As(err, &ended) {
		return err
	}
	return &SessionError{Code: CodeBroken, Reason: "connection lost", Err: err}
}

// handle acts on every frame but DATA.
func (s *Session) handle(h header, p []byte) error {
	switch h.typ {
	case framePing:
		s.w.control(func(b []byte) []byte {
			return append(appendHeader(b, framePong, len(p), 0), p...)
		})
	case framePong:
		s.pong(binary.BigEndian.Uint64(p))
	case frameGoAway:
		s.peerGoesAway(parseGoAway(p))
	case frameHealth:
		s.peerHealth(p)
	case frameOpen:
		window, target, err := parseOpen(p)
		if err != nil {
			return err
		}
		return s.opened(h.stream, window, target)
	default:
		st := s.lookup(h.stream)
		if st == nil {
			return nil // of a stream that is over here, or a type that we do not know
		}
		return st.handle(h, p)
	}
	return nil
}

// handle acts on the frames of one stream but DATA.
func (st *Stream) handle(h header, p []byte) error {
	switch h.typ {
	case frameAccept, frameCredit:
		st.mu.Lock()
		if h.typ == frameAccept {
			if !st.ours || st.accepted {
				st.mu.Unlock()
				return protocolErrorf("stream %d: ACCEPT of a stream that is accepted or your own", st.id)
			}
			st.accepted = true
		}
		st.credit += int64(binary.BigEndian.Uint32(p))
		over := st.credit > maxCredit
		st.mu.Unlock()
		if over {
			return protocolErrorf("stream %d: %s of more than %d bytes in all", st.id, h.typ, maxCredit)
		}
		if h.typ == frameAccept {
			wake(st.readable)
		}
		wake(st.writable)
	case frameLane, frameMove:
		return st.announced(h, 0)
	case frameBack:
		return st.announced(h, binary.BigEndian.Uint64(p))
	case frameFin:
		return st.ended()
	case frameReset:
		err := &ResetError{Code: codeOf(binary.BigEndian.Uint32(p)), Reason: printable(p[4:]), Remote: true}
		st.sess.forget(st)
		st.abort(err, false)
	}
	return nil
}

// ended notes that the peer's bytes are complete.
func (st *Stream) ended() error {
	st.mu.Lock()
	if st.finRecv {
		st.mu.Unlock()
		return protocolErrorf("stream %d: FIN after FIN", st.id)
	}
	if st.lanes.moved && !st.lanes.backed && st.err == nil {
		st.mu.Unlock()
		return protocolErrorf("stream %d: FIN after MOVE, without BACK", st.id)
	}
	st.finRecv = true
	over, sink, queued := st.finSent, st.sink, st.buffered > 0 || st.lanes.moved
	in := st.lanes.in
	st.mu.Unlock()
	if in != nil {
		in.killUnused()
	}
	if over {
		st.sess.forget(st)
	}
	wake(st.readable)
	if sink != nil && !queued {
		sink.ended(nil)
	}
	return nil
}

// readData moves the payload of a DATA frame from the carrier to its stream.
func (s *Session) readData(h header) error {
	st := s.lookup(h.stream)
	if st == nil {
		return s.discard(h.length)
	}
	if h.length == 0 {
		return nil
	}
	c, err := st.reserve(h.length)
	if err != nil {
		return err
	}
	if err := s.readFull(c.buf[c.w : c.w+h.length]); err != nil {
		st.unreserve(c)
		return err
	}
	st.countReceived(h.length)
	st.commit(c, h.length)
	return nil
}

// reserve returns a chunk with room for n bytes at its end, for the session's reader
// to fill, after charging the window.
func (st *Stream) reserve(n int) (*chunk, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if n > st.win.left && st.err == nil {
		return nil, protocolErrorf("stream %d: %d bytes of DATA with %d of window left", st.id, n, st.win.left)
	}
	if st.finRecv {
		return nil, protocolErrorf("stream %d: DATA after FIN", st.id)
	}
	if st.lanes.moved && st.err == nil {
		return nil, protocolErrorf("stream %d: DATA behind MOVE", st.id)
	}
	st.win.left -= n
	c := st.tail
	if c == nil || len(c.buf)-c.w < n {
		c = newChunk(n)
		if st.tail == nil {
			st.head = c
		} else {
			st.tail.next = c
		}
		st.tail = c
	}
	st.filling = true
	return c, nil
}

// unreserve takes back a chunk that was not filled.
func (st *Stream) unreserve(c *chunk) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.filling = false
	if st.head == c && c.r == c.w {
		st.head, st.tail = nil, nil
	}
}

// commit makes n bytes at the end of c readable, or offers them to the sink first.
func (st *Stream) commit(c *chunk, n int) {
	st.mu.Lock()
	st.filling = false
	if st.local { // nobody reads any more
		st.head, st.tail = nil, nil
		st.mu.Unlock()
		return
	}
	if !st.heard.Load() {
		st.heard.Store(true)
	}
	c.w += n
	st.buffered += n
	if st.sink == nil || st.buffered > n {
		st.mu.Unlock()
		wake(st.readable)
		return
	}
	// Nothing is queued before these bytes, and only we append: the sink may have them.
	if o, ok := st.sink.(*Offer); ok {
		st.offerLocked(o, c)
		return
	}
	sink, p := st.sink, c.buf[c.r:c.w]
	st.mu.Unlock()
	took := sink.take(p)
	st.mu.Lock()
	c.r += took
	st.dropLocked()
	st.consumedLocked(took)
	rest := st.buffered > 0
	st.mu.Unlock()
	if rest {
		sink.blocked()
	}
}
