//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	keepAlive = 64 // connections of the part http
	shortLive = 32 // connections at once of the part connect
)

// underLoad runs the parts http, transfer, connect and stream. In each round every part takes
// the peers in turn, beginning with another one each time.
func (b *bed) underLoad(ctx context.Context) error {
	var run []func(context.Context, *peer) error
	var of []string
	for _, part := range []struct {
		name    string
		measure func(context.Context, *peer) error
	}{{"http", b.http}, {"transfer", b.transfer}, {"connect", b.connect}, {"stream", b.streams}} {
		if b.opts.wants(part.name) {
			run, of = append(run, part.measure), append(of, part.name)
		}
	}
	if len(run) == 0 {
		return nil
	}
	before := len(b.running)
	var peers []*peer
	for _, name := range b.opts.peers {
		p, err := b.startPeer(ctx, name)
		if err != nil {
			return err
		}
		peers = append(peers, p)
		if _, err := b.wrk(ctx, p, keepAlive, time.Second); err != nil { // open what is kept open
			return err
		}
	}
	for round := range b.opts.rounds {
		for i, measure := range run {
			b.say("round %d of %d: %s", round+1, b.opts.rounds, of[i])
			for j := range peers {
				p := peers[(round+j)%len(peers)]
				if err := measure(ctx, p); err != nil {
					return fmt.Errorf("%s, %s: %w", of[i], titleOf(p.name), err)
				}
			}
		}
	}
	return b.stopDownTo(before)
}

// http measures small answers over connections that stay open.
func (b *bed) http(ctx context.Context, p *peer) error {
	var r load
	before, err := p.mallocs(ctx)
	if err != nil {
		return err
	}
	if err := b.spend(p, requestCPU, func() (per float64, err error) {
		r, err = b.wrk(ctx, p, keepAlive, b.opts.duration)
		return r.requests / 100_000, err
	}); err != nil {
		return err
	}
	after, err := p.mallocs(ctx)
	if err != nil {
		return err
	}
	if len(after) == 2 {
		server, client := (after[0]-before[0])/r.requests, (after[1]-before[1])/r.requests
		b.results.add(p.name, requestAllocs, server+client)
		b.results.add(p.name, requestAllocs.ofServer(), server)
		b.results.add(p.name, requestAllocs.ofClient(), client)
	}
	b.results.add(p.name, requestRate, r.requests/r.seconds)
	b.results.add(p.name, requestP50, r.p50)
	b.results.add(p.name, requestP99, r.p99)
	one, err := b.wrk(ctx, p, 1, b.opts.duration/2)
	b.results.add(p.name, singleP50, 1000*one.p50)
	return err
}

// connect measures requests that each have a connection of their own, and bare
// connections for one byte.
func (b *bed) connect(ctx context.Context, p *peer) error {
	if err := b.spend(p, connectCPU, func() (per float64, err error) {
		r, err := b.wrk(ctx, p, shortLive, b.opts.duration, "-H", "Connection: close")
		b.results.add(p.name, connectRate, r.requests/r.seconds)
		return r.requests / 100_000, err
	}); err != nil || p.echo == "" {
		return err
	}
	return b.spend(p, bareCPU, func() (per float64, err error) {
		n, seconds, err := connections(ctx, p.echo, b.opts.duration)
		b.results.add(p.name, bareRate, n/seconds)
		return n / 100_000, err
	})
}

// connections opens connections for d, each for one byte and its echo.
func connections(ctx context.Context, addr string, d time.Duration) (n, seconds float64, err error) {
	var (
		all   sync.WaitGroup
		count atomic.Int64
		fault atomic.Pointer[error]
	)
	began := time.Now()
	for range shortLive {
		all.Go(func() {
			for time.Since(began) < d && ctx.Err() == nil && fault.Load() == nil {
				if err := oneByte(ctx, addr); err != nil {
					fault.Store(&err)
					return
				}
				count.Add(1)
			}
		})
	}
	all.Wait()
	if err := fault.Load(); err != nil {
		return 1, 1, *err
	}
	return float64(count.Load()), time.Since(began).Seconds(), ctx.Err()
}

func oneByte(ctx context.Context, addr string) error {
	conn, end, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	defer end()
	_ = conn.SetDeadline(time.Now().Add(startTimeout))
	b := []byte{'x'}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, b)
	return err
}

// streams measures one bare stream in each direction.
func (b *bed) streams(ctx context.Context, p *peer) error {
	if p.iperf == "" {
		return nil
	}
	for _, t := range []struct {
		reverse   bool
		rate, cpu metric
	}{{true, streamDown, streamDownCPU}, {false, streamUp, streamUpCPU}} {
		if err := b.spend(p, t.cpu, func() (per float64, err error) {
			bits, moved, err := b.stream(ctx, p, t.reverse)
			b.results.add(p.name, t.rate, bits/1e9)
			return moved / (1 << 30), err
		}); err != nil {
			return err
		}
	}
	return nil
}

// transfer measures one large download and one large upload by curl.
func (b *bed) transfer(ctx context.Context, p *peer) error {
	for _, t := range []struct {
		move      func(context.Context, *peer) (time.Duration, error)
		rate, cpu metric
	}{{b.download, downloadRate, downloadCPU}, {b.upload, uploadRate, uploadCPU}} {
		if err := b.spend(p, t.cpu, func() (per float64, err error) {
			took, err := t.move(ctx, p)
			if err == nil {
				b.results.add(p.name, t.rate, float64(b.opts.size)/1e6/took.Seconds())
			}
			return float64(b.opts.size) / (1 << 30), err
		}); err != nil {
			return err
		}
	}
	return nil
}

