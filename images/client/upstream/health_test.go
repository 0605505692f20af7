package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/hostport/freeport"
	"github.com/adit-tunnel/adit/shared/route"
)

// newHealth returns a Health of upstreams, with what others do as WAIT_UPSTREAM says.
func newHealth(t testing.TB, upstreams, wait string, interval time.Duration) (*Health, *prometheus.Registry) {
	t.Helper()
	list, err := route.ParseList(upstreams)
	must(t, err)
	cfg := HealthConfig{Upstreams: list, Interval: interval, Dialer: Dialer{Timeout: patience}, Log: zerolog.Nop()}
	if wait != "" {
		must(t, cfg.Wait.Decode(wait))
	}
	reg := prometheus.NewRegistry()
	return NewHealth(cfg, reg), reg
}

// run has the health checked until the test ends.
func (h *Health) run(t testing.TB) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// await waits until the set of what waits is want, by index.
func (h *Health) await(t testing.TB, want ...int) {
	t.Helper()
	timeout := time.After(patience)
	for {
		w, changed := h.Waiting()
		var got []int
		for i := range h.cfg.Upstreams {
			if w.Has(i) {
				got = append(got, i)
			}
		}
		if fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("waiting are %v, want %v: %v", got, want, h.Err())
		}
	}
}

// What is not to be waited for never waits.
func TestNotWatched(t *testing.T) {
	for _, h := range []*Health{new(Health), func() *Health { h, _ := newHealth(t, "http://a,22=b:22", "", time.Second); return h }(),
		func() *Health { h, _ := newHealth(t, "http://a?wait=off", "tcp", time.Second); return h }()} {
		w, _ := h.Waiting()
		if h.Watches() || len(w) != 0 || h.Err() != nil {
			t.Errorf("watches %t, waiting %v, %v", h.Watches(), w, h.Err())
		}
		h.Failed(0) // of no interest
	}
}

// One bad check, or one good one of a service that was gone, may be chance; the first good one of all is not.
func TestHysteresis(t *testing.T) {
	for _, c := range []struct{ checks, want string }{ // + is a good check, or a service that answers
		{"----", "----"},
		{"-+", "-+"},
		{"+", "+"},
		{"+-+-+-", "++++++"},
		{"+--", "++-"},
		{"+--+-+-+", "++------"},
		{"+--++", "++--+"},
		{"+--++-+--", "++--++++-"},
	} {
		h, reg := newHealth(t, "http://a?wait=tcp", "", time.Second)
		var got strings.Builder
		for _, check := range c.checks {
			var err error
			if check == '-' {
				err = errors.New("refused")
			}
			_, changed := h.Waiting()
			before := h.Err()
			h.note(h.watched[0], err)
			after := h.Err()
			select {
			case <-changed:
				if (before == nil) == (after == nil) {
					t.Errorf("%s: told of no change", c.checks)
				}
			default:
				if (before == nil) != (after == nil) {
					t.Errorf("%s: a change is not told", c.checks)
				}
			}
			sign := "+"
			if after != nil {
				sign = "-"
			}
			got.WriteString(sign)
			want := "# HELP adit_upstream_healthy Whether the service behind an upstream that is waited for answers: 1 or 0.\n" +
				"# TYPE adit_upstream_healthy gauge\n" +
				"adit_upstream_healthy{upstream=\"*=http://a:80\"} " + map[string]string{"+": "1", "-": "0"}[sign] + "\n"
			if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
				t.Errorf("%s: %v", c.checks, err)
			}
		}
		if got.String() != c.want {
			t.Errorf("%s: %s, want %s", c.checks, got.String(), c.want)
		}
	}
}

// web answers one request with what it is asked for in its path: /status/204, or a redirect, or nothing.
func web(c net.Conn) {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/status/"):
		fmt.Fprintf(c, "HTTP/1.1 %s Whatever\r\nContent-Length: 0\r\n\r\n", strings.TrimPrefix(r.URL.Path, "/status/"))
	case strings.HasPrefix(r.URL.Path, "/host/"):
		code := 200
		if r.Host != strings.TrimPrefix(r.URL.Path, "/host/") || !strings.HasPrefix(r.UserAgent(), "adit-client/") {
			code = 421
		}
		fmt.Fprintf(c, "HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n", code)
	case r.URL.Path == "/garbage":
		_, _ = io.WriteString(c, "hello\r\n\r\n")
	case r.URL.Path == "/endless":
		for err == nil {
			_, err = io.WriteString(c, "X: y\r\n")
		}
	case r.URL.Path == "/silent":
		_, _ = c.Read(make([]byte, 1)) // until the client gives up
	}
}

