package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

var errNoName = &net.DNSError{Err: "no such host", IsNotFound: true}

// plane returns a Plane of a server with the address 10.0.0.9, for which names lead to these
// addresses.
func plane(tb testing.TB, allow Allow, names map[string][]string, log io.Writer) *Plane {
	tb.Helper()
	if log == nil {
		log = io.Discard
	}
	p := New(Config{Allow: allow, Reserved: []int{8124}, Drain: patience, Metrics: NewMetrics(prometheus.NewRegistry()), Log: zerolog.New(log)})
	p.resolve = func(_ context.Context, _, host string) (list []netip.Addr, err error) {
		for _, text := range names[host] {
			list = append(list, netip.MustParseAddr(text))
		}
		if list == nil {
			err = errNoName
		}
		return list, err
	}
	p.own = func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IPv4(127, 0, 0, 1)}, &net.IPNet{IP: net.IPv4(10, 0, 0, 9)}, &net.IPNet{IP: net.ParseIP("fd00::9")}}, nil
	}
	return p
}

func TestDecide(t *testing.T) {
	names := map[string][]string{
		"db":                 {"10.0.0.2"},
		"db.internal":        {"10.0.0.2", "192.168.0.2"},
		"a.b.internal":       {"192.168.0.2"},
		"rebound.internal":   {"127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "::", "fe80::1", "224.0.0.1", "255.255.255.255", "fd00:ec2::254", "::ffff:127.0.0.1", "64:ff9b::7f00:1"},
		"half.internal":      {"127.0.0.1", "10.0.0.2"},
		"self.internal":      {"10.0.0.9"},
		"localhost":          {"127.0.0.1", "169.254.169.254", "::1"},
		"internal":           {"10.0.0.2"},
		"evilinternal":       {"10.0.0.2"},
		"mapped":             {"::ffff:10.0.0.2"},
		"outside.example":    {"203.0.113.7"},
		"many.internal":      slices.Repeat([]string{"10.0.0.2"}, 50),
		"scoped.internal":    {"fd00::1%eth0"},
		"localhost.internal": {"127.0.0.1"},
	}
	for _, tt := range []struct {
		name, allow, destination string
		want                     string // what may be connected, separated by spaces; or
		err                      error
		denied                   bool
	}{
		{name: "an address", allow: "10.0.0.2:3000", destination: "10.0.0.2:3000", want: "10.0.0.2:3000"},
		{name: "another port", allow: "10.0.0.2:3000", destination: "10.0.0.2:3001", denied: true},
		{name: "another address", allow: "10.0.0.2:3000", destination: "10.0.0.3:3000", denied: true},
		{name: "a range of ports", allow: "10.0.0.2:3000-3009", destination: "10.0.0.2:3009", want: "10.0.0.2:3009"},
		{name: "above the range", allow: "10.0.0.2:3000-3009", destination: "10.0.0.2:3010", denied: true},
		{name: "every port", allow: "10.0.0.2:*", destination: "10.0.0.2:1", want: "10.0.0.2:1"},
		{name: "a network", allow: "10.0.0.0/8:5432", destination: "10.255.0.1:5432", want: "10.255.0.1:5432"},
		{name: "outside the network", allow: "10.0.0.0/8:5432", destination: "11.0.0.1:5432", denied: true},
		{name: "IPv6", allow: "[fd00::/8]:80", destination: "[FD00:0::2]:80", want: "[fd00::2]:80"},
		{name: "IPv4 in IPv6", allow: "10.0.0.2:80", destination: "[::ffff:10.0.0.2]:80", want: "10.0.0.2:80"},
		{name: "everything", allow: "0.0.0.0/0:*", destination: "203.0.113.7:25", want: "203.0.113.7:25"},

		{name: "a name", allow: "db.internal:5432", destination: "DB.internal.:5432", want: "10.0.0.2:5432 192.168.0.2:5432"},
		{name: "a name, another port", allow: "db.internal:5432", destination: "db.internal:22", denied: true},
		{name: "the address of a name", allow: "db.internal:5432", destination: "10.0.0.2:5432", denied: true},
		{name: "a name below", allow: "*.internal:443", destination: "a.b.internal:443", want: "192.168.0.2:443"},
		{name: "the name itself is not below it", allow: "*.internal:443", destination: "internal:443", denied: true},
		{name: "a name with the same end", allow: "*.internal:443", destination: "evilinternal:443", denied: true},
		{name: "a name that leads into a network", allow: "10.0.0.0/8:5432", destination: "db:5432", want: "10.0.0.2:5432"},
		{name: "only as far as it does", allow: "10.0.0.0/8:5432", destination: "db.internal:5432", want: "10.0.0.2:5432"},
		{name: "a name that leads elsewhere", allow: "10.0.0.0/8:443", destination: "outside.example:443", denied: true},
		{name: "a name that leads to IPv4 in IPv6", allow: "10.0.0.2:443", destination: "mapped:443", want: "10.0.0.2:443"},
		{name: "a name with many addresses", allow: "*.internal:1", destination: "many.internal:1", want: strings.TrimSpace(strings.Repeat("10.0.0.2:1 ", maxAddresses))},
		{name: "a name with a scoped address", allow: "*.internal:1", destination: "scoped.internal:1", denied: true},
		{name: "no such name", allow: "*.internal:443", destination: "no.internal:443", err: errNoName},
		{name: "no such name, for a network", allow: "10.0.0.0/8:443", destination: "no.such:443", err: errNoName},
		{name: "a name is not looked up in vain", allow: "10.0.0.0/8:443", destination: "no.such:444", denied: true},

		{name: "rebinding", allow: "*.internal:80", destination: "rebound.internal:80", denied: true},
		{name: "rebinding, all addresses", allow: "*.internal:80,0.0.0.0/0:*,[::/0]:*", destination: "rebound.internal:80", denied: true},
		{name: "half of a name", allow: "*.internal:80", destination: "half.internal:80", want: "10.0.0.2:80"},
		{name: "loopback by a network", allow: "0.0.0.0/0:*,[::/0]:*", destination: "127.0.0.1:80", denied: true},
		{name: "loopback by a network, IPv6", allow: "0.0.0.0/0:*,[::/0]:*", destination: "[::1]:80", denied: true},
		{name: "loopback by a network, translated", allow: "[::/0]:*", destination: "[64:ff9b::7f00:1]:80", denied: true},
		{name: "metadata by a network", allow: "169.254.169.253:80,0.0.0.0/0:*", destination: "169.254.169.254:80", denied: true},
		{name: "metadata by a network, IPv6", allow: "[fd00::/8]:80", destination: "[fd00:ec2::254]:80", denied: true},
		{name: "metadata by its address", allow: "169.254.169.254:80", destination: "169.254.169.254:80", want: "169.254.169.254:80"},
		{name: "the unspecified address", allow: "0.0.0.0/0:*", destination: "0.0.0.0:80", denied: true},
		{name: "loopback by its address", allow: "127.0.0.1:80", destination: "127.0.0.1:80", want: "127.0.0.1:80"},
		{name: "loopback by another", allow: "127.0.0.1:80", destination: "127.0.0.2:80", denied: true},
		{name: "a name that leads to loopback by its address", allow: "127.0.0.1:80", destination: "half.internal:80", want: "127.0.0.1:80"},
		{name: "localhost", allow: "localhost:80", destination: "localhost:80", want: "127.0.0.1:80 [::1]:80"},
		{name: "localhost does not stand for its address", allow: "localhost:80", destination: "127.0.0.1:80", denied: true},
		{name: "something like localhost", allow: "localhost.internal:80", destination: "localhost.internal:80", denied: true},
		{name: "the server's own port", allow: "10.0.0.0/8:*", destination: "10.0.0.9:8124", denied: true},
		{name: "the server's own port, IPv6", allow: "[fd00::/8]:*", destination: "[fd00::9]:8124", denied: true},
		{name: "the server's own port by a name", allow: "*.internal:*", destination: "self.internal:8124", denied: true},
		{name: "the server's own port by its address", allow: "10.0.0.9:8124", destination: "10.0.0.9:8124", want: "10.0.0.9:8124"},
		{name: "the same port elsewhere", allow: "10.0.0.0/8:*", destination: "10.0.0.8:8124", want: "10.0.0.8:8124"},
		{name: "another port of the server's", allow: "10.0.0.0/8:*", destination: "10.0.0.9:22", want: "10.0.0.9:22"},

		{name: "nothing", allow: "0.0.0.0/0:*", destination: "", denied: true},
		{name: "no port", allow: "0.0.0.0/0:*", destination: "10.0.0.2", denied: true},
		{name: "a zone", allow: "[::/0]:*", destination: "[fd00::1%lo]:80", denied: true},
		{name: "an address in disguise", allow: "0.0.0.0/0:*", destination: "0x7f.1:80", denied: true},
		{name: "a number", allow: "0.0.0.0/0:*", destination: "2130706433:80", denied: true},
		{name: "a unix socket", allow: "0.0.0.0/0:*", destination: "/run/docker.sock:1", denied: true},
		{name: "long", allow: "0.0.0.0/0:*", destination: strings.Repeat("a", 900) + ":1", denied: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addrs, err := plane(t, decode(t, tt.allow), names, nil).decide(t.Context(), tt.destination)
			var got []string
			for _, a := range addrs {
				got = append(got, a.String())
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("may connect %q, want %q", got, tt.want)
			}
			var denied *deniedError
			switch {
			case tt.denied && !errors.As(err, &denied), tt.err != nil && !errors.Is(err, tt.err):
				t.Errorf("error %v", err)
			case !tt.denied && tt.err == nil && err != nil:
				t.Error(err)
			case err != nil && len(err.Error()) > 500:
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

// session returns a client whose streams the plane serves.
func session(t *testing.T, p *Plane) *tunnel.Session {
	t.Helper()
	a, b := net.Pipe()
	server := tunnel.New(tunnel.NewConn(a), tunnel.Config{Handle: func(st *tunnel.Stream) { p.Serve(st, "client") }})
	client := tunnel.New(tunnel.NewConn(b), tunnel.Config{Client: true})
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client
}

// service is a private service that does what serve does with its connections.
func service(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn.(*net.TCPConn))
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, s *tunnel.Session, destination string) (*tunnel.Stream, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	st, err := s.Open(ctx, tunnel.Target{Forward: destination})
	if err == nil {
		_ = st.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { st.Close() })
	}
	return st, err
}

func TestServe(t *testing.T) {
	echo := service(t, func(c *net.TCPConn) { // the end of one direction before that of the other
		data, _ := io.ReadAll(c)
		_, _ = c.Write(append([]byte("you said "), data...))
		c.Close()
	})
	p := plane(t, decode(t, echo), nil, nil)
	var visits strings.Builder
	log := zerolog.New(&visits)
	p.cfg.AccessLog = &log
	st, err := open(t, session(t, p), echo)
	must(t, err)
	_, err = io.WriteString(st, "hello")
	must(t, err)
	if open := testutil.ToFloat64(p.cfg.Metrics.open); open != 1 {
		t.Errorf("%v connections are open", open)
	}
	must(t, st.CloseWrite())
	got, err := io.ReadAll(st)
	if string(got) != "you said hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, p.Run(ctx)) // waits for the end
	for _, want := range []string{`{"client_id":"client","destination":"` + echo + `","received":5,"sent":14,"seconds":`, `"reason":"end","message":"forward"}`} {
		if !strings.Contains(visits.String(), want) {
			t.Errorf("the access log lacks %s: %s", want, visits.String())
		}
	}
	if total, open := testutil.ToFloat64(p.cfg.Metrics.total), testutil.ToFloat64(p.cfg.Metrics.open); total != 1 || open != 0 {
		t.Errorf("%v connections, of which %v are open", total, open)
	}
}

func TestServeRefuses(t *testing.T) {
	closed := service(t, func(c *net.TCPConn) { c.Close() })
	gone := freeport.Addr(t)
	var log strings.Builder
	p := plane(t, decode(t, gone+",*.internal:80"), map[string][]string{"secret.internal": {"127.0.0.1"}}, &log)
	s := session(t, p)
	for _, tt := range []struct {
		destination string
		code        tunnel.Code
		reason      string
	}{
		{closed, tunnel.CodeDenied, "the server does not allow " + closed + ": FORWARD_ALLOW there has no pattern for it"},
		{"secret.internal:80", tunnel.CodeDenied, "the server does not allow secret.internal:80: FORWARD_ALLOW there has no pattern for it"},
		{"", tunnel.CodeDenied, "the destination is not host:port, with IPv6 in brackets"},
		{gone, tunnel.CodeRefused, "the service refused the server's connection"},
		{"no.internal:80", tunnel.CodeUnreachable, "the server cannot reach the service"},
	} {
		_, err := open(t, s, tt.destination)
		var reset *tunnel.ResetError
		if !errors.As(err, &reset) || reset.Code != tt.code || reset.Reason != tt.reason {
			t.Errorf("%q: got %v, want %s: %s", tt.destination, err, tt.code, tt.reason)
		}
	}
	must(t, s.Close())
	if n := testutil.ToFloat64(p.cfg.Metrics.refused.WithLabelValues("denied")); n != 3 {
		t.Errorf("%v were denied", n)
	}
	for _, want := range []string{`"level":"warn","client_id":"client","destination":"secret.internal:80"`, `"level":"debug","client_id":"client","destination":"` + gone} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, log.String())
		}
	}
}

