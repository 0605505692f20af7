//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/adit-tunnel/adit/e2e/link"
)

// TestMain lets the test's program be what the bench starts itself as.
func TestMain(m *testing.M) {
	if addresses := os.Getenv(proxyOf); addresses != "" {
		fmt.Fprintln(os.Stderr, serveProxy(addresses))
		os.Exit(1)
	}
	if os.Getenv(relayIt) != "" { // also as a program that -others names
		fmt.Fprintln(os.Stderr, serveRelays(os.Args[1:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name  string
		args  string
		check func(options) bool
		fault string
	}{
		{name: "defaults", check: func(o options) bool {
			return o.rounds == 5 && o.size == 1<<30 && len(o.parts) == len(parts) && o.peers == nil && o.settle > 2*time.Minute
		}},
		{name: "short", args: "-short -rounds 1", check: func(o options) bool {
			return o.rounds == 1 && o.duration == time.Second && o.size == 256<<20 && o.settle == 40*time.Second && len(o.peers) == len(basic)
		}},
		{name: "choice", args: "-parts memory,http -peers ws -env GOGC=50 -env A=", check: func(o options) bool {
			return o.wants("http") && !o.wants("clients") && len(o.peers) == 1 && len(o.env) == 2
		}},
		{name: "far", args: "-parts far -far 100ms/0.5/bbr,20ms/1/cubic/6", check: func(o options) bool {
			return o.wants(farPart) && len(o.far) == 2 && o.far[0].loss == 0.5 && o.far[0].tunnels == 1 && o.far[1].rtt == 20*time.Millisecond && o.far[1].tunnels == 6
		}},
		{name: "no distance", args: "-far 100/1/cubic", fault: "missing unit"},
		{name: "half a distance", args: "-far 100ms/1", fault: "RTT/LOSS/CONTROL"},
		{name: "no tunnels", args: "-far 100ms/1/cubic/0", fault: "out of range"},
		{name: "unknown part", args: "-parts htttp", fault: `"htttp" is none of http`},
		{name: "unknown peer", args: "-peers ws,inlets", fault: `"inlets" is none of direct`},
		{name: "no variable", args: "-env GOGC", fault: "NAME=value"},
		{name: "no rounds", args: "-rounds 0", fault: "1 or more"},
		{name: "not a flag", args: "http", fault: `"http" is not a flag`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, err := parse(strings.Fields(tt.args), io.Discard)
			switch {
			case tt.fault == "" && (err != nil || !tt.check(o)):
				t.Errorf("options %+v, error %v", o, err)
			case tt.fault != "" && (err == nil || !strings.Contains(err.Error(), tt.fault)):
				t.Errorf("error %v, want one with %q", err, tt.fault)
			}
		})
	}
}

func TestParseProc(t *testing.T) {
	// A name may hold spaces and parentheses.
	cpu, err := parseStat("1234 (a) b (c) S 1 1234 1234 0 -1 4194304 100 0 0 0 250 150 0 0 20 0 8 0 100 0 0\n")
	if err != nil || cpu != 4 {
		t.Errorf("processor time %v, error %v; want 4 s", cpu, err)
	}
	rss, err := parseRollup("00400000-7fff0000 ---p 00000000 00:00 0    [rollup]\nRss:                1252 kB\nPss:  100 kB\n")
	if err != nil || rss != 1252 {
		t.Errorf("memory %v, error %v; want 1252 KiB", rss, err)
	}
	for _, text := range []string{"", "1 (a) S", "1 (a) S 1 1 1 0 -1 1 1 0 0 0 x 1 1", ")"} {
		if _, err := parseStat(text); err == nil {
			t.Errorf("%q is taken for a stat", text)
		}
	}
	if _, err := parseRollup("Pss: 1 kB\n"); err == nil {
		t.Error("no Rss, no error")
	}
}

func TestParseWrk(t *testing.T) {
	got, err := parseWrk("Running 1s test\nbench 30000 2000000 1500 9000 0 0 0 0\n")
	if want := (load{requests: 30000, seconds: 2, p50: 1.5, p99: 9}); err != nil || got != want {
		t.Errorf("%+v, error %v; want %+v", got, err, want)
	}
	for _, out := range []string{"", "bench 1 2 3\n", "bench 0 2000000 0 0 0 0 0 0\n", "bench 10 2000000 1 1 0 0 0 2\n", "bench a b c d e f g h\n"} {
		if got, err := parseWrk(out); err == nil {
			t.Errorf("%q gives %+v", out, got)
		}
	}
}

func TestStatistics(t *testing.T) {
	r := results{}
	for i, v := range []float64{100, 300, 200} {
		r.add(nginx, requestRate, v)
		r.add(aditWS, requestRate, v*[]float64{0.5, 0.2, 0.4}[i])
	}
	if got := r.ratio(aditWS, nginx, requestRate); got != 0.4 { // not that of the medians, 0.3
		t.Errorf("ratio %v, want 0.4", got)
	}
	if got := r.ratio(aditTLS, nginx, requestRate); !math.IsNaN(got) {
		t.Errorf("ratio %v of nothing", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median %v, want 2.5", got)
	}
	if got, want := spread([]float64{12345, 1, 1e6}), "12,300 (1.00 to 1,000,000)"; got != want {
		t.Errorf("spread %q, want %q", got, want)
	}
	for v, want := range map[float64]string{0: "0.00", 9.999: "10.0", 99.96: "100", 6761: "6,760", -5: "-5.00", math.NaN(): "–"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) is %q, want %q", v, got, want)
		}
	}
}

func TestRegressions(t *testing.T) {
	good := func() results {
		r := results{}
		r.add(nginx, requestRate, 1000)
		r.add(aditWS, requestRate, 400)
		r.add(goProxy, requestRate, 350)
		r.add(aditTLS, requestRate, 350) // misses the goal, but not by far
		r.add(nginx, requestCPU, 2)
		r.add(aditWS, requestCPU, 5)
		r.add(aditWS, requestAllocs, 7)
		r.add(aditWS, idleServer, 11)
		r.add(aditWS, websocketServer, 12)
		r.add(aditWS, websocketClient, 10)
		return r
	}
	var out strings.Builder
	rep := report{good(), options{peers: peerNames}}
	rep.write(&out)
	if err := rep.regressions(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"| adit, ws | 400 | 0.40 | 1.14 |", "× nginx | 0.35 | ≥ 0.45 | < 0.30 | missed |", "| 22.0 | ≤ 12.0 | > 36.0 | missed |", "| 11.0 | ≤ 20.0 | > 20.0 | met |"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	for name, worsen := range map[string]func(results){
		"HTTP over ws, × nginx": func(r results) { r[aditWS][requestRate][0] = 340 },
		"a Go proxy":            func(r results) { r[aditWS][requestRate][0] = 275 },
		"HTTP over auto-TLS":    func(r results) { r[aditTLS][requestRate][0] = 290 },
		"CPU per request":       func(r results) { r[aditWS][requestCPU][0] = 6.5 },
		"allocations":           func(r results) { r[aditWS][requestAllocs][0] = 16 },
		"idle websocket":        func(r results) { r[aditWS][websocketClient][0] = 25 },
		"MiB of an idle server": func(r results) { r[aditWS][idleServer][0] = 21 },
	} {
		r := good()
		worsen(r)
		if err := (report{r, options{}}).regressions(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestMissingPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := findPrograms(&options{bin: t.TempDir(), peers: []string{ssh}}, io.Discard)
	for _, want := range []string{"wrk is missing: on Debian, apt-get install wrk", "curl is missing: on Debian, apt-get install curl", "server is missing: make build", "client is missing", "ssh is missing: on Debian, apt-get install"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// bedOptions builds adit's programs and returns options for a short run.
func bedOptions(t *testing.T) options {
	t.Helper()
	for _, path := range []string{"nginx", "/usr/sbin/nginx"} {
		if _, err := exec.LookPath(path); err == nil {
			break
		} else if path != "nginx" {
			t.Skip("nginx is absent")
		}
	}
	for _, program := range []string{"wrk", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(program + " is absent")
		}
	}
	bin := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../images/server", "../images/client")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	t.Setenv("TMPDIR", t.TempDir())
	return options{
		bin: bin, parts: parts, peers: []string{direct, nginx, aditTLS}, rounds: 1, duration: time.Second, size: 3 << 20, idle: 20,
	}
}

// nothingLeft fails if a program still runs or a file is left.
func nothingLeft(t *testing.T) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		if children, err := os.ReadFile(path); err == nil && len(children) > 0 {
			t.Errorf("processes left: %s", children)
		}
	}
	if files, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(files) > 0 {
		t.Errorf("files left: %v, error %v", files, err)
	}
}

func TestBench(t *testing.T) {
	opts := bedOptions(t)
	opts.parts = slices.DeleteFunc(slices.Clone(parts), func(part string) bool { return part == "stream" }) // see TestOthers
	var out, progress bytes.Buffer
	if err := bench(t.Context(), opts, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	for _, title := range []string{"**HTTP: ", "**Transfer of 3 MiB", "**New connections", "**Bare TCP connections", "**Memory: 20 idle websockets", "**Memory: 20 idle bare", "**One server, 20 idle clients"} {
		_, table, ok := strings.Cut(out.String(), title)
		if table, _, _ = strings.Cut(table, "\n\n**"); !ok || !strings.Contains(table, "\n| adit, auto-TLS |") {
			t.Errorf("no row for adit below %q", title)
		}
		if strings.Contains(table, "NaN") || strings.Contains(table, "Inf") {
			t.Errorf("no numbers below %q", title)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
	nothingLeft(t)
}

// TestOthers measures those peers whose programs are here, and iperf3 with them.
func TestOthers(t *testing.T) {
	opts := bedOptions(t)
	opts.parts, opts.peers = []string{"connect", "stream"}, nil
	opts.svg = filepath.Join(t.TempDir(), "chart.svg")
	opts.folder = t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\n" + relayIt + "=yes exec " + self + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(opts.folder, "relay"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	var out, progress bytes.Buffer
	if err := bench(t.Context(), opts, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	chart, err := os.ReadFile(opts.svg)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{haproxy, ssh, relays, aditWS, "relay"} {
		if strings.Contains(progress.String(), "without "+name+": ") {
			continue
		}
		if !strings.Contains(out.String(), "\n| "+titleOf(name)+" |") || !strings.Contains(string(chart), ">"+titleOf(name)+"<") {
			t.Errorf("%s was not measured, or not drawn:\n%s\n%s", name, out.String(), chart)
		}
	}
	if err := xml.Unmarshal(chart, new(any)); err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("the chart is not well-formed: %v", err)
	}
	nothingLeft(t)
}

// TestFar measures over a link, which is no longer than needed here.
func TestFar(t *testing.T) {
	n, err := link.NewNamespace()
	if os.Getuid() != 0 {
		t.Skip("only root can make network namespaces: run this test as root")
	}
	if errors.Is(err, link.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.Close()
	control, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	opts := bedOptions(t)
	opts.parts = []string{farPart}
	if opts.far, err = parseFar("2ms/0/" + strings.TrimSpace(string(control)) + "/2"); err != nil {
		t.Fatal(err)
	}
	var out, progress bytes.Buffer
	if err := bench(t.Context(), opts, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	rows := 0
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "| ") && strings.Contains(line, " MiB ") {
			rows++
			if strings.Contains(line, "–") {
				t.Errorf("something was not measured: %s", line)
			}
		}
	}
	if want := 4; rows != want { // 1 MiB; the others are larger than opts.size
		t.Errorf("%d rows, want %d:\n%s", rows, want, out.String())
	}
	nothingLeft(t)
}

// TestInterrupt cancels as Ctrl-C does, while wrk runs.
func TestInterrupt(t *testing.T) {
	opts := bedOptions(t)
	opts.duration = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	err := bench(ctx, opts, &out, writerFunc(func(line []byte) {
		if strings.HasPrefix(string(line), "round 1") {
			go func() {
				defer cancel()
				if !appears(ctx, "wrk") {
					t.Error("wrk does not run")
				}
			}()
		}
	}))
	if err == nil || err.Error() != "interrupted" || out.Len() > 0 {
		t.Errorf("error %v, output %q; want interrupted and nothing", err, out.String())
	}
	nothingLeft(t)
}

// appears waits for a child with that name.
func appears(ctx context.Context, name string) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		tasks, _ := filepath.Glob("/proc/self/task/*/children")
		for _, path := range tasks {
			children, _ := os.ReadFile(path)
			for _, pid := range strings.Fields(string(children)) {
				if comm, _ := os.ReadFile("/proc/" + pid + "/comm"); strings.TrimSpace(string(comm)) == name {
					return true
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return false
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// TestStopYoung stops a program that does not handle the signal yet.
func TestStopYoung(t *testing.T) {
	p, err := start("sleep", "/bin/sleep", []string{"60"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

// TestProcessEnds is about a program that does not run on as it should.
func TestProcessEnds(t *testing.T) {
	p, err := start("sh", "/bin/sh", []string{"-c", "echo no such thing; exit 3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = until(t.Context(), "sh", func() bool { return false }, p)
	if err == nil || !strings.Contains(err.Error(), "exit status 3\nno such thing") {
		t.Errorf("error %v", err)
	}
	if err := p.stop(); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("stop: %v, want how it ended", err)
	}
}
