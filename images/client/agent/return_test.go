package agent

import (
	"errors"
	"testing"
	"time"
)

// TestReturnAfterCrash sees many clients of one server come back over the time that it
// asked for, and one that never was connected not wait for it.
func TestReturnAfterCrash(t *testing.T) {
	const clients, over = 1000, 10 * time.Second
	crash := errors.New("connection lost")
	const attempts = 2 // the first may find nobody there yet
	var seconds [attempts]map[time.Duration]int
	for i := range seconds {
		seconds[i] = map[time.Duration]int{}
	}
	for range clients {
		b := backoff{delays: defaultDelays}
		b.connected(over)
		for i := range attempts {
			wait := b.after(crash)
			if wait > over {
				t.Fatalf("came back after %s", wait)
			}
			seconds[i][wait.Truncate(time.Second)]++
		}
	}
	for i := range seconds {
		for at, n := range seconds[i] {
			if n > clients/4 {
				t.Errorf("attempt %d: %d of %d came back in the second at %s", i+1, n, clients, at)
			}
		}
	}
	for range clients {
		b := backoff{delays: defaultDelays}
		if wait := b.after(crash); wait > defaultDelays.first {
			t.Fatalf("waited %s before the second attempt", wait)
		}
	}
}
