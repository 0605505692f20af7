package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

// deadline is a point in time that a select can wait for and that can be moved.
// The zero value is no deadline and costs nothing.
type deadline struct {
	expired atomic.Bool // over is closed

	mu    sync.Mutex
	timer *time.Timer
	over  chan struct{} // closed when the deadline has passed; nil without one
}

// set moves the deadline; the zero time removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	// A channel that is still open stays in use: whoever waits on it goes on waiting.
	if d.expired.Load() {
		d.over = nil
		d.expired.Store(false)
	}
	if t.IsZero() {
		return
	}
	if d.over == nil {
		d.over = make(chan struct{})
	}
	if wait := time.Until(t); wait > 0 {
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.timer == timer { // not moved in the meantime
				d.passLocked()
			}
		})
		d.timer = timer
		return
	}
	d.passLocked()
}

func (d *deadline) passLocked() {
	d.timer = nil
	d.expired.Store(true)
	close(d.over)
}

// passed returns the channel that is closed when the deadline passes; it may be nil.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}
