package tunnel

import (
	"testing"
	"time"
)

// TestBulky is about streams that send 1 MiB in steps of 64 KiB, over and over.
func TestBulky(t *testing.T) {
	for _, tt := range []struct {
		name   string
		rtt    time.Duration
		step   time.Duration // from one to the next
		turned bool
		steps  int
		want   int // the step with which it is bulky, 0 for none
	}{
		{name: "near", rtt: time.Millisecond, step: time.Microsecond, steps: 64, want: 16},
		{name: "near and slow", rtt: time.Millisecond, step: time.Second, steps: 64},
		{name: "far and over soon", rtt: 100 * time.Millisecond, step: 10 * time.Millisecond, steps: 128},
		{name: "far and long", rtt: 100 * time.Millisecond, step: 10 * time.Millisecond, steps: 256, want: 201},
		{name: "far and slow", rtt: 100 * time.Millisecond, step: 200 * time.Millisecond, steps: 64, want: 16},
		{name: "a turn for each step", rtt: 100 * time.Millisecond, step: 10 * time.Millisecond, turned: true, steps: 256, want: 201},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bulk
			at, got := time.Duration(0), 0
			for i := 1; i <= tt.steps && got == 0; i++ {
				if b.add(64<<10, 1<<20, tt.turned, tt.rtt, func() time.Duration { return at }) {
					got = i
				}
				at += tt.step
			}
			if got != tt.want {
				t.Errorf("bulky with step %d, want %d", got, tt.want)
			}
		})
	}
}
