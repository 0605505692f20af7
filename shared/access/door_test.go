package access

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/auth"
)

var nopLog = zerolog.Nop()

// visits is a door with what it told the outside.
type visits struct {
	*Door
	policy *Policy
	counts map[string]int
	log    bytes.Buffer
}

func newVisits() *visits {
	v := &visits{counts: map[string]int{}, policy: &Policy{Creds: NewCredentials([]string{"ann:correct", "bob:another"}, nil)}}
	v.Door = NewDoor(nil, func(reason string) { v.counts[reason]++ }, zerolog.New(&v.log))
	return v
}

// visit returns why a visitor does not get in, "" if he does, and how long he is to wait.
func (v *visits) visit(addr string, lines ...string) (string, time.Duration) {
	a := netip.MustParseAddr(addr)
	verdict := v.Check(v.policy, a, lines)
	if verdict.Admits() {
		return "", 0
	}
	return v.Refuse(verdict, a, "example.com")
}

func (v *visits) want(t *testing.T, reason, addr string, lines ...string) {
	t.Helper()
	if got, _ := v.visit(addr, lines...); got != reason {
		t.Errorf("%s %q: got %q, want %q", addr, lines, got, reason)
	}
}

const (
	theirs = "192.0.2.7"
	other  = "192.0.2.8"
)

// TestDoor follows an attacker who shares his address with those who know.
func TestDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisits()
		v.want(t, "", theirs, basic("ann:correct")) // before the attack
		for range 100 {
			v.want(t, Missing, theirs) // as browsers begin: no failure
		}
		for i := range auth.FreeFailures {
			v.want(t, Wrong, theirs, basic(fmt.Sprint("ann:guess", i)))
		}
		for range 50 {
			if reason, wait := v.visit(theirs, basic("ann:guess")); reason != Throttled || wait <= 0 {
				t.Fatalf("got %q %s", reason, wait)
			}
		}
		v.want(t, Throttled, theirs, "Basic nonsense")
		v.want(t, "", theirs, basic("ann:correct"))        // who was there before stays
		v.want(t, Throttled, theirs, basic("bob:another")) // a right guess is no use
		v.want(t, "", other, basic("bob:another"))         // from elsewhere it is
		v.want(t, Throttled, theirs, basic("bob:another"))
		v.want(t, Missing, theirs)
		if want := (map[string]int{Missing: 101, Wrong: auth.FreeFailures, Throttled: 53}); !maps.Equal(v.counts, want) {
			t.Errorf("counted %v, want %v", v.counts, want)
		}
		<-time.After(time.Second)
		v.want(t, "", theirs, basic("bob:another"))
		v.want(t, Wrong, theirs, basic("ann:guess"))
		v.want(t, "", theirs, basic("bob:another")) // and now he is known, too
		if got := v.log.String(); strings.Contains(got, "guess") || strings.Contains(got, "correct") || !strings.Contains(got, `"level":"warn","visitor":"192.0.2.7","route":"example.com","reason":"wrong"`) {
			t.Errorf("logged %s", got)
		}
	})
}

func TestDoorForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisits()
		v.want(t, "", theirs, basic("ann:correct"))
		<-time.After(forget + time.Second)
		for range auth.FreeFailures {
			v.want(t, Wrong, theirs, basic("ann:guess"))
		}
		v.want(t, Throttled, theirs, basic("ann:correct"))
	})
}

// TestDoorIsBounded has more visitors than are remembered: those who came last are.
func TestDoorIsBounded(t *testing.T) {
	v := newVisits()
	addr := netip.MustParseAddr("10.0.0.0")
	for range maxKnown + 100 {
		v.Check(v.policy, addr, []string{basic("ann:correct")})
		addr = addr.Next()
	}
	if n := len(v.known.uses); n != maxKnown || v.known.recent.Len() != n {
		t.Errorf("%d are remembered, and %d in their order", n, v.known.recent.Len())
	}
	if !v.known.has(v.known.key(addr.Prev(), []byte("ann:correct"))) || v.known.has(v.known.key(netip.MustParseAddr("10.0.0.0"), []byte("ann:correct"))) {
		t.Error("the wrong ones are remembered")
	}
}

// TestDoorLogs bounds what visitors can have logged.
func TestDoorLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisits()
		v.policy = &Policy{Allow: networks(t, "10.0.0.0/8")}
		for range 2 * maxTold {
			v.want(t, Address, theirs)
		}
		if n := strings.Count(v.log.String(), `"level":"warn"`); n != maxTold {
			t.Errorf("%d warnings", n)
		}
		<-time.After(time.Minute)
		v.want(t, Address, theirs)
		if n := strings.Count(v.log.String(), `"level":"warn"`); n != maxTold+1 {
			t.Errorf("%d warnings a minute later", n)
		}
	})
}

// TestDoorShared has many visitors at once, for the race detector, while the policy changes.
func TestDoorShared(t *testing.T) {
	v := newVisits()
	d := NewDoor(v.policy, nil, nopLog)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			for range 200 {
				if got := d.Check(d.All(), addr, []string{basic("ann:correct")}); !got.Admits() {
					t.Errorf("who knows is refused: %s", got.Reason)
				}
				d.Refuse(d.Check(d.All(), addr, []string{basic("ann:guess")}), addr, "*")
				d.Set(v.policy)
			}
		})
	}
	wg.Wait()
}

func TestDoorSet(t *testing.T) {
	var none *Door
	d := NewDoor(&Policy{}, nil, nopLog)
	if none.All() != nil || d.All() != nil {
		t.Error("there is a policy for all")
	}
	p := &Policy{Allow: networks(t, "::1")}
	if d.Set(p); d.All() != p {
		t.Error("the policy for all is not taken over")
	}
}
