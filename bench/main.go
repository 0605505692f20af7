//go:build linux

// Command bench compares adit with other ways to reach a private service, side by side
// on this machine: directly, through nginx as a plain reverse proxy, and through adit's
// server and client, over a plain websocket and over auto-TLS. All run on loopback, at
// the same time, and are measured in turns over several rounds: what else the machine
// does hits all alike. It prints medians with their spread, and ratios, each formed
// within a round, as Markdown.
//
// The part far, which is only measured when asked for, puts server and client on the two
// ends of a link that is long and loses packets (far.go), and compares streams through them
// with bare ones over the same link.
//
// The other parts: http, transfer, connect and stream (load.go) put the peers (peer.go,
// other_peers.go) under load; memory and clients (idle.go) measure what idle connections
// cost. stats.go holds the numbers, report.go prints and chart.go draws them. process.go
// starts programs and reads /proc, origin.go and nginx.go are the private service behind
// all of them.
//
// haproxy and ssh -R join in where they are there, and whatever programs -others names.
//
// One of the peers is two programs in a row that only copy bytes between sockets: the
// floor of what a tunnel of two processes costs on this machine. How far that is from a
// direct connection differs a lot between machines, so that goals are set in both.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// parts are what can be measured, in this order.
var parts = []string{"http", "transfer", "connect", "stream", "memory", "clients"}

// farPart is measured only if it is asked for: it takes long, and needs root.
const farPart = "far"

// options say what to measure and for how long.
type options struct {
	bin      string        // folder of adit's programs
	parts    []string      // of parts
	peers    []string      // of peerNames; nil: all that can be
	far      []distance    // of the part far
	folder   string        // of other tunnels' programs
	svg      string        // file for the chart; "" for none
	env      []string      // more environment for adit's programs
	rounds   int           // of the parts under load
	duration time.Duration // of one run of wrk
	size     int64         // of a transfer, in bytes
	idle     int           // idle websockets, and idle clients
	settle   time.Duration // before memory is read
	short    bool          // fail on a large regression
}

// The thread that starts the programs must live as long as they do: they end when it
// does, so that nothing is left behind however this program ends.
func init() { runtime.LockOSThread() }

