package tunnel

import (
	"sync"
	"time"
)

const (
	// minWindow is what every stream gets, even when the session's budget is used up;
	// firstWindow what it starts with otherwise; maxWindow what it may grow to. Bytes.
	minWindow   = 16 << 10
	firstWindow = 256 << 10
	maxWindow   = 16 << 20
	// defaultBudget bounds the sum of a session's windows above minWindow, in bytes.
	defaultBudget = 64 << 20
	// maxCredit bounds what a peer may grant on a stream, in bytes.
	maxCredit = 1<<31 - 1
)

// budget is the memory that the receive windows of a session share.
type budget struct {
	keep int // for the first windows of new streams: what has grown must leave it

	mu   sync.Mutex
	left int
}

func newBudget(size int) budget { return budget{left: size, keep: size / 4} }

// take grants n bytes for a new stream, all or nothing.
func (b *budget) take(n int) bool { return b.takeDownTo(0, n) }

// grow grants n bytes more to a stream, all or nothing.
func (b *budget) grow(n int) bool { return b.takeDownTo(b.keep, n) }

func (b *budget) takeDownTo(least, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left-n < least {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int) {
	b.mu.Lock()
	b.left += n
	b.mu.Unlock()
}

// window is the receiving side of a stream's flow control. The stream's lock guards it.
type window struct {
	size     int // what the peer may have under way and unread at most
	left     int // what the peer may still send
	consumed int // read here and not yet returned to the peer
	since    time.Time
}

// openWindow takes the first window of a stream from the budget.
func openWindow(b *budget, now time.Time) window {
	size := minWindow
	if b.take(firstWindow - minWindow) {
		size = firstWindow
	}
	return window{size: size, left: size, since: now}
}

// consume notes that n bytes were read, and returns the credit to send, or 0. When
// half a window was used up in less than two round trips the window is what limits
// the stream, so it doubles while the budget allows.
func (w *window) consume(n int, b *budget, rtt time.Duration, now func() time.Time) int {
	w.consumed += n
	if w.consumed < w.size/2 {
		return 0
	}
	t := now()
	grant := w.consumed
	if w.size < maxWindow && t.Sub(w.since) < 2*rtt && b.grow(w.size) {
		grant += w.size
		w.size *= 2
	}
	w.since = t
	w.consumed = 0
	w.left += grant
	return grant
}

// release gives the window back to the budget, once.
func (w *window) release(b *budget) {
	if w.size > minWindow {
		b.give(w.size - minWindow)
	}
	w.size = 0
}
