package auth

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

const (
	// FreeFailures is how many failed authentications an address has before it is slowed down: a person who
	// mistypes, a client that was restarted a few times with an old token.
	FreeFailures = 10
	// MaxDelay is the longest an address is made to wait.
	MaxDelay = time.Minute
	// forget is how long after its last failure an address is as good as new.
	forget = 10 * time.Minute
	// maxAddresses bounds the memory: about 200 bytes each. Beyond it the address whose last failure is the
	// oldest is forgotten; who owns that many addresses is not slowed down by any table.
	maxAddresses = 4096
)

// Throttle slows down failed authentications per address: after FreeFailures of them an address has to wait a
// second before the next attempt is looked at, then two, four and so on up to MaxDelay. Ten minutes without a
// failure forgive all. An IPv6 address counts with its /64, which is what one customer gets; an IPv4 address
// counts as itself, also when it is written as IPv6. Memory is bounded.
//
// It knows nothing of tokens: ask it only about requests whose token is not valid, so that a valid one never
// waits. It is safe for concurrent use.
type Throttle struct {
	mu      sync.Mutex
	entries map[netip.Prefix]*list.Element
	recent  *list.List // of *failures, the most recent first
}

type failures struct {
	key   netip.Prefix
	count int
	last  time.Time
	until time.Time
}

// NewThrottle returns a Throttle that has seen no failure.
func NewThrottle() *Throttle {
	return &Throttle{entries: make(map[netip.Prefix]*list.Element), recent: list.New()}
}

// Delay returns how long the address still has to wait, 0 if it need not.
func (t *Throttle) Delay(addr netip.Addr) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e, ok := t.entries[Network(addr)]; ok {
		return e.Value.(*failures).wait(time.Now())
	}
	return 0
}

// Fail counts a failure of the address and returns 0, or, while the address still has to wait, returns for how
// long and counts nothing: a client that retries too fast is told again what is wrong when its time is up.
func (t *Throttle) Fail(addr netip.Addr) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	key := Network(addr)
	e, ok := t.entries[key]
	if !ok {
		if t.recent.Len() >= maxAddresses {
			oldest := t.recent.Back()
			delete(t.entries, oldest.Value.(*failures).key)
			t.recent.Remove(oldest)
		}
		e = t.recent.PushFront(&failures{key: key})
		t.entries[key] = e
	}
	t.recent.MoveToFront(e)
	f := e.Value.(*failures)
	if wait := f.wait(now); wait > 0 {
		return wait
	}
	if now.Sub(f.last) >= forget {
		f.count = 0
	}
	f.count++
	f.last = now
	if over := f.count - FreeFailures; over >= 0 {
		delay := MaxDelay
		if over < 6 { // 1 s << 6 is beyond MaxDelay already
			delay = time.Second << over
		}
		f.until = now.Add(delay)
	}
	return 0
}

func (f *failures) wait(now time.Time) time.Duration { return max(0, f.until.Sub(now)) }

// Network returns the network that an address is counted with: its /64, or itself for IPv4. Addresses that are
// not known share one.
func Network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap()
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
