//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-tunnel/adit/e2e/link"
)

// distance is a link between server and client: how far they are from each other, how much
// is lost on the way, and how TCP reacts to that.
type distance struct {
	name    string
	rtt     time.Duration
	loss    float64
	control string // congestion control
	tunnels int    // of each kind, each with a stream; all at once if there is more than one
}

// defaultFar: where losses are what bounds a stream, many of them at once do not touch each
// other, and chance evens out.
const defaultFar = "100ms/0/bbr,100ms/0/cubic,20ms/1/bbr,20ms/1/cubic/6"

// parseFar reads distances of the form "RTT/percent lost/congestion control", and "/tunnels"
// if there is more than one of each kind.
func parseFar(list string) (all []distance, err error) {
	for name := range strings.SplitSeq(list, ",") {
		parts := strings.Split(name, "/")
		if len(parts) != 3 && len(parts) != 4 {
			return nil, fmt.Errorf("%q is not of the form RTT/LOSS/CONTROL or RTT/LOSS/CONTROL/TUNNELS, such as 100ms/1/cubic", name)
		}
		d := distance{control: parts[2], tunnels: 1}
		var errs [3]error
		d.rtt, errs[0] = time.ParseDuration(parts[0])
		d.loss, errs[1] = strconv.ParseFloat(parts[1], 64)
		if len(parts) == 4 {
			d.tunnels, errs[2] = strconv.Atoi(parts[3])
		}
		if err := errors.Join(errs[:]...); err != nil {
			return nil, err
		}
		if d.rtt < 0 || d.loss < 0 || d.loss > 100 || d.tunnels < 1 {
			return nil, fmt.Errorf("%q: out of range", name)
		}
		d.name = fmt.Sprintf("%v, %v %% lost, %s", d.rtt, d.loss, d.control)
		all = append(all, d)
	}
	return all, nil
}

const (
	// farRate is that of the link in each direction, in bytes per second: less than what
	// this machine can move by itself.
	farRate = 25e6
	// farLimit bounds one transfer, which then counts with what its receiver had by then.
	farLimit = 20 * time.Second
)

// farTransfer is one thing that is measured over a distance.
type farTransfer struct {
	size     int64
	up, http bool
}

var farTransfers = func() (all []farTransfer) {
	for _, size := range []int64{1 << 20, 8 << 20, 64 << 20} {
		for _, http := range []bool{false, true} {
			for _, up := range []bool{false, true} {
				all = append(all, farTransfer{size, up, http})
			}
		}
	}
	return all
}()

func (t farTransfer) String() string {
	how, way := "TCP", "down"
	if t.http {
		how = "HTTP"
	}
	if t.up {
		way = "up"
	}
	return fmt.Sprintf("%d MiB %s, %s", t.size>>20, way, how)
}

func (d distance) metric(t farTransfer) metric { return metric(d.name + ": " + t.String()) }

// far measures transfers over the distances.
func (b *bed) far(ctx context.Context) error {
	if !b.opts.wants(farPart) {
		return nil
	}
	for _, d := range b.opts.far {
		if err := b.farAway(ctx, d); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

func (b *bed) farAway(ctx context.Context, d distance) error {
	l, err := link.New(link.Quality{Delay: d.rtt / 2, Loss: d.loss / 100, Rate: farRate})
	if err != nil {
		return err
	}
	defer l.Close()
	for _, n := range []*link.Namespace{l.Near, l.Far} {
		if err := n.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte(d.control), 0)
		}); err != nil {
			return fmt.Errorf("%w: is it among net.ipv4.tcp_allowed_congestion_control?", err)
		}
	}
	service, err := newFarService(l)
	if err != nil {
		return err
	}
	defer service.stop()
	before := len(b.running)
	var peers []farPeer
	for range d.tunnels {
		peers = append(peers, farPeer{direct, service.http.Addr().String(), service.tcp.Addr().String()})
		for _, name := range b.opts.peers {
			if !isAdit(name) {
				continue
			}
			p, err := b.startFar(ctx, name, l, service)
			if err != nil {
				return err
			}
			peers = append(peers, p)
		}
	}
	for round := range b.opts.rounds {
		for _, t := range farTransfers {
			if t.size > b.opts.size {
				continue
			}
			b.say("%s: round %d of %d: %s", d.name, round+1, b.opts.rounds, t)
			rates := make([]float64, len(peers))
			errs := make([]error, len(peers))
			var running sync.WaitGroup
			for j := range peers {
				i := (round + j) % len(peers)
				measure := func() { rates[i], errs[i] = service.transfer(ctx, l, peers[i], t) }
				if d.tunnels > 1 {
					running.Go(measure)
				} else {
					measure()
				}
			}
			running.Wait()
			for i, p := range peers {
				if errs[i] != nil {
					return fmt.Errorf("%s, %s: %w", t, titleOf(p.name), errs[i])
				}
				b.results.add(p.name, d.metric(t), rates[i]/1e6)
			}
		}
	}
	return b.stopDownTo(before)
}

// farPeer is one way to the far service, by its addresses on the near side.
type farPeer struct{ name, http, tcp string }

// startFar starts a server on the near side and its client on the far one.
func (b *bed) startFar(ctx context.Context, name string, l *link.Link, service *farService) (farPeer, error) {
	p := &peer{name: name}
	if err := l.Near.Do(func() error { return b.startServer(ctx, p, link.NearIP) }); err != nil {
		return farPeer{}, err
	}
	port, err := freePort()
	if err != nil {
		return farPeer{}, err
	}
	way := farPeer{name, p.addr, net.JoinHostPort("127.0.0.1", port)}
	err = l.Far.Do(func() (err error) {
		p.client, err = b.startAdit(ctx, "client", b.programs.client, autoTLS(name), "URL="+p.control, "TOKEN="+token,
			"UPSTREAMS=http://"+service.http.Addr().String()+","+port+"="+service.tcp.Addr().String())
		return err
	})
	if err != nil {
		return farPeer{}, err
	}
	return way, until(ctx, "the way by "+name, func() bool {
		_, err := service.transfer(ctx, l, way, farTransfer{size: 1, http: true})
		return err == nil
	}, p.processes()...)
}