// spend adds the processor time that the tunnel uses for work, divided by what work
// returns: in all, and by process if there are two.
func (b *bed) spend(p *peer, m metric, work func() (per float64, err error)) error {
	if p.server == nil {
		_, err := work()
		return err
	}
	before, eachBefore, err := p.cpu()
	if err != nil {
		return err
	}
	per, err := work()
	if err != nil {
		return err
	}
	after, each, err := p.cpu()
	if err != nil {
		return err
	}
	b.results.add(p.name, m, (after-before)/per)
	if p.client != nil {
		b.results.add(p.name, m.ofServer(), (each[0]-eachBefore[0])/per)
		b.results.add(p.name, m.ofClient(), (each[1]-eachBefore[1])/per)
	}
	return nil
}

// load is what one run of wrk has found.
type load struct {
	requests, seconds float64
	p50, p99          float64 // in ms
}

// wrkScript makes wrk print numbers without units.
const wrkScript = `done = function(summary, latency)
	local e = summary.errors
	io.write(string.format("bench %d %d %d %d %d %d %d %d\n", summary.requests, summary.duration,
		latency:percentile(50), latency:percentile(99), e.connect, e.read, e.write, e.status))
end
`

// wrk puts a peer under load for d, of which it takes the whole seconds, at least one.
func (b *bed) wrk(ctx context.Context, p *peer, connections int, d time.Duration, args ...string) (load, error) {
	script := filepath.Join(b.dir, "wrk.lua")
	if err := os.WriteFile(script, []byte(wrkScript), 0o600); err != nil {
		return load{}, err
	}
	args = append(args, "-t", strconv.Itoa(min(2, connections)), "-c", strconv.Itoa(connections),
		"-d", strconv.Itoa(max(1, int(d.Seconds()))), "-s", script, "http://"+p.addr+"/")
	cmd := exec.CommandContext(ctx, b.programs.wrk, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return load{}, fmt.Errorf("wrk: %w: %s", err, errOut.String())
	}
	return parseWrk(out.String())
}

// parseWrk reads the line that wrkScript prints.
func parseWrk(out string) (load, error) {
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "bench ") {
			continue
		}
		var n [8]float64
		fields := strings.Fields(line)[1:]
		if len(fields) != len(n) {
			break
		}
		for i, field := range fields {
			v, err := strconv.ParseFloat(field, 64)
			if err != nil {
				return load{}, fmt.Errorf("wrk: %w", err)
			}
			n[i] = v
		}
		if n[0] == 0 || n[1] == 0 || slices.Max(n[4:]) > 0 { // a slow answer is not wrong: p99 tells of it
			return load{}, fmt.Errorf("wrk: %.0f requests; faults: %.0f connecting, %.0f reading, %.0f writing, %.0f refused",
				n[0], n[4], n[5], n[6], n[7])
		}
		return load{requests: n[0], seconds: n[1] / 1e6, p50: n[2] / 1e3, p99: n[3] / 1e3}, nil
	}
	return load{}, fmt.Errorf("wrk printed no result:\n%s", out)
}

// dial connects until ctx ends.
func dial(ctx context.Context, addr string) (net.Conn, func(), error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	return conn, func() { stop(); conn.Close() }, nil
}

// download has curl fetch the large file, as a person would: a visitor who takes the bytes with fewer system calls makes
// a direct connection look faster than any that people have.
func (b *bed) download(ctx context.Context, p *peer) (time.Duration, error) {
	n, _, took, err := b.curl(ctx, "http://"+p.addr+"/big", "--output", "/dev/null")
	if err == nil && n != b.opts.size {
		err = fmt.Errorf("a download of %d bytes, want %d", n, b.opts.size)
	}
	return took, err
}

func (b *bed) upload(ctx context.Context, p *peer) (time.Duration, error) {
	_, body, took, err := b.curl(ctx, "http://"+p.sink+"/sink/upload", "--request", "POST", "--upload-file", filepath.Join(b.dir, "big"), "--header", "Expect:")
	if err == nil && body != strconv.FormatInt(b.opts.size, 10) {
		err = fmt.Errorf("an upload of %d bytes was answered with %q", b.opts.size, body)
	}
	return took, err
}

// curl makes a request and returns the size of the answer, its body unless that goes elsewhere, and how long it took, the
// start of the program aside.
func (b *bed) curl(ctx context.Context, url string, args ...string) (size int64, body string, took time.Duration, err error) {
	args = append(args, "--silent", "--show-error", "--fail", "--noproxy", "*", "--write-out", "\nbench %{size_download} %{time_total}", url)
	cmd := exec.CommandContext(ctx, b.programs.curl, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return 0, "", 0, fmt.Errorf("curl: %w: %s", err, errOut.String())
	}
	body, line, _ := strings.Cut(string(out), "\nbench ")
	var seconds float64
	if _, err := fmt.Sscan(line, &size, &seconds); err != nil || seconds <= 0 {
		return 0, "", 0, fmt.Errorf("curl printed no result: %q", out)
	}
	return size, strings.TrimSpace(body), time.Duration(seconds * float64(time.Second)), nil
}

// response reads a response and gives its body to read.
func response(conn net.Conn, read func(io.Reader) (int64, error)) (int64, error) {
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return 0, errors.New(resp.Status + ": " + string(text))
	}
	return read(resp.Body)
}
