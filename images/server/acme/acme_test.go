package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	acmez "github.com/mholt/acmez/v3/acme"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"go.uber.org/zap"
)

// newManager returns a Manager that is not run and asks nobody; log gets its lines.
func newManager(t testing.TB, log io.Writer, change func(*Config)) *Manager {
	t.Helper()
	cfg := Config{
		Directory: "https://ca.test/dir", Dir: t.TempDir(), HTTPPort: 1, HTTPSPort: 1,
		Metrics: NewMetrics(prometheus.NewRegistry()), Log: zerolog.New(log).Level(zerolog.InfoLevel), // certmagic has goroutines of its own
	}
	change(&cfg)
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.cache.Stop)
	return m
}

func (m *Manager) due(now time.Time) (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wantLocked(now)
	for h := m.dueLocked(now); h != nil; h = m.dueLocked(now) {
		names = append(names, h.name)
	}
	for _, name := range names {
		m.hosts[name].running = false
	}
	slices.Sort(names)
	return names
}

// Which hosts are to have a certificate.
func TestWanted(t *testing.T) {
	served := []string{"app.example.com", "10.0.0.1", "[::1]", "nas", "under_score.example.com", "covered.example.com", "app.internal"}
	for _, tt := range []struct {
		name      string
		domains   []string
		served    []string
		directory string
		want      []string
	}{
		{"nothing", nil, nil, Production, nil},
		{"domains", []string{"b.example.com", "a.example.com", "covered.example.com"}, nil, Production, []string{"a.example.com", "b.example.com"}},
		{"on demand, Let's Encrypt", nil, served, Production, []string{"app.example.com"}},
		{"on demand, another directory", nil, served, "https://ca.test/dir", []string{"app.example.com", "app.internal", "nas"}},
		{"both", []string{"a.example.com"}, served, Staging, []string{"a.example.com", "app.example.com"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newManager(t, io.Discard, func(c *Config) {
				c.Domains, c.Directory = tt.domains, tt.directory
				c.Served = func() []string { return tt.served }
				c.Covered = func(host string) bool { return host == "covered.example.com" }
			})
			got := m.due(time.Now())
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A host that no client serves any more is not asked for again, and keeps its certificate for a while.
func TestUnwanted(t *testing.T) {
	served := []string{"new.test", "old.test"}
	m := newManager(t, io.Discard, func(c *Config) { c.Served = func() []string { return served } })
	now := time.Now()
	if got := m.due(now); len(got) != 2 || !m.wants("old.test") {
		t.Fatalf("due: %q", got)
	}
	if next := m.finish(m.hosts["old.test"], nil); next == nil || next.name != "new.test" {
		t.Errorf("the next is %v", next)
	}
	m.hosts["new.test"].running = false
	served = nil
	for _, step := range []struct {
		after time.Duration
		want  bool
	}{{time.Minute, true}, {linger - time.Second, true}, {linger + time.Minute, false}} {
		if got := m.due(now.Add(step.after)); len(got) != 0 {
			t.Errorf("after %s: due %q", step.after, got)
		}
		if m.wants("new.test") {
			t.Errorf("after %s: a host without a certificate that nobody serves is wanted", step.after)
		}
		if m.wants("old.test") != step.want {
			t.Errorf("after %s: wanted %t", step.after, !step.want)
		}
	}
}

// Many new hosts are asked for in the course of time.
func TestBudget(t *testing.T) {
	var log bytes.Buffer
	m := newManager(t, &log, func(*Config) {})
	for i := range onDemandBurst {
		if !m.spend() {
			t.Fatalf("host %d is too many", i+1)
		}
	}
	if m.spend() {
		t.Fatal("there is no limit")
	}
	m.budget.at = m.budget.at.Add(-onDemandEvery)
	if !m.spend() || m.spend() {
		t.Error("not one after some time")
	}
	h := &host{name: "a.test"}
	m.finish(h, errBudget)
	if wait := time.Until(h.due); h.failures != 0 || wait < onDemandEvery/2 || !strings.Contains(log.String(), "certificate is late") {
		t.Errorf("waits %s after %d failures, logged %s", wait, h.failures, log.String())
	}
}

func TestRetryIn(t *testing.T) {
	for _, tt := range []struct {
		failures int
		reason   string
		want     time.Duration
	}{
		{1, reasonUnreachable, 5 * time.Second},
		{2, reasonUnreachable, 10 * time.Second},
		{9, reasonUnreachable, 2 * time.Minute},
		{1, reasonChallenge, time.Minute},
		{3, reasonChallenge, 4 * time.Minute},
		{1 << 40, reasonChallenge, 6 * time.Hour},
		{1, reasonLimited, time.Hour},
		{9, reasonLimited, 6 * time.Hour},
		{1, reasonStorage, 10 * time.Second},
	} {
		if got := retryIn(tt.failures, tt.reason); got != tt.want {
			t.Errorf("after %d failures (%s): %s, want %s", tt.failures, tt.reason, got, tt.want)
		}
	}
}

func TestReasons(t *testing.T) {
	problem := func(kind string, status int, resource any) error {
		return fmt.Errorf("wrapped: %w", acmez.Problem{Type: acmez.ProblemTypeNamespace + kind, Status: status, Resource: resource})
	}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{problem("rateLimited", 429, nil), reasonLimited},
		{problem("connection", 400, nil), reasonChallenge},
		{problem("dns", 400, nil), reasonChallenge},
		{problem("unauthorized", 403, acmez.Authorization{}), reasonChallenge},
		{problem("malformed", 400, acmez.Authorization{}), reasonChallenge},
		{problem("caa", 403, acmez.Authorization{}), reasonRefused},
		{problem("unauthorized", 403, nil), reasonRefused},
		{problem("rejectedIdentifier", 400, nil), reasonRefused},
		{problem("caa", 403, nil), reasonRefused},
		{problem("serverInternal", 500, nil), reasonUnreachable},
		{problem("", 503, nil), reasonUnreachable},
		{&url.Error{Op: "Get", URL: "https://ca.test", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}, reasonUnreachable},
		{&url.Error{Op: "Get", URL: "https://ca.test", Err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}, reasonUntrusted},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), reasonUnreachable},
		{&os.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, reasonStorage},
		{errors.New("failed storage check: no space left on device - storage is probably misconfigured"), reasonStorage},
		{fmt.Errorf("could not save account: %v", &os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}), reasonStorage},
		{errors.New("what is this"), reasonOther},
	} {
		if got := reasonOf(tt.err); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.want)
		}
	}
	for _, reason := range reasons {
		if hints[reason] == "" {
			t.Errorf("nothing is said about what to do when %s", reason)
		}
	}
}

