package routing

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/route"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

// fake is an Opener in a certain state.
type fake struct{ leaving, silent bool }

func (f *fake) Leaving() bool { return f.leaving }
func (f *fake) Silent() bool  { return f.silent }
func (f *fake) Open(context.Context, tunnel.Target) (*tunnel.Stream, error) {
	return nil, errors.New("not in this test")
}

// backend returns one for a route such as "example.com/api".
func backend(tb testing.TB, id, public string) *Backend {
	tb.Helper()
	u, err := route.Parse(public + "=http://127.0.0.1:1")
	if err != nil {
		tb.Fatal(err)
	}
	return &Backend{Opener: new(fake), ClientID: id, Upstream: u}
}

// add adds one backend for each route, and returns them.
func (t *Table) add(tb testing.TB, id string, public ...string) []*Backend {
	tb.Helper()
	var list []*Backend
	for _, p := range public {
		list = append(list, backend(tb, id, p))
	}
	if err := t.Add(list); err != nil {
		tb.Fatal(err)
	}
	return list
}

// name returns the name of the route that serves a URL without scheme, or "-".
func (t *Table) name(url string) string {
	host, path, _ := strings.Cut(url, "/")
	if r := t.Match(host, "/"+path); r != nil {
		return r.Name()
	}
	return "-"
}

func ids(backends []*Backend) string {
	var names []string
	for _, b := range backends {
		names = append(names, b.ClientID)
	}
	return strings.Join(names, "")
}

func TestServed(t *testing.T) {
	var table Table
	changes := 0
	table.Changed = func() {
		changes++
		table.Served() // no lock is held
	}
	served := func() string {
		hosts := table.Served()
		slices.Sort(hosts)
		return strings.Join(hosts, " ")
	}
	a := table.add(t, "a", "Example.com", "example.com/api", "*.example.com", "*", "192.0.2.1")
	b := table.add(t, "b", "example.com", "b.example")
	if got := served(); got != "192.0.2.1 b.example example.com" {
		t.Errorf("served: %s", got)
	}
	table.Remove(b)
	if got := served(); got != "192.0.2.1 example.com" {
		t.Errorf("without one client: %s", got)
	}
	table.Remove(a)
	if got := served(); got != "" || changes != 4 {
		t.Errorf("without any: %q, after %d changes", got, changes)
	}
}

func TestMatch(t *testing.T) {
	var table Table
	if r := table.Match("a.example", "/"); r != nil {
		t.Errorf("an empty table has %s", r.Name())
	}
	table.add(t, "a", "example.com", "example.com/api", "example.com/api/v2", "example.com/other/x", "*.example.com", "*.b.example.com/api",
		"*.b.example.com", "only.example.com/api", "[2001:DB8::0:1]", "192.0.2.1")
	for _, tt := range []struct{ url, want string }{
		{"example.com/", "example.com"},
		{"example.com/api", "example.com/api"},
		{"example.com/api/", "example.com/api"},
		{"example.com/api/x", "example.com/api"},
		{"example.com/api/v2/x", "example.com/api/v2"},
		{"example.com/api/v22", "example.com/api"},
		{"example.com/apis", "example.com"},
		{"example.com/API", "example.com"},
		{"example.com/other", "example.com"},
		{"a.example.com/", "*.example.com"},
		{"a.a.example.com/", "*.example.com"},
		{"a.b.example.com/", "*.b.example.com"},
		{"a.b.example.com/api/x", "*.b.example.com/api"},
		{"c.a.b.example.com/", "*.b.example.com"},
		{"b.example.com/", "*.example.com"},
		{"only.example.com/api", "only.example.com/api"},
		{"only.example.com/", "*.example.com"},
		{"[2001:db8::1]/", "[2001:db8::0:1]"},
		{"192.0.2.1/", "192.0.2.1"},
		{"com/", "-"}, {"xexample.com/", "-"}, {"example.org/", "-"}, {"/", "-"}, {"*/", "-"}, {"[::1]/", "-"},
	} {
		if got := table.name(tt.url); got != tt.want {
			t.Errorf("%s is served by %s, want %s", tt.url, got, tt.want)
		}
	}
	table.add(t, "b", "*/api")
	table.add(t, "b", "*")
	for _, tt := range []struct{ url, want string }{
		{"example.org/", "*"}, {"example.org/api", "*/api"}, {"/", "*"}, {"*/", "*"}, {"example.com/api", "example.com/api"}, {"only.example.com/", "*.example.com"},
	} {
		if got := table.name(tt.url); got != tt.want {
			t.Errorf("with a default, %s is served by %s, want %s", tt.url, got, tt.want)
		}
	}
}

