//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The peers: what is compared.
const (
	direct  = "direct"
	nginx   = "nginx"
	haproxy = "haproxy"
	goProxy = "go"
	ssh     = "ssh"
	relays  = "relays"
	aditWS  = "ws"
	aditTLS = "tls"
)

var peerNames = []string{direct, nginx, haproxy, goProxy, ssh, relays, aditWS, aditTLS}

// basic are the peers of a short run: those that its bounds are about.
var basic = []string{direct, nginx, goProxy, aditWS, aditTLS}

// titleOf is the name of a peer in the report.
func titleOf(peer string) string {
	if t := titles[peer]; t != "" {
		return t
	}
	return peer
}

var titles = map[string]string{
	direct: "direct", nginx: "nginx, reverse proxy", haproxy: "haproxy, reverse proxy", goProxy: "Go, reverse proxy",
	ssh: "ssh -R, as raw TCP", relays: "two plain Go relays", aditWS: "adit, ws", aditTLS: "adit, auto-TLS",
}

// isAdit tells whether a peer is ours.
func isAdit(name string) bool { return name == aditWS || name == aditTLS }

// peer is one way to reach the private service.
type peer struct {
	name    string
	addr    string // where visitors connect
	sink    string // where uploads and websockets go
	echo    string // where plain connections are echoed; "" if it carries none
	iperf   string // iperf3, or ""
	control string // adit: URL of the server for clients
	server  *process
	client  *process // of what consists of two, or nil
}

// processes are those of the tunnel, whose time and memory count.
func (p *peer) processes() []*process {
	return slices.DeleteFunc([]*process{p.server, p.client}, func(p *process) bool { return p == nil })
}

// cpu is the processor time that the tunnel has used so far, in seconds, in all and by
// process.
func (p *peer) cpu() (all float64, each []float64, err error) {
	for _, proc := range p.processes() {
		v, err := proc.cpu()
		if err != nil {
			return 0, nil, err
		}
		all += v
		each = append(each, v)
	}
	return all, each, nil
}

// mallocs is how many objects the tunnel's processes have allocated so far, by process, or
// nothing for programs that do not tell.
func (p *peer) mallocs(ctx context.Context) (each []float64, err error) {
	if !isAdit(p.name) {
		return nil, nil
	}
	for _, proc := range p.processes() {
		v, err := series(ctx, "http://"+listening(proc, "metrics")+"/metrics", "go_memstats_mallocs_total")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", proc.name, err)
		}
		each = append(each, v)
	}
	return each, nil
}

// series reads the value of a series without labels.
func series(ctx context.Context, url, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s: %w", url, name, errors.Join(lines.Err(), errors.New(resp.Status)))
}

// bed is where measurements take place: the private service, and what was started.
type bed struct {
	opts     options
	programs programs
	dir      string // for files; removed in the end
	progress io.Writer
	results  results

	origin  string // address of the service that answers
	sink    *sink
	iperf   string // address of the iperf3 server, or ""
	running []*process
}

// say tells what is going on.
func (b *bed) say(format string, args ...any) {
	fmt.Fprintf(b.progress, format+"\n", args...)
}

// stop ends everything that was started, the last first.
func (b *bed) stop() error {
	errs := b.stopDownTo(0)
	if b.sink != nil {
		b.sink.stop()
	}
	return errs
}

// stopDownTo ends all but the first n programs.
func (b *bed) stopDownTo(n int) error {
	var errs []error
	for len(b.running) > n {
		last := len(b.running) - 1
		errs = append(errs, b.running[last].stop())
		b.running = b.running[:last]
	}
	return errors.Join(errs...)
}

// startPeer starts one way to reach the private service.
func (b *bed) startPeer(ctx context.Context, name string) (*peer, error) {
	p := &peer{name: name, addr: b.origin, sink: b.sink.addr, echo: b.sink.echo, iperf: b.iperf}
	if name == direct {
		return p, nil
	}
	w, err := newWays()
	if err != nil {
		return nil, err
	}
	switch name {
	case nginx:
		p.echo, p.iperf = "", ""
		p.server, p.addr, err = b.startNginx(ctx, "nginx", proxyConfig, b.origin, b.sink.addr)
		p.sink = p.addr
	case goProxy:
		p.echo, p.iperf = "", ""
		err = b.startGo(ctx, p)
	case haproxy:
		err = b.startHAProxy(p, w)
	case ssh:
		err = b.startSSH(ctx, p, w)
	case relays:
		err = b.startRelays(p, w)
	case aditWS, aditTLS:
		err = b.startTunnel(ctx, p, w)
	default:
		err = b.startOther(p, w)
	}
	if err != nil {
		return nil, err
	}
	if b.iperf == "" {
		p.iperf = ""
	}
	return p, until(ctx, "the way by "+name, func() bool { return answers(ctx, "http://"+p.addr+"/") }, p.processes()...)
}

// startTunnel starts adit's server and client.
func (b *bed) startTunnel(ctx context.Context, p *peer, w ways) error {
	if err := b.startServer(ctx, p, "127.0.0.1"); err != nil {
		return err
	}
	upstreams := "http://" + b.origin + ",*/sink=http://" + b.sink.addr + "," + w.echo + "=" + b.sink.echo
	if b.iperf != "" {
		upstreams += "," + w.iperf + "=" + b.iperf
	}
	p.echo, p.iperf = net.JoinHostPort("127.0.0.1", w.echo), net.JoinHostPort("127.0.0.1", w.iperf)
	var err error
	p.client, err = b.startAdit(ctx, "client", b.programs.client, autoTLS(p.name), "URL="+p.control, "TOKEN="+token, "UPSTREAMS="+upstreams)
	return err
}

// token is what server and clients share.
var token = rand.Text()

func autoTLS(name string) string {
	if name == aditTLS {
		return "AUTO_TLS=true"
	}
	return "AUTO_TLS=false"
}

// startServer starts a server without a client, which listens for one at an address.
func (b *bed) startServer(ctx context.Context, p *peer, controlAddr string) (err error) {
	p.server, err = b.startAdit(ctx, "server", b.programs.server, autoTLS(p.name),
		"TOKEN="+token, "MODE=http,tcp", "PORT=0", "CONTROL_PORT=0", "DATA_ADDR=127.0.0.1", "CONTROL_ADDR="+controlAddr)
	if err != nil {
		return err
	}
	control := ""
	if err := until(ctx, "the server of "+p.name, func() bool {
		p.addr, control = listening(p.server, "data plane"), listening(p.server, "control plane")
		return p.addr != "" && control != ""
	}, p.server); err != nil {
		return err
	}
	scheme := "ws"
	if p.name == aditTLS {
		scheme = "wss"
	}
	p.sink, p.control = p.addr, scheme+"://"+control
	return nil
}

func (b *bed) startAdit(_ context.Context, name, path string, env ...string) (*process, error) {
	env = append(env, "METRICS_ADDR=127.0.0.1", "METRICS_PORT=0", "DRAIN_TIMEOUT=3s")
	p, err := start(name, path, nil, append(env, b.opts.env...))
	if err != nil {
		return nil, err
	}
	b.running = append(b.running, p)
	return p, nil
}

// listening returns the address that a program says it listens on, or "".
func listening(p *process, server string) string {
	for _, line := range p.log.Lines() {
		var entry struct{ Message, Server, Addr string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Message == "listening" && entry.Server == server {
			return entry.Addr
		}
	}
	return ""
}

// answers tells whether a visitor gets an answer from url.
func answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode/100 == 2
}
