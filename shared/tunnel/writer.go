package tunnel

import (
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// smallLimit bounds the small DATA that is pending, and bulkLimit the bulk, in
	// bytes: what a stream that comes late has to wait for.
	smallLimit = 64 << 10
	bulkLimit  = 2 * (headerSize + bulkData)
	// smallData is the largest DATA that leaves before bulk, in bytes.
	smallData = 4 << 10
	// bulkData is the largest DATA of a stream's turn, in bytes.
	bulkData = 32 << 10
	// leadAfter is how many batches of a single frame in a row make producers send
	// themselves. Where many streams are at work, such a batch now and then means nothing.
	leadAfter = 16
	// controlLimit bounds control frames that a peer who does not read lets pile up.
	controlLimit = 1 << 20
)

// writer is the group commit of a session: producers append whole frames to the
// pending buffers, and one goroutine, the flusher, sends all that is pending in one
// message. While that write is under way the next batch gathers.
//
// When little goes on, so that a batch is a single frame, waking the flusher is what
// costs: the producer then sends the batch itself, as far as the socket takes it at once,
// and leaves only the rest to the flusher.
//
// Bulk waits in turns: a producer that finds the bulk buffer full leaves its bytes
// in the queue and sleeps; the flusher takes one frame of each in order of arrival.
type writer struct {
	carrier Carrier
	trier   trier         // the carrier, if it can; or nil
	timeout time.Duration // for one write

	mu    sync.Mutex
	small *Buffer // control frames and small DATA
	bulk  *Buffer
	batch uint64 // number of the batch that gathers
	turns turnQueue
	busy  bool  // the flusher is at work or has been woken, or a producer leads
	leads bool  // a producer sends
	rest  bool  // of what a producer sent something is left
	count int   // DATA frames of the batch that gathers
	lone  int   // how many batches in a row had one at most
	err   error // why no more frames are taken
	cut   bool  // what is pending is not sent any more either
	wake  chan struct{}
	quit  chan struct{} // closed with err

	flooded func() // called once, in a goroutine, when a peer who does not read has asked for too much
}

func newWriter(c Carrier, timeout time.Duration) *writer {
	return &writer{carrier: c, trier: tries(c), timeout: timeout, batch: 1, wake: make(chan struct{}, 1),
		quit: make(chan struct{})}
}

// control appends a control frame, built by add. It never blocks.
func (w *writer) control(add func(b []byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return
	}
	small := w.smallLocked()
	if len(small.b) > controlLimit {
		// The flusher is stuck in a write, and we may hold any lock.
		w.stopLocked(&SessionError{Code: CodeOverload, Reason: "the peer does not read what it asked for"}, true)
		go w.flooded()
		return
	}
	small.b = add(small.b)
	w.kickLocked()
}

// ordered appends a control frame of a stream behind the DATA of that stream.
func (w *writer) ordered(st *Stream, add func(b []byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return
	}
	if st.lastBulk == w.batch {
		bulk := w.bulkLocked()
		bulk.b = add(bulk.b)
	} else {
		small := w.smallLocked()
		small.b = add(small.b)
	}
	w.kickLocked()
}

// data queues one DATA frame with p, at most bulkData bytes. It reports true when
// p was taken, and false when the caller has to wait for its turn: until
// st.turn.done is signalled p belongs to the writer, and cancel takes it back.
func (w *writer) data(st *Stream, p []byte) (bool, error) {
	w.mu.Lock()
	if w.err != nil {
		defer w.mu.Unlock()
		return false, w.err
	}
	if !w.appendLocked(st, p) {
		defer w.mu.Unlock()
		st.turn.p = p
		w.turns.push(st)
		return false, nil
	}
	if w.busy || w.lone < leadAfter || w.trier == nil {
		w.kickLocked()
		w.mu.Unlock()
		return true, nil
	}
	w.busy, w.leads = true, true
	small, bulk := w.takeLocked()
	w.mu.Unlock()
	w.lead(small, bulk)
	return true, nil
}

// appendLocked appends a DATA frame to the batch, if there is room.
func (w *writer) appendLocked(st *Stream, p []byte) bool {
	if len(p) <= smallData && st.lastBulk != w.batch {
		if small := w.smallLocked(); len(small.b)+len(p) <= smallLimit {
			small.b = append(appendHeader(small.b, frameData, len(p), st.id), p...)
			w.count++
			return true
		}
	}
	if !w.turns.empty() || !w.fitsLocked(len(p)) {
		return false
	}
	w.appendBulkLocked(st, p)
	return true
}

// lead sends a batch as far as the socket takes it at once.
func (w *writer) lead(small, bulk *Buffer) {
	done, err := w.trier.TryBatch(small.bytes(), bulk.bytes())
	small.recycle()
	bulk.recycle()
	if err != nil {
		w.fail(lost(err))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leads, w.rest = false, !done
	if w.rest || w.small != nil || w.bulk != nil || w.err != nil {
		w.wake <- struct{}{} // there is room: busy was ours
		return
	}
	w.busy = false
}

// cancel takes a frame out of the queue; it reports false when it was already taken.
func (w *writer) cancel(st *Stream) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.turns.remove(st) {
		return false
	}
	st.turn.p = nil
	return true
}