// farService answers on the far side.
type farService struct {
	http, tcp net.Listener
	srv       *http.Server
	uploads   atomic.Int64
	arrived   sync.Map // *atomic.Int64 by the number of the upload under way
}

func newFarService(l *link.Link) (s *farService, err error) {
	s = &farService{}
	if s.http, err = l.Far.Listen(link.FarIP + ":0"); err != nil {
		return nil, err
	}
	if s.tcp, err = l.Far.Listen(link.FarIP + ":0"); err != nil {
		s.http.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{size}", func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.ParseInt(r.PathValue("size"), 10, 64)
		w.Header().Set("Content-Length", r.PathValue("size"))
		_, _ = io.CopyN(w, zeros{}, size)
	})
	mux.HandleFunc("POST /{upload}", func(w http.ResponseWriter, r *http.Request) {
		upload, _ := strconv.ParseInt(r.PathValue("upload"), 10, 64)
		if s.take(upload, r.Body) != nil {
			panic(http.ErrAbortHandler)
		}
	})
	s.srv = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go s.srv.Serve(s.http)
	go func() {
		for {
			conn, err := s.tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				var size, upload int64
				if _, err := fmt.Fscanf(r, "%d %d\n", &size, &upload); err != nil {
					return
				}
				if upload == 0 {
					_, _ = io.CopyN(conn, zeros{}, size)
				} else if s.take(upload, io.LimitReader(r, size)) == nil {
					_, _ = conn.Write([]byte{'.'})
				}
			}()
		}
	}()
	return s, nil
}

func (s *farService) stop() {
	s.srv.Close()
	s.tcp.Close()
}

// zeros are as many as are read.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// take counts the bytes of an upload as they come.
func (s *farService) take(upload int64, r io.Reader) error {
	count, ok := s.arrived.Load(upload)
	if !ok {
		return errors.New("nobody waits for the upload any more")
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		count.(*atomic.Int64).Add(int64(n))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// transfer returns how many bytes per second a visitor gets, or the service from it.
func (s *farService) transfer(ctx context.Context, l *link.Link, p farPeer, t farTransfer) (float64, error) {
	began := time.Now()
	addr := p.tcp
	if t.http {
		addr = p.http
	}
	conn, err := l.Near.Dial(addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = conn.SetDeadline(began.Add(farLimit))
	n, err := int64(0), error(nil)
	if t.up {
		upload, arrived := s.uploads.Add(1), new(atomic.Int64)
		s.arrived.Store(upload, arrived)
		defer s.arrived.Delete(upload)
		err = t.upload(conn, upload)
		n = arrived.Load()
	} else {
		n, err = t.download(conn)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, err
	}
	if err == nil && n != t.size {
		return 0, fmt.Errorf("%d bytes arrived, want %d", n, t.size)
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

func (t farTransfer) download(conn net.Conn) (int64, error) {
	if !t.http {
		if _, err := fmt.Fprintf(conn, "%d 0\n", t.size); err != nil {
			return 0, err
		}
		return drain(conn)
	}
	if _, err := fmt.Fprintf(conn, "GET /%d HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n", t.size); err != nil {
		return 0, err
	}
	var n int64
	_, err := response(conn, func(body io.Reader) (_ int64, err error) {
		n, err = drain(body)
		return n, err
	})
	return n, err
}

func (t farTransfer) upload(conn net.Conn, upload int64) error {
	head := fmt.Sprintf("%d %d\n", t.size, upload)
	if t.http {
		head = fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", upload, t.size)
	}
	if _, err := io.WriteString(conn, head); err != nil {
		return err
	}
	if _, err := io.CopyN(conn, zeros{}, t.size); err != nil {
		return err
	}
	if !t.http {
		_, err := io.ReadFull(conn, make([]byte, 1))
		return err
	}
	_, err := response(conn, drain)
	return err
}

// farTables prints a table for each distance. Ratios are those of the medians: what is lost
// is chance, which no two transfers share.
func (r report) farTables(w io.Writer) {
	for _, d := range r.opts.far {
		if !r.results.has(d.metric(farTransfers[0])) {
			continue
		}
		fmt.Fprintf(w, "\n**Far away: %s, %.0f MB/s**\n\n| MB/s |", d.name, farRate/1e6)
		peers := slices.DeleteFunc(slices.Clone(r.opts.peers), func(p string) bool { return !isAdit(p) })
		fmt.Fprintf(w, " %s |", titleOf(direct))
		for _, p := range peers {
			fmt.Fprintf(w, " %s | × direct |", titleOf(p))
		}
		fmt.Fprintf(w, "\n|---|---:|%s\n", strings.Repeat("---:|", 2*len(peers)))
		for _, t := range farTransfers {
			m := d.metric(t)
			if !r.results.has(m) {
				continue
			}
			fmt.Fprintf(w, "| %s | %s |", t, spread(r.results[direct][m]))
			for _, p := range peers {
				fmt.Fprintf(w, " %s | %s |", spread(r.results[p][m]), number(median(r.results[p][m])/median(r.results[direct][m])))
			}
			fmt.Fprintln(w)
		}
	}
}
