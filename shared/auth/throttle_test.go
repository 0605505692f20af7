package auth

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestThrottleDelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := NewThrottle()
		a := netip.MustParseAddr("192.0.2.1")
		for range FreeFailures - 1 {
			th.Fail(a)
			if d := th.Delay(a); d != 0 {
				t.Fatalf("delayed by %v while failures are free", d)
			}
		}
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			want *= time.Second
			if d := th.Fail(a); d != 0 {
				t.Fatalf("Fail = %v, want 0", d)
			}
			if d := th.Delay(a); d != want {
				t.Fatalf("Delay = %v, want %v", d, want)
			}
			if d := th.Fail(a); d != want { // not counted, not extended
				t.Fatalf("Fail while waiting = %v, want %v", d, want)
			}
			<-time.After(want)
			if d := th.Delay(a); d != 0 {
				t.Fatalf("Delay = %v after waiting %v", d, want)
			}
		}
		<-time.After(forget)
		th.Fail(a)
		if d := th.Delay(a); d != 0 {
			t.Fatalf("Delay = %v: old failures are not forgotten", d)
		}
	})
}

func TestThrottleAddresses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		fails    string
		asks     string
		together bool
	}{
		{name: "same", fails: "192.0.2.1", asks: "192.0.2.1", together: true},
		{name: "neighbour", fails: "192.0.2.1", asks: "192.0.2.2"},
		{name: "mapped", fails: "192.0.2.1", asks: "::ffff:192.0.2.1", together: true},
		{name: "mapped neighbour", fails: "::ffff:192.0.2.1", asks: "::ffff:192.0.2.2"},
		{name: "same /64", fails: "2001:db8::1", asks: "2001:db8::ffff:1", together: true},
		{name: "other /64", fails: "2001:db8::1", asks: "2001:db8:0:1::1"},
		{name: "zone", fails: "fe80::1%eth0", asks: "fe80::1%eth1", together: true},
		{name: "unknown", fails: "", asks: "", together: true},
		{name: "unknown and known", fails: "", asks: "0.0.0.0"},
	}
	addr := func(s string) netip.Addr {
		if s == "" {
			return netip.Addr{}
		}
		return netip.MustParseAddr(s)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			th := NewThrottle()
			for range FreeFailures {
				th.Fail(addr(tt.fails))
			}
			if got := th.Delay(addr(tt.asks)) > 0; got != tt.together {
				t.Fatalf("delayed: %v, want %v", got, tt.together)
			}
		})
	}
}

func TestThrottleMemoryIsBounded(t *testing.T) {
	t.Parallel()
	th := NewThrottle()
	v4 := func(i int) netip.Addr {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(i))
		return netip.AddrFrom4(b)
	}
	keep := netip.MustParseAddr("2001:db8::1")
	for i := range 3 * maxAddresses {
		th.Fail(v4(i))
		if i%1000 == 0 {
			th.Fail(keep)
		}
	}
	if len(th.entries) != maxAddresses || th.recent.Len() != maxAddresses {
		t.Fatalf("%d entries, %d in the list, want %d", len(th.entries), th.recent.Len(), maxAddresses)
	}
	if th.Delay(keep) == 0 {
		t.Error("an address that keeps failing was forgotten")
	}
	if th.Delay(v4(0)) != 0 {
		t.Error("the oldest address was not forgotten")
	}
}

func TestThrottleConcurrent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // no time passes while there is work to do
		th := NewThrottle()
		a := netip.MustParseAddr("192.0.2.1")
		var wg sync.WaitGroup
		var counted atomic.Int64
		for range 8 {
			wg.Go(func() {
				for range 50 {
					if th.Fail(a) == 0 {
						counted.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if n := counted.Load(); n != FreeFailures {
			t.Fatalf("%d failures of 400 at the same moment were counted, want %d", n, FreeFailures)
		}
	})
}