// A failed renewal is logged and counted once, though certmagic tells of it twice; and one that it tells of only in its
// log is, too.
func TestRenewalFailed(t *testing.T) {
	var log bytes.Buffer
	m := newManager(t, &log, func(*Config) {})
	magic := newLogger(m)
	cause := acmez.Problem{Type: acmez.ProblemTypeRateLimited, Status: 429, Detail: "too many"}
	_ = m.event(t.Context(), "cert_failed", map[string]any{"renewal": true, "identifier": "a.test", "error": cause})
	magic.Error("job failed", zap.Error(fmt.Errorf("[a.test] Renew: %v", cause)))
	magic.Error("job failed", zap.Error(errors.New("[b.test] failed storage check: disk full")))
	_ = m.event(t.Context(), "cert_failed", map[string]any{"renewal": false, "identifier": "c.test", "error": cause}) // the attempt says so itself
	if n := strings.Count(log.String(), `"message":"certificate could not be renewed, the one before stays in use"`); n != 2 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
	for reason, want := range map[string]float64{reasonLimited: 1, reasonStorage: 1, reasonOther: 0} {
		if got := testutil.ToFloat64(m.cfg.Metrics.failures.WithLabelValues(reason)); got != want {
			t.Errorf("%s is counted %v times, want %v", reason, got, want)
		}
	}
}

// Whatever the way, nothing is asked for that nobody serves.
func TestMayAsk(t *testing.T) {
	var log bytes.Buffer
	served := []string{"app.test"}
	m := newManager(t, &log, func(c *Config) {
		c.Domains, c.Served = []string{"one.test"}, func() []string { return served }
	})
	ask := func(host string, renewal bool) error {
		return m.event(t.Context(), "cert_obtaining", map[string]any{"identifier": host, "renewal": renewal})
	}
	for _, renewal := range []bool{false, true} {
		for host, want := range map[string]error{"one.test": nil, "app.test": nil, "x.app.test": errUnserved, "": errUnserved} {
			if got := ask(host, renewal); got != want {
				t.Errorf("%q, renewal %t: %v, want %v", host, renewal, got, want)
			}
		}
	}
	served = nil
	err := ask("app.test", true)
	if err != errUnserved {
		t.Errorf("without its client: %v", err)
	}
	newLogger(m).Error("job failed", zap.Error(fmt.Errorf("[app.test] renewing certificate aborted by event handler: %v", err)))
	h := &host{name: "app.test"}
	m.finish(h, fmt.Errorf("obtaining certificate aborted by event handler: %w", err))
	if h.failures != 0 || strings.Contains(log.String(), "could not be") {
		t.Errorf("%d failures, logged %s", h.failures, log.String())
	}
}

