//go:build linux

package main

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"github.com/adit-tunnel/adit/shared/autotls"
	"github.com/adit-tunnel/adit/shared/tunnel"
	"github.com/adit-tunnel/adit/shared/version"
)

// openers is how many connections are opened at once.
const openers = 16

// footprint is one measurement of memory: programs that were idle from their start,
// and what is opened on them.
type footprint struct {
	peer   *peer
	open   func(ctx context.Context, i int) (io.Closer, error)
	each   []metric // KiB for each that was opened, by process
	idle   []metric // MiB of each process before anything was opened
	busy   metric   // processor time while all are idle, in % of one core
	opened []io.Closer
	before []float64
}

// whileIdle runs the parts memory and clients. The programs are new, and all of them
// wait at the same time.
func (b *bed) whileIdle(ctx context.Context) (err error) {
	var prints []*footprint
	before := len(b.running)
	for _, name := range b.opts.peers {
		if name != direct && b.opts.wants("memory") {
			p, err := b.startPeer(ctx, name)
			if err != nil {
				return err
			}
			f := &footprint{peer: p, each: []metric{websocketServer}, open: openWebsocket(p)}
			if p.client != nil {
				f.each = append(f.each, websocketClient)
			}
			if isAdit(name) {
				f.idle = []metric{idleServer, idleClient}
			}
			prints = append(prints, f)
			if p.echo != "" {
				if p, err = b.startPeer(ctx, name); err != nil {
					return err
				}
				f := &footprint{peer: p, each: []metric{bareServer}, open: openBare(p)}
				if p.client != nil {
					f.each = append(f.each, bareClient)
				}
				prints = append(prints, f)
			}
		}
		if isAdit(name) && b.opts.wants("clients") {
			p := &peer{name: name}
			if err := b.startServer(ctx, p, "127.0.0.1"); err != nil {
				return err
			}
			open, err := openClient(ctx, p)
			if err != nil {
				return err
			}
			prints = append(prints, &footprint{peer: p, each: []metric{clientServer}, busy: clientBusy, open: open})
		}
	}
	if len(prints) == 0 {
		return nil
	}
	if err := b.fewer(len(prints)); err != nil {
		return err
	}
	defer func() {
		for _, f := range prints {
			for _, c := range f.opened {
				_ = c.Close()
			}
		}
	}()
	b.say("idle: waiting %v", b.opts.settle)
	if err := wait(ctx, b.opts.settle); err != nil {
		return err
	}
	for _, f := range prints {
		if f.before, err = f.memory(); err != nil {
			return err
		}
		for i, m := range f.idle {
			b.results.add(f.peer.name, m, f.before[i]/1024)
		}
	}
	b.say("idle: opening %d connections to each", b.opts.idle)
	for _, f := range prints {
		if err := f.openAll(ctx, b.opts.idle); err != nil {
			return fmt.Errorf("%s: %w", titleOf(f.peer.name), err)
		}
	}
	b.say("idle: waiting %v", b.opts.settle)
	if err := wait(ctx, b.opts.settle/2); err != nil {
		return err
	}
	busy := make([]float64, len(prints))
	for i, f := range prints {
		if busy[i], _, err = f.peer.cpu(); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := wait(ctx, b.opts.settle/2); err != nil {
		return err
	}
	for i, f := range prints {
		after, err := f.memory()
		if err != nil {
			return err
		}
		for j, m := range f.each {
			b.results.add(f.peer.name, m, (after[j]-f.before[j])/float64(b.opts.idle))
		}
		used, _, err := f.peer.cpu()
		if err != nil {
			return err
		}
		if f.busy != "" {
			b.results.add(f.peer.name, f.busy, (used-busy[i])/time.Since(began).Seconds()*100)
		}
	}
	return b.stopDownTo(before)
}

// fewer has so many footprints get along with the files that this program may have open: of most connections it has
// both ends, the visitor's and the service's.
func (b *bed) fewer(prints int) error {
	const others, least = 500, 300 // of so few the memory that each takes would not be told from what all take
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	most := (int(min(limit.Cur, 1<<30)) - others) / (2 * prints)
	if most < min(least, b.opts.idle) {
		return fmt.Errorf("%d open files are too few for this: ulimit -n", limit.Cur)
	}
	if most < b.opts.idle {
		b.say("idle: %d connections each, and not %d: no more than %d files may be open (ulimit -n)", most, b.opts.idle, limit.Cur)
		b.opts.idle = most
	}
	return nil
}

// memory is what each process of the peer occupies, in KiB.
func (f *footprint) memory() (each []float64, err error) {
	for _, p := range f.peer.processes() {
		v, err := p.rss()
		if err != nil {
			return nil, err
		}
		each = append(each, v)
	}
	return each, nil
}

// openAll opens n connections, several at once.
func (f *footprint) openAll(ctx context.Context, n int) error {
	var (
		mu   sync.Mutex
		errs []error
		all  sync.WaitGroup
	)
	next := make(chan int)
	for range openers {
		all.Go(func() {
			for i := range next {
				c, err := f.open(ctx, i)
				mu.Lock()
				if err == nil {
					f.opened = append(f.opened, c)
				} else {
					errs = append(errs, err)
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	if len(errs) > 0 {
		return fmt.Errorf("%d of %d connections: %w", len(errs), n, errors.Join(errs[:min(len(errs), 3)]...))
	}
	return nil
}

// openWebsocket returns what opens a visitor's websocket and sees that it works.
func openWebsocket(p *peer) func(context.Context, int) (io.Closer, error) {
	return func(ctx context.Context, _ int) (io.Closer, error) {
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		dialer := websocket.Dialer{ReadBufferSize: 512, WriteBufferSize: 512}
		conn, resp, err := dialer.DialContext(ctx, "ws://"+p.sink+"/sink/websocket", nil)
		if err != nil {
			if resp != nil {
				err = fmt.Errorf("%w: %s", err, resp.Status)
			}
			return nil, err
		}
		if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			conn.Close()
			return nil, err
		}
		_ = conn.SetReadDeadline(time.Now().Add(startTimeout))
		if _, _, err := conn.ReadMessage(); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

// openBare returns what opens a visitor's bare connection and sees that it works.
func openBare(p *peer) func(context.Context, int) (io.Closer, error) {
	return func(ctx context.Context, _ int) (io.Closer, error) {
		conn, err := (&net.Dialer{Timeout: startTimeout}).DialContext(ctx, "tcp", p.echo)
		if err != nil {
			return nil, err
		}
		_ = conn.SetDeadline(time.Now().Add(startTimeout))
		b := []byte{'x'}
		if _, err = conn.Write(b); err == nil {
			_, err = io.ReadFull(conn, b)
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
		_ = conn.SetDeadline(time.Time{})
		return conn, nil
	}
}

// openClient returns what connects a client, as adit's own does, without a program
// around it: only the server is measured.
func openClient(ctx context.Context, p *peer) (func(context.Context, int) (io.Closer, error), error) {
	var config *stdtls.Config
	if p.name == aditTLS {
		var err error
		if config, err = autotls.Fetch(ctx, p.control, token, &http.Transport{}); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, i int) (io.Closer, error) {
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		id := "bench-" + strconv.Itoa(i)
		lines, err := tunnel.Hello{
			Version: version.Version, ClientID: id, Hostname: "bench", Epoch: 1,
			Upstreams: []string{id + ".example.com=http://127.0.0.1:8080"},
		}.Header()
		if err != nil {
			return nil, err
		}
		dialer := websocket.Dialer{
			NetDialContext:  new(net.Dialer).DialContext,
			TLSClientConfig: config,
			Subprotocols:    []string{tunnel.Subprotocol},
			WriteBufferSize: tunnel.WriteBufferSize,
			WriteBufferPool: tunnel.WriteBufferPool,
		}
		conn, resp, err := dialer.DialContext(ctx, p.control+"/connect", http.Header{
			"Authorization":    {"Bearer " + token},
			tunnel.HelloHeader: lines,
		})
		if err != nil {
			if resp != nil {
				err = fmt.Errorf("%w: %s", err, resp.Status)
			}
			return nil, err
		}
		return tunnel.New(tunnel.NewWebsocket(conn), tunnel.Config{Client: true}), nil
	}, nil
}
