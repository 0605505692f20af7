//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// haproxyConfig is a plain reverse proxy that keeps connections, and a plain TCP proxy.
const haproxyConfig = `global
	maxconn 8192
	nbthread 2
defaults
	timeout connect 10s
	timeout client 1h
	timeout server 1h
	timeout tunnel 1h
	http-reuse always
frontend web
	mode http
	option forwardfor
	bind 127.0.0.1:%[1]s
	use_backend sink if { path_beg /sink/ }
	default_backend origin
backend origin
	mode http
	server one %[5]s
backend sink
	mode http
	server one %[6]s
listen echo
	mode tcp
	bind 127.0.0.1:%[3]s
	server one %[7]s
listen iperf
	mode tcp
	bind 127.0.0.1:%[4]s
	server one %[8]s
`

// ways are the ports of a peer: for what the origin serves, the sink, the echo service,
// and iperf3. Where a peer routes by path web and sink are one.
type ways struct{ web, sink, echo, iperf string }

func newWays() (w ways, err error) {
	for _, port := range []*string{&w.web, &w.sink, &w.echo, &w.iperf} {
		if *port, err = freePort(); err != nil {
			return w, err
		}
	}
	return w, nil
}

// services are the addresses behind the ways, in the same order.
func (b *bed) services() [4]string { return [4]string{b.origin, b.sink.addr, b.sink.echo, b.iperf} }

// forwards writes one thing for each of the ways that leads somewhere.
func (w ways) forwards(to [4]string, format func(port, to string) []string) (list []string) {
	for i, port := range []string{w.web, w.sink, w.echo, w.iperf} {
		if to[i] != "" {
			list = append(list, format(port, to[i])...)
		}
	}
	return list
}

// addresses are where the ways begin, in the order of services.
func (w ways) addresses() (all [4]string) {
	for i, port := range []string{w.web, w.sink, w.echo, w.iperf} {
		all[i] = net.JoinHostPort("127.0.0.1", port)
	}
	return all
}

// at makes the ways the peer's addresses.
func (w ways) at(p *peer) {
	all := w.addresses()
	p.addr, p.sink, p.echo, p.iperf = all[0], all[1], all[2], all[3]
}

// run starts a program that belongs to the bed.
func (b *bed) run(name, path string, args ...string) (*process, error) {
	p, err := start(name, path, args, nil)
	if err == nil {
		b.running = append(b.running, p)
	}
	return p, err
}