func main() {
	if addresses := os.Getenv(proxyOf); addresses != "" {
		fmt.Fprintln(os.Stderr, "bench:", serveProxy(addresses))
		os.Exit(1)
	}
	if os.Getenv(relayIt) != "" {
		fmt.Fprintln(os.Stderr, "bench:", serveRelays(os.Args[1:]))
		os.Exit(1)
	}
	opts, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	if err := bench(ctx, opts, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parse reads the command line.
func parse(args []string, usage io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.StringVar(&o.bin, "bin", "bin", "`folder` of adit's programs")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds of the parts under load")
	flags.DurationVar(&o.duration, "duration", 4*time.Second, "of one run of wrk, in whole seconds")
	mebibytes := flags.Int64("size", 1024, "of a transfer, in `MiB`; over a distance, at most")
	flags.IntVar(&o.idle, "idle", 1000, "idle websockets, and idle clients")
	flags.DurationVar(&o.settle, "settle", 150*time.Second, "wait before memory is read; Go collects garbage of an idle program after two minutes")
	flags.BoolVar(&o.short, "short", false, "short runs, and exit 1 on a large regression")
	choice := func(name, what string, all []string, to *[]string) {
		*to = all
		flags.Func(name, what+": a comma-separated `list` of "+strings.Join(all, ", "), func(value string) error {
			*to = strings.Split(value, ",")
			for _, v := range *to {
				if !slices.Contains(all, v) {
					return fmt.Errorf("%q is none of %s", v, strings.Join(all, ", "))
				}
			}
			return nil
		})
	}
	choice("parts", "what to measure; by default all but "+farPart, append(slices.Clone(parts), farPart), &o.parts)
	o.parts = parts
	o.far, _ = parseFar(defaultFar)
	flags.Func("far", "distances of the part "+farPart+": a comma-separated `list` of RTT/PERCENT LOST/CONGESTION CONTROL; by default "+defaultFar, func(value string) (err error) {
		o.far, err = parseFar(value)
		return err
	})
	choice("peers", "whom to measure; by default all whose programs are there, and with -short "+strings.Join(basic, ","), peerNames, &o.peers)
	o.peers = nil
	flags.StringVar(&o.folder, "others", "", "`folder` of other tunnels' programs, or scripts that start them: each is called with port and address of the web service, the sink for uploads, the echo service and, where there is iperf3, its server, and leads these ports of 127.0.0.1 there until it is terminated")
	flags.StringVar(&o.svg, "svg", "", "`file` to draw a chart of the ratios into")
	flags.Func("env", "one more `NAME=value` for adit's programs; may be repeated", func(value string) error {
		if name, _, ok := strings.Cut(value, "="); !ok || name == "" {
			return fmt.Errorf("%q is not of the form NAME=value", value)
		}
		o.env = append(o.env, value)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.short {
		given := map[string]bool{}
		flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
		shorten(&o.rounds, 3, given["rounds"])
		shorten(&o.duration, time.Second, given["duration"])
		shorten(mebibytes, 256, given["size"])
		shorten(&o.settle, 40*time.Second, given["settle"]) // until what has come to rest gave its memory back
		shorten(&o.peers, basic, given["peers"])
	}
	o.size = *mebibytes << 20
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("%q is not a flag: see bench -h", flags.Arg(0))
	case o.rounds < 1 || o.idle < 1 || o.size < 1 || o.duration < time.Second || o.settle < 0:
		return o, errors.New("rounds, size and idle must be 1 or more, duration 1s or more")
	}
	return o, nil
}

func shorten[T any](value *T, short T, given bool) {
	if !given {
		*value = short
	}
}

// bench measures, and prints the report to out and what it is doing to progress.
func bench(ctx context.Context, o options, out, progress io.Writer) (err error) {
	programs, err := findPrograms(&o, progress)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "adit-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bed{opts: o, programs: programs, dir: dir, progress: progress, results: results{}}
	defer func() { err = errors.Join(err, b.stop()) }()
	failed := b.measure(ctx)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	report := report{b.results, b.opts}
	if failed == nil || len(b.results) > 0 {
		report.write(out)
	}
	if failed != nil {
		return failed
	}
	if o.svg != "" {
		if err := os.WriteFile(o.svg, []byte(report.chart()), 0o644); err != nil {
			return err
		}
	}
	if o.short {
		return report.regressions()
	}
	return nil
}

// measure runs the parts.
func (b *bed) measure(ctx context.Context) error {
	if err := b.startOrigin(ctx); err != nil {
		return err
	}
	if err := b.underLoad(ctx); err != nil {
		return err
	}
	if err := b.whileIdle(ctx); err != nil {
		return err
	}
	return b.far(ctx)
}

func (o options) wants(part string) bool { return slices.Contains(o.parts, part) }

// programs are the paths of the programs that the bench starts.
type programs struct {
	nginx, wrk, curl, server, client string
	haproxy, ssh, sshd, keygen       string            // of peers, if they are there
	iperf                            string            // of the part stream, if it is there
	others                           map[string]string // by name
}

// findPrograms says all that is missing, and how to get it. Without a choice, o.peers
// becomes all those whose programs are there.
func findPrograms(o *options, progress io.Writer) (programs, error) {
	var p programs
	var errs []error
	look := func(name string) string {
		for _, candidate := range []string{name, "/usr/sbin/" + filepath.Base(name)} {
			if path, err := exec.LookPath(candidate); err == nil {
				return path
			}
		}
		return ""
	}
	find := func(name, advice string) string {
		path := look(name)
		if path == "" {
			errs = append(errs, fmt.Errorf("%s is missing: %s", name, advice))
		}
		return path
	}
	p.nginx = find("nginx", "on Debian, apt-get install nginx-light (it also starts it as a service, which is not needed)")
	p.wrk = find("wrk", "on Debian, apt-get install wrk")
	p.curl = find("curl", "on Debian, apt-get install curl")
	local := func(name string) string {
		path, err := filepath.Abs(filepath.Join(o.bin, name))
		if err == nil {
			_, err = exec.LookPath(path)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s is missing: make build", filepath.Join(o.bin, name)))
		}
		return path
	}
	p.server, p.client = local("server"), local("client")
	if o.wants("stream") {
		if p.iperf = look("iperf3"); p.iperf == "" {
			fmt.Fprintln(progress, "without the part stream: iperf3 is missing: on Debian, apt-get install iperf3")
		}
	}
	p.haproxy, p.ssh, p.sshd, p.keygen = look("haproxy"), look("ssh"), look("sshd"), look("ssh-keygen")
	absent := map[string]string{}
	if p.haproxy == "" {
		absent[haproxy] = "on Debian, apt-get install haproxy"
	}
	if p.ssh == "" || p.sshd == "" || p.keygen == "" {
		absent[ssh] = "on Debian, apt-get install openssh-client openssh-server"
	}
	asked := o.peers
	if asked == nil {
		asked = peerNames
	}
	o.peers = nil
	for _, name := range asked {
		switch advice, missing := absent[name]; {
		case !missing:
			o.peers = append(o.peers, name)
		case len(asked) == len(peerNames):
			fmt.Fprintf(progress, "without %s: %s\n", name, advice)
		default:
			errs = append(errs, fmt.Errorf("%s is missing: %s", name, advice))
		}
	}
	if o.folder != "" {
		var err error
		if p.others, err = others(o.folder); err != nil {
			errs = append(errs, err)
		}
		o.peers = append(o.peers, slices.Sorted(maps.Keys(p.others))...)
	}
	return p, errors.Join(errs...)
}

// others returns the programs in a folder.
func others(folder string) (map[string]string, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, f := range files {
		path := filepath.Join(folder, f.Name())
		if _, err := exec.LookPath(path); err != nil {
			return nil, fmt.Errorf("%s is not a program: every file of the folder is to be one", path)
		}
		all[f.Name()] = path
	}
	return all, nil
}