func TestAddRefusesTCP(t *testing.T) {
	var table Table
	tcp, err := route.Parse("2222=localhost:22")
	if err != nil {
		t.Fatal(err)
	}
	err = table.Add([]*Backend{backend(t, "a", "example.com"), {Opener: new(fake), Upstream: tcp}})
	if err == nil || !strings.Contains(err.Error(), "2222=localhost:22") {
		t.Errorf("error is %v", err)
	}
	if got := table.name("example.com/"); got != "-" {
		t.Errorf("half of the routes were added: %s", got)
	}
}

func TestTurns(t *testing.T) {
	var table Table
	a := table.add(t, "a", "*")
	b := table.add(t, "b", "*")
	c := table.add(t, "c", "*")
	r := table.Match("x", "/")
	turns := func(n int) string {
		var order []string
		for range n {
			order = append(order, ids(r.Backends()))
		}
		return strings.Join(order, " ")
	}
	want := func(what, order string) {
		t.Helper()
		if got := turns(1 + strings.Count(order, " ")); got != order {
			t.Errorf("%s: %s, want %s", what, got, order)
		}
	}
	want("all", "abc bca cab abc bca cab")
	b[0].Opener.(*fake).leaving = true
	want("b leaves", "ac ca ca")
	a[0].Opener.(*fake).silent = true
	want("a is silent", "ca ca ca")
	c[0].Opener.(*fake).silent = true
	want("all are silent", "ac ca ca")
	c[0].Opener.(*fake).leaving = true
	want("c leaves too", "a a a")
	a[0].Opener.(*fake).leaving = true
	if got := r.Backends(); len(got) > 0 {
		t.Errorf("backends are %s", ids(got))
	}
	b[0].Opener.(*fake).leaving = false
	table.Remove(a)
	want("b is back", "b b b")
	r.next.Store(math.MaxInt32 - 1) // where an int of 32 bits ends
	want("after 2³¹ requests", "b b b b")
	r.next.Store(math.MaxUint32 - 1)
	want("after 2³² requests", "b b b b")
}

func TestAppendBackendsKeepsWhatIsThere(t *testing.T) {
	var table Table
	table.add(t, "a", "*")
	first := backend(t, "first", "*")
	if got := ids(table.Match("x", "/").AppendBackends([]*Backend{first})); got != "firsta" {
		t.Errorf("backends are %s", got)
	}
}

// clock is what the table takes for the time.
func clock(table *Table) (forward func(time.Duration)) {
	now := time.Unix(1_000_000, 0)
	table.now = func() time.Time { return now }
	return func(d time.Duration) { now = now.Add(d) }
}

func TestRoutesAreRemembered(t *testing.T) {
	var table Table
	forward := clock(&table)
	want := func(url, name string, backends int) {
		t.Helper()
		if got := table.name(url); got != name {
			t.Errorf("%s is served by %s, want %s", url, got, name)
		}
		if name == "-" {
			return
		}
		host, path, _ := strings.Cut(url, "/")
		if got := len(table.Match(host, "/"+path).Backends()); got != backends {
			t.Errorf("%s has %d backends, want %d", url, got, backends)
		}
	}
	one := table.add(t, "a", "example.com")
	two := table.add(t, "b", "example.com")
	table.Remove(one)
	want("example.com/", "example.com", 1)
	table.Remove(two)
	want("example.com/", "example.com", 0)
	forward(remember - time.Second)
	want("example.com/", "example.com", 0)
	forward(2 * time.Second)
	want("example.com/", "-", 0)
	table.Remove(table.add(t, "c", "c.example")) // sweeps
	if len(table.hosts) != 1 || table.idle != 1 {
		t.Errorf("%d hosts and %d idle routes are kept", len(table.hosts), table.idle)
	}
	table.add(t, "c", "c.example")
	want("c.example/", "c.example", 1)
	if table.idle != 0 {
		t.Errorf("%d routes are idle", table.idle)
	}
	forward(2 * remember)
	want("c.example/", "c.example", 1)
}

