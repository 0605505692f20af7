//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
)

// place says where the next visitor goes, for HTTP and for TCP.
type place func() (web, tcp string)

// everybody is every kind of visitor at once.
func everybody(t testing.TB, where place) []*traffic {
	keep, once := newVisitor(t, true), newVisitor(t, false)
	posted := strings.Repeat("posted ", 5000)
	hash := hashOf(strings.NewReader(posted))
	visit := func(client *http.Client, method, path, body, want string) func(int, int) error {
		return func(int, int) error {
			web, _ := where()
			if err := fetch(client, method, "http://"+web+path, body, want); err != nil {
				return fmt.Errorf("at %s: %w", web, err)
			}
			return nil
		}
	}
	return []*traffic{
		startTraffic(t, "GET", 2, 10*time.Millisecond, visit(keep, "GET", "/hello", "", "hello")),
		startTraffic(t, "GET, a connection each", 1, 20*time.Millisecond, visit(once, "GET", "/hello", "", "hello")),
		startTraffic(t, "slow GET", 4, time.Millisecond, visit(keep, "GET", "/slow", "", strings.Repeat(slowPart, 10))),
		startTraffic(t, "POST", 1, 20*time.Millisecond, visit(keep, "POST", "/hash", posted, hash)),
		startTraffic(t, "TCP", 5, 20*time.Millisecond, func(worker, _ int) error {
			_, tcp := where()
			if err := stream(dialer(tcp), time.Duration(1+400*worker)*time.Millisecond); err != nil {
				return fmt.Errorf("at %s: %w", tcp, err)
			}
			return nil
		}),
	}
}

// awaitAll waits until every kind of visitor has come a few times more.
func awaitAll(all []*traffic) {
	for _, l := range all {
		l.await(6)
	}
}

// rounds is how often a test replaces each of two programs.
var rounds = pick(1, 10)

// TestChaosRollingClients replaces two clients in turn, as a rolling update does, and loses nothing.
func TestChaosRollingClients(t *testing.T) {
	t.Parallel()
	public := freeport.New(t)
	upstreams := fmt.Sprintf("http://%s,%d=%s", newApp(t), public, newEcho(t))
	s := startServer(t, chaosEnv()...)
	clients := make([]*program, 2)
	for i := range clients {
		clients[i] = startClient(t, s, upstreams, chaosEnv()...)
		clients[i].await("connected")
	}
	all := everybody(t, func() (string, string) { return s.data, fmt.Sprint("127.0.0.1:", public) })
	awaitAll(all)
	for range rounds {
		for i, old := range clients {
			stopped := make(chan struct{})
			go func() {
				old.stop() // says so if it is not a success
				close(stopped)
			}()
			old.await("draining")
			clients[i] = startClient(t, s, upstreams, chaosEnv()...)
			clients[i].await("connected")
			<-stopped
			awaitAll(all)
		}
	}
	for _, l := range all {
		l.mustBeFlawless(visitTimeout)
	}
	s.never("client refused")
}

// replica is one of the servers behind a load balancer, which asks it whether it is ready.
type replica struct {
	*server
	tcp   string
	ready atomic.Bool
}

// balance keeps asking the replicas, which are to have so many clients, and returns where to go.
func balance(t testing.TB, replicas []*replica, clients int) place {
	var turn atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	probe := func(urls []string) {
		for i, r := range replicas {
			r.ready.Store(answers(urls[i], "ready") == nil)
		}
	}
	urls := make([]string, len(replicas))
	for i, r := range replicas {
		urls[i] = fmt.Sprintf("http://%s/readyz?clients=%d", r.metrics, clients) // stays where it is
	}
	probe(urls)
	go func() {
		defer close(stopped)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				probe(urls)
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
	})
	web := make([]string, len(replicas))
	for i, r := range replicas {
		web[i] = r.data
	}
	return func() (string, string) {
		first := int(turn.Add(1))
		for n := range replicas {
			if i := (first + n) % len(replicas); replicas[i].ready.Load() {
				return web[i], replicas[i].tcp
			}
		}
		return "no replica is ready", "no replica is ready"
	}
}

// TestChaosRollingServers replaces two servers in turn. Clients are connected to both; visitors come through a load
// balancer that looks at readiness.
func TestChaosRollingServers(t *testing.T) {
	t.Parallel()
	public := freeport.New(t)
	upstreams := fmt.Sprintf("http://%s,%d=%s", newApp(t), public, newEcho(t))
	token := newToken()
	replicas := make([]*replica, 2)
	for i := range replicas {
		ip := fmt.Sprint("127.0.0.", 1+i) // they open the same port
		s := startServer(t, chaosEnv("TOKEN="+token, "DRAIN_DELAY=1s", "DATA_ADDR="+ip)...)
		replicas[i] = &replica{server: s, tcp: fmt.Sprintf("%s:%d", ip, public)}
	}
	clients := make([]*program, 2)
	for i := range clients {
		clients[i] = startClient(t, replicas[0].server, upstreams, chaosEnv("URL=wss://"+replicas[0].control+",wss://"+replicas[1].control)...)
		for _, r := range replicas {
			clients[i].await("connected", "url", r.control)
		}
	}
	all := everybody(t, balance(t, replicas, len(clients)))
	awaitAll(all)
	for range rounds {
		for _, r := range replicas {
			marks := []int{clients[0].mark(), clients[1].mark()}
			r.stop()
			r.server = startServer(t, r.here()...)
			for i, c := range clients {
				c.awaitFrom(marks[i], "connected", "url", r.control)
			}
			awaitAll(all)
		}
	}
	for _, l := range all {
		l.mustBeFlawless(visitTimeout)
	}
}