// A host that its client has just left costs one attempt, not one after the other until it is missed, and is tried at
// once if it has been missed when it is served again.
func TestLeft(t *testing.T) {
	var served []string
	m := newManager(t, io.Discard, func(c *Config) {
		c.Served = func() []string {
			now := served
			served = nil
			return now
		}
	})
	now := time.Now()
	m.checked = now // no renewals
	served = []string{"app.test"}
	var work sync.WaitGroup
	m.step(t.Context(), &work, now)
	work.Wait()
	if got := m.budget.tokens; got < onDemandBurst-1 {
		t.Errorf("%v of %d tokens are left", got, onDemandBurst)
	}
	if h := m.hosts["app.test"]; h.failures != 0 || h.due.Sub(now) < firstRetry {
		t.Errorf("after %d failures it is due %s later", h.failures, h.due.Sub(now))
	}
	m.due(now.Add(gather)) // it is missed
	served = []string{"app.test"}
	if got := m.due(now.Add(2 * gather)); len(got) != 1 {
		t.Errorf("served again, due: %q", got)
	}
}

func TestNewFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		_, err := New(Config{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "certificates cannot be kept in "+dir) || !strings.Contains(err.Error(), "make it a folder that user id") {
			t.Errorf("%s: %v", dir, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	newManager(t, io.Discard, func(c *Config) { c.Dir = dir })
	list, err := os.ReadDir(dir)
	info, _ := os.Stat(dir)
	if err != nil || len(list) != 0 || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder after the test: %v %v %v", list, info, err)
	}
}

// Requests that are no challenge of ours are the upstream's.
func TestHandler(t *testing.T) {
	m := newManager(t, io.Discard, func(c *Config) { c.Domains = []string{"a.test"} })
	m.due(time.Now())
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for _, r := range []*http.Request{
		httptest.NewRequest("GET", "http://a.test/", nil),
		httptest.NewRequest("GET", "http://a.test/.well-known/acme-challenge/of-the-upstream", nil),
		httptest.NewRequest("POST", "http://a.test/.well-known/acme-challenge/x", nil),
		httptest.NewRequest("GET", "http://b.test/.well-known/acme-challenge/x", nil),
		httptest.NewRequest("GET", "http://a.test./.well-known/acme-challenge/../../../etc/passwd", nil),
		httptest.NewRequest("GET", "http://[::1]:80/.well-known/acme-challenge/x", nil),
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusTeapot {
			t.Errorf("%s %s %s: %d %s", r.Method, r.Host, r.URL.Path, w.Code, w.Body)
		}
	}
}

// Run ends with its context, also while there is nobody to ask.
func TestRun(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m, err := New(Config{
		Domains: []string{"a.test"}, Directory: "https://" + l.Addr().String() + "/dir", Dir: t.TempDir(), HTTPPort: 1, HTTPSPort: 1,
		Metrics: NewMetrics(prometheus.NewRegistry()), Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	running.Wait()
	if _, failing := m.state(time.Now()); failing != 0 {
		t.Error("who stops has not failed")
	}
}

// Changes that never stop keep nothing from being done.
func TestRunFlapping(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	looked := make(chan struct{})
	m, err := New(Config{
		Served: func() []string {
			select {
			case looked <- struct{}{}:
			case <-ctx.Done():
			}
			return nil
		},
		Directory: "https://ca.test/dir", Dir: t.TempDir(), HTTPPort: 1, HTTPSPort: 1,
		Metrics: NewMetrics(prometheus.NewRegistry()), Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	<-looked // at the start, whatever changes
	timeout := time.After(5 * time.Second)
	for looks := 0; looks < 2; {
		select {
		case m.wake <- struct{}{}: // far more often than gather
		case <-looked:
			looks++
		case <-timeout:
			t.Fatalf("hosts that change all the time were looked at %d times", looks)
		}
	}
}
