package tunnel

import (
	"runtime/debug"
	"sync"
	"time"
)

// trims is for all sessions of the process, and all relays at rest.
var trims trimmer

// trimmer gives memory back to the system when many have come: what they needed to connect,
// or while they were at work. Left alone the runtime keeps as much again as is in use.
type trimmer struct {
	mu    sync.Mutex
	there int         // who is idle, or may be
	came  int         // since memory was given back
	timer *time.Timer // it is about to be; or nil
}

const (
	trimFrom  = 256 // who have come, and a quarter of those that are there
	trimDelay = 30 * time.Second
)

func (t *trimmer) add() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.there++
	if t.came++; t.came >= max(trimFrom, t.there/4) && t.timer == nil {
		t.timer = time.AfterFunc(trimDelay, t.trim)
	}
}

func (t *trimmer) remove() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.there--
}

func (t *trimmer) trim() {
	debug.FreeOSMemory()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.came, t.timer = 0, nil
}
