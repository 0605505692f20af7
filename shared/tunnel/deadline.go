package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

// deadline is a point in time that a select can wait for and that can be moved.
// The zero value is no deadline and costs nothing.
//
// A deadline that is moved on again and again, which is what a stream that serves one
// request after the other does, leaves its timer alone: that looks, when it goes off,
// whether the time has come, and sets itself anew if not.
type deadline struct {
	expired atomic.Bool // over is closed

	mu    sync.Mutex
	when  moment        // what it was set to
	timer *time.Timer   // made with the first deadline
	due   moment        // when the timer goes off; zero: it does not
	over  chan struct{} // closed when the deadline has passed; nil without one
}

// moment is a time.Time in a third of its size, as a stream has four: the time since
// the process began, which never jumps. The zero value is no time.
type moment time.Duration

var processBegan = time.Now()

func momentOf(t time.Time) moment {
	if t.IsZero() {
		return 0
	}
	if m := moment(t.Sub(processBegan)); m != 0 {
		return m
	}
	return 1
}

func (m moment) time() time.Time {
	if m == 0 {
		return time.Time{}
	}
	return processBegan.Add(time.Duration(m))
}

// set moves the deadline; the zero time removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// A channel that is still open stays in use: whoever waits on it goes on waiting.
	if d.expired.Load() {
		d.over = nil
		d.expired.Store(false)
	}
	d.when = momentOf(t)
	if d.when == 0 {
		if d.due != 0 { // or it would hold on to the stream
			d.timer.Stop()
			d.due = 0
		}
		return
	}
	if d.over == nil {
		d.over = make(chan struct{})
	}
	if d.due == 0 || d.when < d.due {
		d.armLocked()
	}
}

// armLocked sets the timer to the deadline, or ends the waits if it has passed.
func (d *deadline) armLocked() {
	d.due = 0
	wait := time.Until(d.when.time())
	if wait <= 0 {
		d.expired.Store(true)
		close(d.over)
		return
	}
	d.due = d.when
	if d.timer == nil {
		d.timer = time.AfterFunc(wait, d.look)
	} else {
		d.timer.Reset(wait)
	}
}

// look is the timer's turn, perhaps one that was stopped or set anew too late.
func (d *deadline) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.when == 0 || d.expired.Load() {
		d.due = 0
		return
	}
	d.armLocked()
}

// at returns the time that was set.
func (d *deadline) at() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.when.time()
}

// passed returns the channel that is closed when the deadline passes; it may be nil.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}
