package rawio

import (
	"testing"
	"time"
)

// TestWide has all wide buffers in use: nobody gets another until one is given back.
func TestWide(t *testing.T) {
	taken := 0
	for TakeWide() {
		taken++
	}
	if taken > wideMost {
		t.Errorf("%d at once, want at most %d", taken, wideMost)
	}
	if TakeWide() {
		t.Error("one too many")
	}
	GiveWide()
	if !TakeWide() {
		t.Error("none although one was given back")
	}
	for range taken {
		GiveWide()
	}
	if n := wide.Load(); n != 0 {
		t.Errorf("%d in use at the end", n)
	}
}

// TestPace is about who is worth a wide buffer.
func TestPace(t *testing.T) {
	var p Pace
	now := time.Hour
	for i, step := range []struct {
		after time.Duration
		n     int
		fast  bool
	}{
		{0, 128 << 10, false}, // the first
		{time.Millisecond, 128 << 10, true},
		{time.Second, 128 << 10, false},
		{time.Millisecond, 1 << 10, false},
		{7 * time.Millisecond, 512 << 10, true},
		{9 * time.Millisecond, 512 << 10, false},
	} {
		now += step.after
		if got := p.fast(step.n, now); got != step.fast {
			t.Errorf("step %d: fast is %v", i, got)
		}
	}
}
