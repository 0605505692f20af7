// Command load visits one address again and again and prints what becomes of it, one JSON document per line: for the
// tests of this repository that break things while visitors come.
//
// URL is the address, WANT what the answer must be. Four visitors come at a pace, two of them each time with a new
// connection; each waits up to 60 s for its answer. It runs until it is stopped.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	visitors = 4
	patience = time.Minute
	pace     = 10 * time.Millisecond
)

// Report is what has happened until now.
type Report struct {
	OK      int     `json:"ok"`
	Failed  int     `json:"failed"`
	Refused int     `json:"refused"`         // of the failed: nobody was there, or said 404 or 503 in so many words
	Broke   string  `json:"broke,omitempty"` // the last of the others of the failed
	Last    string  `json:"last"`            // what failed last
	Oldest  float64 `json:"oldest"`          // how long the request has been under way that began first, in seconds
	Slowest float64 `json:"slowest"`         // that was answered, in seconds
}

type load struct {
	url, want string

	mu     sync.Mutex
	report Report
	begun  [visitors]time.Time
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	l := &load{url: cmp.Or(os.Getenv("URL"), "http://127.0.0.1:8000/"), want: os.Getenv("WANT")}
	var g sync.WaitGroup
	for i := range visitors {
		g.Go(func() { l.visit(ctx, i) })
	}
	out := json.NewEncoder(os.Stdout)
	each := time.NewTicker(100 * time.Millisecond)
	defer each.Stop()
	for ctx.Err() == nil {
		select {
		case <-each.C:
			_ = out.Encode(l.now())
		case <-ctx.Done():
		}
	}
	g.Wait()
}

// now returns the report of the moment.
func (l *load) now() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	for _, begun := range l.begun {
		if !begun.IsZero() {
			r.Oldest = max(r.Oldest, time.Since(begun).Seconds())
		}
	}
	return r
}

// visit is one visitor.
func (l *load) visit(ctx context.Context, i int) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: i%2 == 0}}
	each := time.NewTicker(pace)
	defer each.Stop()
	for {
		select {
		case <-each.C:
		case <-ctx.Done():
			return
		}
		begun := time.Now()
		l.set(i, begun)
		refused, err := l.get(client)
		took := time.Since(begun)
		l.set(i, time.Time{})
		l.count(refused, took, err)
	}
}

func (l *load) set(i int, begun time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun[i] = begun
}

func (l *load) count(refused bool, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch r := &l.report; {
	case err == nil:
		r.OK++
		r.Slowest = max(r.Slowest, took.Seconds())
	default:
		r.Failed++
		r.Last = fmt.Sprintf("after %v: %v", took.Round(time.Millisecond), err)
		if refused {
			r.Refused++
		} else {
			r.Broke = r.Last
		}
	}
}

// get makes one request. An error is a refusal if nothing was begun that broke.
func (l *load) get(client *http.Client) (refused bool, err error) {
	resp, err := client.Get(l.url)
	if err != nil {
		// A reset says that nobody has read the request: the connection was still in the queue of a listener that was
		// closed. One that was taken ends otherwise.
		var op *net.OpError
		return errors.As(err, &op) && op.Op == "dial" || errors.Is(err, syscall.ECONNRESET), err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != l.want) {
		refused = resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusServiceUnavailable
		err = fmt.Errorf("%d %q", resp.StatusCode, body)
	}
	return refused, err
}