// file writes a file into a folder of its own.
func (b *bed) file(name, text string) (string, error) {
	dir, err := os.MkdirTemp(b.dir, "peer-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

func (b *bed) startHAProxy(p *peer, w ways) (err error) {
	s := b.services()
	if s[3] == "" {
		s[3] = s[2] // nobody measures it
	}
	w.sink = w.web
	path, err := b.file("haproxy.cfg", fmt.Sprintf(haproxyConfig, w.web, w.sink, w.echo, w.iperf, s[0], s[1], s[2], s[3]))
	if err != nil {
		return err
	}
	p.server, err = b.run("haproxy", b.programs.haproxy, "-db", "-f", path)
	w.at(p)
	return err
}

// startSSH runs an sshd of its own, and a client that forwards ports of the server back,
// which is how a tunnel is made without any other program.
func (b *bed) startSSH(ctx context.Context, p *peer, w ways) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	config, err := b.file("sshd_config", "")
	if err != nil {
		return err
	}
	dir := filepath.Dir(config)
	for _, key := range []string{"host", "user"} {
		if out, err := exec.CommandContext(ctx, b.programs.keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	text := fmt.Sprintf("ListenAddress 127.0.0.1:%s\nHostKey %[2]s/host\nAuthorizedKeysFile %[2]s/user.pub\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\n", port, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where sshd locks itself up
			return err
		}
	}
	if p.server, err = b.run("sshd", b.programs.sshd, "-D", "-e", "-f", config); err != nil {
		return err
	}
	if err := until(ctx, "sshd", func() bool { return accepts(net.JoinHostPort("127.0.0.1", port)) }, p.server); err != nil {
		return err
	}
	args := []string{"-N", "-F", "none", "-c", "aes128-gcm@openssh.com", "-p", port, "-i", filepath.Join(dir, "user"),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes"}
	args = append(args, w.forwards(b.services(), func(port, service string) []string { return []string{"-R", "127.0.0.1:" + port + ":" + service} })...)
	p.client, err = b.run("ssh", b.programs.ssh, append(args, "127.0.0.1")...)
	w.at(p)
	return err
}

// startOther runs a program of the folder that -others names: a tunnel of any kind, or a
// script that starts one. It is called with a port and a service's address for each way
// (web, sink, echo, iperf3; the last only if there is iperf3), and has each of these ports
// of 127.0.0.1 lead through the tunnel to the service beside it until it is terminated.
// What it starts has to be its children, for their time and memory to be counted.
func (b *bed) startOther(p *peer, w ways) (err error) {
	p.server, err = b.run(p.name, b.programs.others[p.name], w.forwards(b.services(), pair)...)
	w.at(p)
	return err
}

func pair(port, to string) []string { return []string{port, to} }

// startRelays runs this program twice, as a relay to the services and one to that relay.
func (b *bed) startRelays(p *peer, w ways) error {
	behind, err := newWays()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	run := func(name string, w ways, to [4]string) (*process, error) {
		relay, err := start(name, self, w.forwards(to, pair), []string{relayIt + "=yes"})
		if err == nil {
			b.running = append(b.running, relay)
		}
		return relay, err
	}
	if p.client, err = run("relay behind", behind, b.services()); err != nil {
		return err
	}
	p.server, err = run("relay in front", w, behind.addresses())
	w.at(p)
	return err
}

// relayIt, in the environment, makes this program a relay. Its arguments are those of what
// -others names, see startOther.
const relayIt = "BENCH_RELAY"

// serveRelays copies bytes between connections, and nothing else: in Go on Linux that is
// splice.
func serveRelays(args []string) error {
	fault := make(chan error, 1)
	for pair := range slices.Chunk(args, 2) {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", pair[0]))
		if err != nil {
			return err
		}
		go func() {
			for {
				visitor, err := l.Accept()
				if err != nil {
					fault <- err
					return
				}
				go relay(visitor, pair[1])
			}
		}()
	}
	return <-fault
}

// relay joins a visitor and a service until both have ended.
func relay(visitor net.Conn, to string) {
	defer visitor.Close()
	service, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer service.Close()
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		_ = to.(*net.TCPConn).CloseWrite()
	}
	var up sync.WaitGroup
	up.Go(func() { pass(service, visitor) })
	pass(visitor, service)
	up.Wait()
}

// startGo runs this program as a reverse proxy.
func (b *bed) startGo(ctx context.Context, p *peer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if p.server, err = start("Go proxy", self, nil, []string{proxyOf + "=" + b.origin + " " + b.sink.addr}); err != nil {
		return err
	}
	b.running = append(b.running, p.server)
	err = until(ctx, "the Go proxy", func() bool { p.addr = listening(p.server, goProxy); return p.addr != "" }, p.server)
	p.sink = p.addr
	return err
}

// proxyOf, in the environment, makes this program the peer goProxy, in front of the two
// addresses that it names.
const proxyOf = "BENCH_PROXY_OF"

// serveProxy is a plain reverse proxy of the standard library, with what everybody gives
// it who has looked once: connections that are kept, and no compression.
func serveProxy(addresses string) error {
	origin, sink, _ := strings.Cut(addresses, " ")
	transport := &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
	to := func(addr string) http.Handler {
		at := &url.URL{Scheme: "http", Host: addr}
		return &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(at)
			r.SetXForwarded()
		}}
	}
	mux := http.NewServeMux()
	mux.Handle("/", to(origin))
	mux.Handle("/sink/", to(sink))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"message": "listening", "server": goProxy, "addr": l.Addr().String()}); err != nil {
		return err
	}
	return (&http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}).Serve(l)
}

// accepts tells whether somebody listens.
func accepts(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// startIperf runs an iperf3 server as a private service.
func (b *bed) startIperf(ctx context.Context) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	p, err := b.run("iperf3 server", b.programs.iperf, "-s", "-B", "127.0.0.1", "-p", port, "--forceflush")
	if err != nil {
		return err
	}
	p.ends1 = true
	b.iperf = net.JoinHostPort("127.0.0.1", port)
	// It takes one client at a time, and takes a connection to look for it for one.
	return until(ctx, "iperf3", func() bool { return strings.Contains(p.log.String(), "listening") }, p)
}

// stream measures one stream of iperf3, and returns how many bytes it carried. The server
// takes one client at a time, and may not have noticed yet that the last one is gone.
func (b *bed) stream(ctx context.Context, p *peer, reverse bool) (bits, moved float64, err error) {
	late := until(ctx, "iperf3", func() bool {
		bits, moved, err = b.tryStream(ctx, p, reverse)
		return err == nil || !strings.Contains(err.Error(), "busy") && !strings.Contains(err.Error(), "closed unexpectedly")
	})
	if err == nil {
		err = late
	}
	return bits, moved, err
}

func (b *bed) tryStream(ctx context.Context, p *peer, reverse bool) (bits, moved float64, err error) {
	host, port, err := net.SplitHostPort(p.iperf)
	if err != nil {
		return 0, 0, err
	}
	args := []string{"-c", host, "-p", port, "-J", "-t", fmt.Sprint(max(1, int(b.opts.duration.Seconds())))}
	if reverse {
		args = append(args, "-R")
	}
	cmd := exec.CommandContext(ctx, b.programs.iperf, args...)
	out, err := cmd.Output()
	var report struct {
		Error string
		End   struct {
			Received struct {
				Bytes float64 `json:"bytes"`
				Bits  float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if jsonErr := json.NewDecoder(bytes.NewReader(out)).Decode(&report); err == nil {
		err = jsonErr
	}
	if report.Error != "" {
		err = errors.New(report.Error)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("iperf3: %w", err)
	}
	return report.End.Received.Bits, report.End.Received.Bytes, nil
}
