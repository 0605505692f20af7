package agent

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-tunnel/adit/shared/autotls"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

var errLost = errors.New("lost")

// most returns the longest of many waits, and wants them to be spread from zero on.
func most(t testing.TB, wait func() time.Duration) time.Duration {
	t.Helper()
	least, longest := time.Duration(1<<62), time.Duration(0)
	for range 2000 {
		w := wait()
		least, longest = min(least, w), max(longest, w)
	}
	if least > longest/20 {
		t.Errorf("waits from %s to %s: they are not spread", least, longest)
	}
	return longest
}

// near reports whether the longest of many random waits belongs to the limit.
func near(got, limit time.Duration) bool { return got < limit && got > limit*9/10 }

// TestFullJitter doubles the limit with every attempt, up to the most.
func TestFullJitter(t *testing.T) {
	for attempts, limit := range map[int]time.Duration{
		0: 500 * time.Millisecond, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: 30 * time.Second, 15: 30 * time.Second, 16: 30 * time.Second, 1000: 30 * time.Second,
	} {
		got := most(t, func() time.Duration {
			b := backoff{delays: defaultDelays, attempts: attempts}
			return b.after(errLost)
		})
		if !near(got, limit) {
			t.Errorf("attempt %d waits up to %s, want %s", attempts, got, limit)
		}
	}
	b := backoff{delays: defaultDelays}
	for i := range 10 {
		b.after(errLost)
		if b.attempts != i+1 {
			t.Fatalf("%d attempts after %d", b.attempts, i+1)
		}
	}
}

// TestStable starts anew only after a connection that lasted.
func TestStable(t *testing.T) {
	for _, c := range []struct {
		lasted time.Duration
		want   int // attempts
	}{
		{0, 8}, {59 * time.Second, 8}, {time.Minute, 1}, {time.Hour, 1},
	} {
		for name, end := range map[string]func(*backoff){
			"lost":    func(b *backoff) { b.after(errLost) },
			"go away": func(b *backoff) { b.afterGoAway(tunnel.GoAway{}) },
		} {
			synctest.Test(t, func(t *testing.T) {
				b := backoff{delays: defaultDelays, attempts: 7}
				b.connected(0)
				time.Sleep(c.lasted) // of the bubble's clock
				end(&b)
				if b.attempts != c.want {
					t.Errorf("%s after %s: %d attempts, want %d", name, c.lasted, b.attempts, c.want)
				}
				// What lasted counts once.
				time.Sleep(time.Hour)
				before := b.attempts
				b.after(errLost)
				if b.attempts != before+1 {
					t.Errorf("%s after %s: %d attempts after %d", name, c.lasted, b.attempts, before)
				}
			})
		}
	}
}

// TestReturnIsBounded has a server want its clients back over a time that is too long.
func TestReturnIsBounded(t *testing.T) {
	got := most(t, func() time.Duration {
		b := backoff{delays: defaultDelays}
		b.connected(time.Hour)
		return b.after(errLost)
	})
	if !near(got, 30*time.Second) {
		t.Errorf("waits up to %s", got)
	}
}

func TestPermanent(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&RefusedError{Status: 400}, true},
		{&RefusedError{Status: 401}, true},
		{&RefusedError{Status: 403}, true},
		{fmt.Errorf("wrapped: %w", &RefusedError{Status: 426}), true},
		{&RefusedError{Status: 404}, false},
		{&RefusedError{Status: 409}, false},
		{&RefusedError{Status: 429}, false},
		{&RefusedError{Status: 500}, false},
		{&RefusedError{Status: 502}, false},
		{&RefusedError{Status: 503}, false},
		{fmt.Errorf("wrapped: %w", autotls.ErrUntrusted), true},
		{autotls.ErrNoCA, true},
		{autotls.ErrPlainHTTP, true},
		{autotls.ErrIntercepted, false},
		{errLost, false},
	} {
		if permanent(c.err) != c.want {
			t.Errorf("%v is permanent: %v", c.err, !c.want)
		}
		b := backoff{delays: defaultDelays}
		if wait := b.after(c.err); c.want != (wait >= 30*time.Second) || wait > time.Minute {
			t.Errorf("%v: wait %s", c.err, wait)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "5": 5 * time.Second, "120": 2 * time.Minute, "-5": 0, "+5": 0, "5s": 0, "1.5": 0, "99999999999999999999": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:04:00 GMT": 0, "soon": 0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q is %s, want %s", value, got, want)
		}
	}
	for asked, want := range map[time.Duration]time.Duration{5 * time.Second: 5 * time.Second, 2 * time.Minute: 2 * time.Minute, 24 * time.Hour: maxHint} {
		b := backoff{delays: defaultDelays}
		if got := b.after(&RefusedError{Status: 503, RetryAfter: asked}); got < want || got >= want+500*time.Millisecond {
			t.Errorf("asked for %s: %s", asked, got)
		}
	}
}

// TestHint does what a server that leaves asks for.
func TestHint(t *testing.T) {
	minute, day := time.Minute, 24*time.Hour
	for _, c := range []struct {
		name        string
		attempts    int
		hint        tunnel.GoAway
		least, most time.Duration
	}{
		{"at once", 0, tunnel.GoAway{}, 0, 1},
		{"after a time", 0, tunnel.GoAway{After: minute}, minute, minute + 1},
		{"within a time", 0, tunnel.GoAway{Jitter: minute}, 0, minute},
		{"both", 0, tunnel.GoAway{After: minute, Jitter: minute}, minute, 2 * minute},
		{"too long", 0, tunnel.GoAway{After: day, Jitter: day}, maxHint, 2 * maxHint},
		{"again and again", 3, tunnel.GoAway{}, 0, 4 * time.Second},
		{"again and again, after a time", 3, tunnel.GoAway{After: minute}, minute, minute + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.least + most(t, func() time.Duration {
				b := backoff{delays: defaultDelays, attempts: c.attempts}
				wait := b.afterGoAway(c.hint)
				if wait < c.least || wait >= c.most {
					t.Fatalf("wait %s", wait)
				}
				if b.attempts != c.attempts+1 {
					t.Fatalf("%d attempts after %d", b.attempts, c.attempts)
				}
				return wait - c.least
			})
			if c.most > c.least+1 && !near(got-c.least, c.most-c.least) {
				t.Errorf("waits up to %s, want %s", got, c.most)
			}
		})
	}
}

// TestJitter of nothing is nothing.
func TestJitter(t *testing.T) {
	if jitter(0) != 0 || jitter(-time.Second) != 0 || jitter(1) != 0 {
		t.Error("it waits")
	}
}