// A client that asks for what is not allowed as fast as it can does not fill the log.
func TestRefusalsInTheLogAreBounded(t *testing.T) {
	var log strings.Builder
	p := plane(t, decode(t, "10.0.0.2:80"), nil, &log)
	s := session(t, p)
	for range maxTold + 20 {
		_, err := open(t, s, "10.0.0.3:80")
		if err == nil {
			t.Fatal("allowed")
		}
	}
	must(t, s.Close())
	if n := strings.Count(log.String(), `"level":"warn"`); n != maxTold {
		t.Errorf("%d warnings", n)
	}
}

// A connection that nobody waits for any more is given up.
func TestServeGivesUp(t *testing.T) {
	p := plane(t, decode(t, "*.internal:80"), nil, nil)
	asked, gaveUp := make(chan struct{}), make(chan error, 1)
	p.resolve = func(ctx context.Context, _, _ string) ([]netip.Addr, error) {
		close(asked)
		<-ctx.Done()
		gaveUp <- context.Cause(ctx)
		return nil, ctx.Err()
	}
	s := session(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, err := s.Open(ctx, tunnel.Target{Forward: "slow.internal:80"})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	select {
	case err := <-gaveUp:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("gave up for %v", err)
		}
	case <-time.After(dialTimeout):
		t.Error("the look-up goes on")
	}
}

// Connections that are open when the server is told to stop are waited for, up to the limit.
func TestRunWaits(t *testing.T) {
	release := make(chan struct{})
	addr := service(t, func(c *net.TCPConn) {
		<-release
		c.Close()
	})
	for _, limit := range []time.Duration{patience, 10 * time.Millisecond} {
		p := plane(t, decode(t, addr), nil, nil)
		p.cfg.Drain = limit
		st, err := open(t, session(t, p), addr)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		cancel()
		if limit == patience {
			select {
			case <-ended:
				t.Fatal("does not wait")
			case <-time.After(50 * time.Millisecond): // it would have ended by then
			}
			st.Close()
			release <- struct{}{}
		}
		select {
		case err := <-ended:
			must(t, err)
		case <-time.After(patience / 2):
			t.Fatal("waits for ever")
		}
	}
	close(release)
}