func (w *writer) fitsLocked(n int) bool {
	return w.bulk == nil || len(w.bulk.b)+headerSize+n <= bulkLimit
}

func (w *writer) appendBulkLocked(st *Stream, p []byte) {
	bulk := w.bulkLocked()
	bulk.b = append(appendHeader(bulk.b, frameData, len(p), st.id), p...)
	w.count++
	st.lastBulk = w.batch
}

func (w *writer) smallLocked() *Buffer {
	if w.small == nil {
		w.small = pendingPool.Get().(*Buffer)
	}
	return w.small
}

func (w *writer) bulkLocked() *Buffer {
	if w.bulk == nil {
		w.bulk = pendingPool.Get().(*Buffer)
		w.bulk.b = slices.Grow(w.bulk.b, bulkLimit)
	}
	return w.bulk
}

func (w *writer) kickLocked() {
	if !w.busy {
		w.busy = true
		w.wake <- struct{}{}
	}
}

// run is the flusher. It returns nil when it has sent all that was pending at the
// time of finish, and otherwise the error of fail or of a write.
func (w *writer) run() error {
	for {
		select {
		case <-w.quit:
			return w.flush()
		case <-w.wake:
		}
		runtime.Gosched() // let those who are about to send join the batch
		if err := w.flush(); err != nil {
			return err
		}
	}
}

// flush sends what is pending, and what comes while it does, until there is nothing.
func (w *writer) flush() error {
	for {
		w.mu.Lock()
		for w.leads { // only at the end: it is about to wake us
			w.mu.Unlock()
			<-w.wake
			w.mu.Lock()
		}
		if w.cut {
			err := w.err
			w.mu.Unlock()
			return err
		}
		rest := w.rest
		w.rest = false
		small, bulk := w.takeLocked()
		if small == nil && bulk == nil && !rest {
			w.busy = false
			w.mu.Unlock()
			return nil
		}
		w.mu.Unlock()

		var err error
		if small != nil || bulk != nil {
			err = w.carrier.WriteBatch(small.bytes(), bulk.bytes(), w.timeout)
		} else {
			err = w.trier.Finish(w.timeout)
		}
		small.recycle()
		bulk.recycle()
		if err != nil {
			err = lost(err)
			w.fail(err)
			return err
		}
	}
}

// takeLocked takes what is pending, and fills the next batch from the queue.
func (w *writer) takeLocked() (small, bulk *Buffer) {
	small, bulk = w.small, w.bulk
	if small == nil && bulk == nil {
		return nil, nil
	}
	w.small, w.bulk = nil, nil
	if w.lone++; w.count > 1 {
		w.lone = 0
	}
	w.count = 0
	w.batch++
	for !w.turns.empty() && w.fitsLocked(len(w.turns.first.turn.p)) {
		st := w.turns.pop()
		w.appendBulkLocked(st, st.turn.p)
		st.turn.p = nil
		st.turn.done <- struct{}{}
	}
	return small, bulk
}

// fail makes every later use return err, and drops what is pending.
func (w *writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopLocked(err, true)
}

// finish makes every later use return err; what is pending is sent.
func (w *writer) finish(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopLocked(err, false)
}

func (w *writer) stopLocked(err error, cut bool) {
	w.cut = w.cut || cut
	if w.err == nil {
		w.err = err
		close(w.quit)
	}
}

// reason returns why no more frames are taken.
func (w *writer) reason() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (b *Buffer) bytes() []byte {
	if b == nil {
		return nil
	}
	return b.b
}

// recycle returns a pending buffer to its pool, unless control frames have made it huge.
func (b *Buffer) recycle() {
	if b != nil && cap(b.b) <= 2*smallLimit {
		b.b = b.b[:0]
		pendingPool.Put(b)
	}
}

// turn is a stream's place in the queue for bulk.
type turn struct {
	p          []byte
	done       chan struct{} // made with the first wait, capacity 1
	queued     bool
	prev, next *Stream
}

// turnQueue is an intrusive list, so that waiting allocates nothing.
type turnQueue struct{ first, last *Stream }

func (q *turnQueue) empty() bool { return q.first == nil }

func (q *turnQueue) push(st *Stream) {
	if st.turn.done == nil {
		st.turn.done = make(chan struct{}, 1)
	}
	st.turn.queued, st.turn.prev, st.turn.next = true, q.last, nil
	if q.last == nil {
		q.first = st
	} else {
		q.last.turn.next = st
	}
	q.last = st
}

func (q *turnQueue) pop() *Stream {
	st := q.first
	q.remove(st)
	return st
}

func (q *turnQueue) remove(st *Stream) bool {
	if !st.turn.queued {
		return false
	}
	t := &st.turn
	if t.prev == nil {
		q.first = t.next
	} else {
		t.prev.turn.next = t.next
	}
	if t.next == nil {
		q.last = t.prev
	} else {
		t.next.turn.prev = t.prev
	}
	t.queued, t.prev, t.next = false, nil, nil
	return true
}