func TestCheck(t *testing.T) {
	plain, socket := listen(t, "tcp", web), listen(t, "unix", web)
	withTLS := listen(t, "tcp", func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{public.certificate("127.0.0.1")}})
		web(s)
		_ = s.Close()
	})
	unknown := listen(t, "tcp", func(c net.Conn) {
		_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{private.certificate("127.0.0.1")}}).Handshake()
	})
	header := listen(t, "tcp", func(c net.Conn) {
		br := bufio.NewReader(c)
		if line, _ := br.ReadString('\n'); line == "PROXY UNKNOWN\r\n" {
			web(&buffered{c, br})
		}
	})
	gone := freeport.Addr(t)
	for _, c := range []struct {
		name, upstream, want string // a part of the error, "" for none
	}{
		{"connect", "http://" + plain + "?wait=tcp", ""},
		{"connect a port", "22=" + plain + "?wait=tcp", ""},
		{"connect a socket", "unix://" + socket + "?wait=tcp", ""},
		{"connect with TLS", "https://" + withTLS + "?wait=tcp", ""},
		{"connect with TLS that is not trusted", "https://" + unknown + "?wait=tcp", "TLS handshake"},
		{"refused", "http://" + gone + "?wait=tcp", "refused"},
		{"refused, with a path", "http://" + gone + "?wait=/status/200", "refused"},
		{"200", "http://" + plain + "?wait=/status/200", ""},
		{"204", "http://" + plain + "?wait=/status/204", ""},
		{"302", "http://" + plain + "?wait=/status/302", ""},
		{"404", "http://" + plain + "?wait=/status/404", "/status/404 is answered with 404"},
		{"503", "http://" + plain + "?wait=/status/503", "answered with 503"},
		{"404, as wanted", "http://" + plain + "?wait=/status/404=404", ""},
		{"200, not as wanted", "http://" + plain + "?wait=/status/200=204", "answered with 200"},
		{"within the range", "http://" + plain + "?wait=/status/401=200-499", ""},
		{"by TLS", "https://" + withTLS + "?wait=/status/200", ""},
		{"by a socket", "unix://" + socket + "?wait=/status/200", ""},
		{"by a port", "80=" + plain + "?wait=/status/200", ""},
		{"host", "http://" + plain + "?wait=/host/" + plain, ""},
		{"host of a socket", "unix://" + socket + "?wait=/host/localhost", ""},
		{"host that it wants", "http://" + plain + "?host=inner.test&wait=/host/inner.test", ""},
		{"PROXY header", "http://" + header + "?proxy=v1&wait=/status/200", ""},
		{"garbage", "http://" + plain + "?wait=/garbage", "malformed"},
		{"endless", "http://" + plain + "?wait=/endless", "malformed"},
		{"nothing", "http://" + plain + "?wait=/nothing", "EOF"},
		{"silent", "http://" + plain + "?wait=/silent", "deadline"},
	} {
		t.Run(c.name, func(t *testing.T) {
			interval := patience
			if c.name == "silent" {
				interval = 100 * time.Millisecond
			}
			h, _ := newHealth(t, c.upstream, "", interval)
			err := h.check(t.Context(), h.watched[0])
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A service comes, goes and comes back; another one is there all the time.
func TestHealthFollows(t *testing.T) {
	other := listen(t, "tcp", func(net.Conn) {})
	addr := freeport.Addr(t)
	h, _ := newHealth(t, fmt.Sprintf("http://%s,1=%s,2=%s?wait=off", addr, other, freeport.Addr(t)), "tcp", 300*time.Millisecond)
	if err := h.Err(); err == nil || !strings.Contains(err.Error(), "waiting for *=http://"+addr+", 1="+other) {
		t.Errorf("before it runs: %v", err)
	}
	h.run(t)
	h.await(t, 0)
	for range 2 {
		l, err := net.Listen("tcp", addr)
		must(t, err)
		h.await(t)
		must(t, l.Close())
		h.await(t, 0)
	}
}

// A visitor who could not be connected is reason enough to look at once.
func TestHealthDoubts(t *testing.T) {
	l, err := net.Listen("tcp", freeport.Addr(t))
	must(t, err)
	h, _ := newHealth(t, "http://"+l.Addr().String(), "true", time.Hour)
	h.run(t)
	h.await(t)
	must(t, l.Close())
	h.Failed(0)
	h.Failed(0)
	h.await(t, 0)
}
