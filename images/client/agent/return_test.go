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
	seconds := map[time.Duration]int{}
	for range clients {
		b := backoff{delays: defaultDelays}
		b.connected(over)
		wait := b.after(crash)
		if wait > over {
			t.Fatalf("came back after %s", wait)
		}
		seconds[wait.Truncate(time.Second)]++
		if again := b.after(crash); again > 2*defaultDelays.first {
			t.Fatalf("second attempt after %s", again)
		}
	}
	for at, n := range seconds {
		if n > clients/4 {
			t.Errorf("%d of %d came back in the second at %s", n, clients, at)
		}
	}
	for range clients {
		b := backoff{delays: defaultDelays}
		if wait := b.after(crash); wait > defaultDelays.first {
			t.Fatalf("waited %s before the second attempt", wait)
		}
	}
}
