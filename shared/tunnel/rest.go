package tunnel

import (
	"errors"
	"os"
	"time"
)

// rest is how a relay comes to rest: when nothing has moved for a while the goroutine that
// reads the socket goes, with its stack, which is most of what an idle connection costs.
// What it waited for is left to a poller, where the system has one for us, and another
// goroutine begins when that comes. The relay's lock guards it.
type rest struct {
	timer   *time.Timer // of looks while there is a reader, else nil
	poked   bool        // the reader is to go
	resting bool        // there is no reader
	id      uint64      // with the poller, while resting

	// Whether bytes have moved since the look before, and the same for the linger.
	lately, forLinger bool
}

// restAfter is how long nothing may move in either direction before the reader goes. It
// takes up to twice as long.
const restAfter = 5 * time.Second

var errResting = errors.New("nothing has moved for a while")

// copyOrRest is copyIn, but returns errResting when the relay has come to rest. Connections
// that are over soon are never probed: that would take a fifth of their system calls.
func (r *relay) copyOrRest() error {
	if !r.direct || !canRest {
		r.keepAlive()
		return r.copyIn()
	}
	r.mu.Lock()
	r.rest.timer = time.AfterFunc(r.restAfter, r.lookForRest)
	r.mu.Unlock()
	for {
		err := r.copyIn()
		if again, err := r.stopped(err); !again {
			return err
		}
	}
}

// stopped decides what comes when copyIn has returned: to rest, to end, or to go on.
func (r *relay) stopped(err error) (again bool, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rest.poked && r.err == nil && errors.Is(err, os.ErrDeadlineExceeded) {
		r.rest.poked = false
		r.keepAlive()
		_ = r.conn.SetReadDeadline(time.Time{}) // cut, which sets one too, notes an error before
		if !resting.add(r) {
			r.rest.timer.Reset(r.restAfter)
			return true, nil
		}
		r.rest.resting, err = true, errResting
	}
	r.rest.timer.Stop()
	r.rest.timer = nil
	return false, err
}

// lookForRest is the timer's turn.
func (r *relay) lookForRest() {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.rest.timer == nil || r.rest.poked:
	case r.movedLocked(&r.rest.lately):
		r.rest.timer.Reset(r.restAfter)
	default:
		r.rest.poked = true
		_ = r.conn.SetReadDeadline(time.Unix(1, 0)) // wakes copyIn
	}
}

// wake ends the rest, if the relay is at it: there is something to read, or the relay is
// about to end, which is the reader's to find out.
func (r *relay) wake() {
	r.mu.Lock()
	was := r.rest.resting
	r.rest.resting = false
	r.mu.Unlock()
	if was {
		resting.remove(r)
		go r.run()
	}
}

// movedLocked reports whether bytes have moved since it was last called with this flag
// of rest.
func (r *relay) movedLocked(flag *bool) bool {
	if r.moved.Swap(false) {
		r.rest.lately, r.rest.forLinger = true, true
	}
	was := *flag
	*flag = false
	return was
}
