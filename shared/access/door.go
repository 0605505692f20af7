package access

import (
	"container/list"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/auth"
)

// Door is where a server lets visitors in: by a policy for all of them, and then by that of
// the upstream that they want. It slows down guessing without locking out those who know:
//
//   - Who presents no credentials is told what is asked for. That is how every visit of a
//     browser begins, and no failure.
//   - After auth.FreeFailures wrong ones an address has to wait before the next is looked at,
//     longer each time (see [auth.Throttle]). A right one has to wait then, too, or guessing
//     would not be slowed down at all.
//   - But credentials that have admitted somebody from that address before go on to admit at
//     once: an attacker cannot lock out those who share his address, such as a company behind
//     one NAT. Only who comes there for the first time in the midst of an attack has to wait.
//
// Memory is bounded. All methods may be called by any goroutine.
type Door struct {
	all      atomic.Pointer[Policy]
	throttle *auth.Throttle
	known    known
	count    func(reason string)
	told     told
	log      zerolog.Logger
}

// NewDoor returns a Door with a policy for all, nil for none. count, which may be nil, is
// told of every refusal.
func NewDoor(all *Policy, count func(reason string), log zerolog.Logger) *Door {
	d := &Door{throttle: auth.NewThrottle(), count: count, log: log, known: known{seed: maphash.MakeSeed()}}
	d.Set(all)
	return d
}

// Set replaces the policy for all.
func (d *Door) Set(all *Policy) {
	if all.IsZero() {
		all = nil
	}
	d.all.Store(all)
}

// All returns the policy for all, nil if there is none.
func (d *Door) All() *Policy {
	if d == nil {
		return nil
	}
	return d.all.Load()
}

// Check says whether p admits a request from the address with these Authorization lines. A
// refusal is to be handed to Refuse, once for each request.
func (d *Door) Check(p *Policy, addr netip.Addr, authorization []string) Verdict {
	return p.check(addr, authorization, d)
}

// Refuse accounts for a request that was refused: it counts the failure against the address,
// tells the counter, and logs. It returns the reason to give, which may now be Throttled,
// and then how long to wait.
func (d *Door) Refuse(v Verdict, addr netip.Addr, route string) (reason string, wait time.Duration) {
	reason = v.Reason
	switch reason {
	case Wrong, Malformed:
		if wait = d.throttle.Fail(addr); wait > 0 {
			reason = Throttled
		}
	case Throttled:
		wait = max(d.throttle.Delay(addr), time.Second)
	}
	if d.count != nil {
		d.count(reason)
	}
	level := zerolog.DebugLevel // a browser's first request, or what is slowed down
	if (reason == Address || reason == Wrong || reason == Malformed) && d.told.one(time.Now()) {
		level = zerolog.WarnLevel
	}
	d.log.WithLevel(level).Stringer("visitor", addr).Str("route", route).Str("reason", reason).Msg("visitor refused")
	return reason, wait
}

// maxTold bounds the warnings about visitors in a minute: they are the visitors' to cause.
const maxTold = 60

// told counts warnings.
type told struct {
	mu    sync.Mutex
	since time.Time
	n     int
}

// one reports whether there may be another.
func (t *told) one(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.since) >= time.Minute {
		t.since, t.n = now, 0
	}
	t.n++
	return t.n <= maxTold
}

const (
	// maxKnown bounds what is known of credentials and addresses, at some 200 bytes each.
	// Beyond it what was used least lately is forgotten.
	maxKnown = 8192
	// forget is how long after their last use credentials are no longer known.
	forget = 24 * time.Hour
)

// known remembers which credentials have admitted somebody from which address.
type known struct {
	seed   maphash.Seed
	mu     sync.Mutex
	uses   map[knownKey]*list.Element
	recent list.List // of use, the most recent first
}

type knownKey struct {
	net        netip.Prefix
	credential uint64 // under a seed of this process. It only saves right ones a wait.
}

type use struct {
	key  knownKey
	last time.Time
}

func (k *known) key(addr netip.Addr, credential []byte) knownKey {
	return knownKey{auth.Network(addr), maphash.Bytes(k.seed, credential)}
}

func (k *known) has(key knownKey) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.uses[key]
	if !ok {
		return false
	}
	u, now := e.Value.(*use), time.Now()
	if now.Sub(u.last) > forget {
		k.recent.Remove(e)
		delete(k.uses, key)
		return false
	}
	u.last = now
	k.recent.MoveToFront(e)
	return true
}

func (k *known) add(key knownKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.uses[key]; ok {
		return
	}
	if k.uses == nil {
		k.uses = map[knownKey]*list.Element{}
	}
	if k.recent.Len() >= maxKnown {
		oldest := k.recent.Back()
		delete(k.uses, oldest.Value.(*use).key)
		k.recent.Remove(oldest)
	}
	k.uses[key] = k.recent.PushFront(&use{key, time.Now()})
}