// TestOthersStandInForAbsentRoutes is about a client that comes back with other routes:
// those that it had must not hide those that it has, for longer than a reconnect takes.
func TestOthersStandInForAbsentRoutes(t *testing.T) {
	var table Table
	forward := clock(&table)
	table.add(t, "a", "*", "example.com")
	gone := table.add(t, "b", "example.com/api", "www.example.com", "*.example.com")
	table.Remove(gone)
	for _, url := range []string{"example.com/api", "www.example.com/", "x.example.com/"} {
		host, path, _ := strings.Cut(url, "/")
		if r := table.Match(host, "/"+path); r == nil || len(r.Backends()) > 0 {
			t.Errorf("%s goes to another while its client may be reconnecting", url)
		}
	}
	forward(hold)
	for url, want := range map[string]string{"example.com/api": "example.com", "www.example.com/": "*", "x.example.com/": "*"} {
		if got := table.name(url); got != want {
			t.Errorf("after a while %s is served by %s, want %s", url, got, want)
		}
	}
	table.add(t, "b", "www.example.com")
	if got := table.name("www.example.com/"); got != "www.example.com" {
		t.Errorf("the route that is back is %s", got)
	}
}

func TestTheMostSpecificAbsentRouteIsNamed(t *testing.T) {
	var table Table
	forward := clock(&table)
	table.Remove(table.add(t, "a", "*", "*.example.com", "a.example.com", "a.example.com/api"))
	forward(hold)
	for url, want := range map[string]string{"a.example.com/api": "a.example.com/api", "a.example.com/": "a.example.com", "b.example.com/": "*.example.com", "x/": "*"} {
		if got := table.name(url); got != want {
			t.Errorf("%s belongs to %s, want %s", url, got, want)
		}
	}
}

func TestNotTooManyRoutesAreRemembered(t *testing.T) {
	var table Table
	clock(&table)
	stays := table.add(t, "a", "stays.example")
	for i := range maxIdle + 1 {
		table.Remove(table.add(t, "b", fmt.Sprintf("h%d.example", i)))
	}
	if len(table.hosts) != 1 || table.idle != 0 {
		t.Errorf("%d hosts and %d idle routes are kept", len(table.hosts), table.idle)
	}
	if got := table.name("stays.example/"); got != "stays.example" {
		t.Errorf("the route in use is %s", got)
	}
	table.Remove(stays)
	table.Remove(stays) // does nothing
	table.Remove([]*Backend{backend(t, "x", "never.example")})
	if len(table.hosts) != 1 || table.idle != 1 {
		t.Errorf("%d hosts and %d idle routes are kept", len(table.hosts), table.idle)
	}
}

func TestTableIsSafeForConcurrentUse(t *testing.T) {
	var table Table
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 200 {
				list := table.add(t, "a", "example.com", fmt.Sprintf("h%d.example.com/api", i))
				if r := table.Match("example.com", "/x"); r == nil {
					t.Error("no route")
				} else {
					_ = r.Backends()
				}
				table.Remove(list)
			}
		})
	}
	wg.Wait()
	if r := table.Match("example.com", "/"); len(r.Backends()) != 0 {
		t.Errorf("backends are left: %s", ids(r.Backends()))
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	var table Table
	table.add(t, "a", "*")
	if n := testing.AllocsPerRun(100, func() { table.Match("a.rather.long.host.name.example.com", "/x") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// A backend that waits for its service gets nobody, and its route keeps its requests.
func TestWaiting(t *testing.T) {
	var table Table
	table.add(t, "default", "*")
	var all []*Backend
	for _, id := range []string{"a", "b", "c"} {
		all = append(all, table.add(t, id, "example.com")...)
	}
	r := table.Match("example.com", "/")
	if r.Waits() {
		t.Error("nobody waits yet")
	}
	all[1].Opener.(*fake).silent = true
	if !all[0].SetWaiting(true) || all[0].SetWaiting(true) || !all[0].Waiting() || !r.Waits() {
		t.Error("waiting is not kept")
	}
	for range 3 {
		if got := ids(r.Backends()); got != "cb" {
			t.Errorf("backends are %s", got)
		}
	}
	all[1].SetWaiting(true)
	all[2].SetWaiting(true)
	if got := ids(r.Backends()); got != "" || table.name("example.com/") != "example.com" {
		t.Errorf("backends are %q, of %s", got, table.name("example.com/"))
	}
	for _, b := range all {
		b.Opener.(*fake).leaving = true
	}
	if r.Waits() {
		t.Error("who leaves is not waited for")
	}
	for _, b := range all {
		b.Opener.(*fake).leaving = false
		b.SetWaiting(false)
	}
	if got := r.Backends(); len(got) != 3 || r.Waits() {
		t.Errorf("backends are %s", ids(got))
	}
}
