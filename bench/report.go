//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"

	"github.com/adit-tunnel/adit/shared/version"
)

// report prints results.
type report struct {
	results results
	opts    options
}

// column is one of a table: what it says of a peer.
type column struct {
	title string
	cell  func(peer string) string
}

func (r report) write(w io.Writer) {
	o := r.opts
	fmt.Fprintf(w, "adit %s, %s, %d cores, loopback. Medians of %d rounds (least to most); × is the median of the ratios within a round. CPU of two processes: all (server + client). Two relays that only copy bytes are the floor of what any tunnel of two processes costs here.\n",
		version.String(), runtime.Version(), runtime.NumCPU(), o.rounds)
	r.table(w, fmt.Sprintf("HTTP: %d keep-alive connections, answers of 1 KiB, %v", keepAlive, o.duration), requestRate,
		r.value("req/s", requestRate), r.times(nginx, requestRate), r.times(goProxy, requestRate), r.times(direct, requestRate),
		r.value("p50 ms", requestP50), r.value("p99 ms", requestP99),
		r.cpu("CPU s per 100k", requestCPU), r.cpu("allocations", requestAllocs),
		r.value("1 connection: p50 µs", singleP50), r.times(direct, singleP50))
	r.table(w, fmt.Sprintf("Transfer of %d MiB", o.size>>20), downloadRate,
		r.value("download MB/s", downloadRate), r.times(direct, downloadRate), r.times(relays, downloadRate), r.cpu("CPU s per GiB", downloadCPU),
		r.value("upload MB/s", uploadRate), r.times(direct, uploadRate), r.times(relays, uploadRate), r.cpu("CPU s per GiB", uploadCPU))
	r.table(w, fmt.Sprintf("New connections: %d at once, one request each", shortLive), connectRate,
		r.value("connections/s", connectRate), r.times(direct, connectRate), r.times(nginx, connectRate),
		r.cpu("CPU s per 100k", connectCPU))
	r.table(w, fmt.Sprintf("Bare TCP connections: %d at once, one byte each", shortLive), bareRate,
		r.value("connections/s", bareRate), r.times(direct, bareRate), r.times(relays, bareRate), r.cpu("CPU s per 100k", bareCPU))
	r.table(w, "One bare TCP stream (iperf3)", streamDown,
		r.value("Gbit/s to the visitor", streamDown), r.times(direct, streamDown), r.times(relays, streamDown), r.cpu("CPU s per GiB", streamDownCPU),
		r.value("Gbit/s from the visitor", streamUp), r.times(direct, streamUp), r.times(relays, streamUp), r.cpu("CPU s per GiB", streamUpCPU))
	r.table(w, fmt.Sprintf("Memory: %d idle websockets of visitors; programs without any, after %v", o.idle, o.settle), websocketServer,
		r.value("KiB per websocket: server", websocketServer), r.value("client", websocketClient),
		column{"both", func(peer string) string { return number(r.websocket(peer)) }},
		r.value("MiB idle: server", idleServer), r.value("client", idleClient))
	r.table(w, fmt.Sprintf("Memory: %d idle bare connections of visitors", o.idle), bareServer,
		r.value("KiB per connection: server", bareServer), r.value("client", bareClient))
	r.table(w, fmt.Sprintf("One server, %d idle clients", o.idle), clientServer,
		r.value("KiB per client", clientServer), r.value("% of a core", clientBusy))
	r.farTables(w)
	r.goals(w)
}

// table prints a table with a row for each peer that was measured.
func (r report) table(w io.Writer, title string, needs metric, columns ...column) {
	if !r.results.has(needs) {
		return
	}
	fmt.Fprintf(w, "\n**%s**\n\n| |", title)
	for _, c := range columns {
		fmt.Fprintf(w, " %s |", c.title)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---:|", len(columns)))
	for _, peer := range r.opts.peers {
		if len(r.results[peer][needs]) == 0 {
			continue
		}
		fmt.Fprintf(w, "| %s |", titleOf(peer))
		for _, c := range columns {
			fmt.Fprintf(w, " %s |", c.cell(peer))
		}
		fmt.Fprintln(w)
	}
}

func (r report) value(title string, m metric) column {
	return column{title, func(peer string) string { return spread(r.results[peer][m]) }}
}

func (r report) times(reference string, m metric) column {
	return column{"× " + reference, func(peer string) string { return number(r.results.ratio(peer, reference, m)) }}
}

// cpu is processor time, of adit with the parts of server and client.
func (r report) cpu(title string, m metric) column {
	return column{title, func(peer string) string {
		of := r.results[peer]
		if len(of[m.ofClient()]) == 0 {
			return number(median(of[m]))
		}
		return fmt.Sprintf("%s (%s + %s)", number(median(of[m])), number(median(of[m.ofServer()])), number(median(of[m.ofClient()])))
	}}
}

// websocket is what an idle websocket costs server and client together, in KiB.
func (r report) websocket(peer string) float64 {
	server, client := r.results[peer][websocketServer], r.results[peer][websocketClient]
	if len(client) == 0 {
		return median(server)
	}
	return median(server) + median(client)
}

// goal is a bound that the tunnel keeps. Machines differ and are busy with other
// things, so that only what misses the looser bound is a regression.
type goal struct {
	name   string
	value  float64 // NaN: not measured
	most   bool    // the value may be at most target, rather than at least
	target float64
	loose  float64 // NaN: none
}

func (g goal) met(bound float64) bool {
	if math.IsNaN(bound) {
		return true
	}
	if g.most {
		return g.value <= bound
	}
	return g.value >= bound
}

// goalList is what the tunnel is to reach, and below what a change has broken something.
// How fast one stream runs on two cores is the luck of the scheduler, in a short run above
// all: it is no regression.
func (r report) goalList() []goal {
	ratio := r.results.ratio
	least := func(p string, m metric) float64 { return median(r.results[p][m]) }
	none := math.NaN()
	return []goal{
		{"HTTP over ws, × nginx", ratio(aditWS, nginx, requestRate), false, 0.52, 0.35},
		{"HTTP over auto-TLS, × nginx", ratio(aditTLS, nginx, requestRate), false, 0.45, 0.30},
		{"HTTP over ws, × a Go proxy", ratio(aditWS, goProxy, requestRate), false, 1, 0.8},
		// Processor time hardly depends on what else the machine does.
		{"CPU per request over ws, × nginx", ratio(aditWS, nginx, requestCPU), true, 2, 3},
		{"CPU per request over auto-TLS, × nginx", ratio(aditTLS, nginx, requestCPU), true, 2, 3},
		{"allocations per request over ws, server and client", least(aditWS, requestAllocs), true, 5, 15},
		{"short HTTP connections over ws, × direct", ratio(aditWS, direct, connectRate), false, 0.33, none},
		{"one connection over ws, × direct", ratio(aditWS, direct, singleP50), true, 3, none},
		{"download over ws, × direct", ratio(aditWS, direct, downloadRate), false, 0.60, none},
		{"download over auto-TLS, × direct", ratio(aditTLS, direct, downloadRate), false, 0.45, none},
		{"download over ws, × two relays", ratio(aditWS, relays, downloadRate), false, 0.92, none},
		{"download over auto-TLS, × two relays", ratio(aditTLS, relays, downloadRate), false, 0.69, none},
		{"upload over ws, × direct", ratio(aditWS, direct, uploadRate), false, 0.60, none},
		{"upload over auto-TLS, × direct", ratio(aditTLS, direct, uploadRate), false, 0.45, none},
		{"CPU of a download over ws, × nginx", ratio(aditWS, nginx, downloadCPU), true, 3, 5},
		{"stream to the visitor over ws, × direct", ratio(aditWS, direct, streamDown), false, 0.52, none},
		{"stream from the visitor over ws, × direct", ratio(aditWS, direct, streamUp), false, 0.52, none},
		{"stream to the visitor over auto-TLS, × direct", ratio(aditTLS, direct, streamDown), false, 0.35, none},
		{"stream from the visitor over auto-TLS, × direct", ratio(aditTLS, direct, streamUp), false, 0.35, none},
		{"stream to the visitor over ws, × two relays", ratio(aditWS, relays, streamDown), false, 0.98, none},
		{"stream from the visitor over ws, × two relays", ratio(aditWS, relays, streamUp), false, 0.98, none},
		{"stream to the visitor over auto-TLS, × two relays", ratio(aditTLS, relays, streamDown), false, 0.66, none},
		{"stream from the visitor over auto-TLS, × two relays", ratio(aditTLS, relays, streamUp), false, 0.66, none},
		{"bare connections over ws, × direct", ratio(aditWS, direct, bareRate), false, 0.33, none},
		{"bare connections over ws, × two relays", ratio(aditWS, relays, bareRate), false, 1.4, none},
		{"bare connections over auto-TLS, × two relays", ratio(aditTLS, relays, bareRate), false, 1.4, none},
		{"KiB per idle connection over ws, server", least(aditWS, bareServer), true, 5, 12},
		{"KiB per idle connection over ws, client", least(aditWS, bareClient), true, 5, 12},
		{"KiB per idle websocket over ws, server and client", r.websocket(aditWS), true, 12, 36},
		{"KiB per idle websocket over auto-TLS, server and client", r.websocket(aditTLS), true, 12, 36},
		{"KiB per idle client over ws", least(aditWS, clientServer), true, 30, 50},
		{"KiB per idle client over auto-TLS", least(aditTLS, clientServer), true, 50, 70},
		{"MiB of an idle server, ws", least(aditWS, idleServer), true, 20, 20},
		{"MiB of an idle server, auto-TLS", least(aditTLS, idleServer), true, 20, 20},
	}
}

// goals prints what was reached.
func (r report) goals(w io.Writer) {
	list := slices.DeleteFunc(r.goalList(), func(g goal) bool { return math.IsNaN(g.value) })
	if len(list) == 0 {
		return
	}
	fmt.Fprint(w, "\n**Goals**\n\n| | reached | goal | regression | |\n|---|---:|---:|---:|---|\n")
	for _, g := range list {
		sign, beyond, verdict := "≥", "< ", "met"
		if g.most {
			sign, beyond = "≤", "> "
		}
		if math.IsNaN(g.loose) {
			beyond = ""
		}
		switch {
		case !g.met(g.loose):
			verdict = "**regression**"
		case !g.met(g.target):
			verdict = "missed"
		}
		fmt.Fprintf(w, "| %s | %s | %s %s | %s%s | %s |\n", g.name, number(g.value), sign, number(g.target), beyond, number(g.loose), verdict)
	}
}

// regressions is an error if a goal was missed by far.
func (r report) regressions() error {
	var errs []error
	for _, g := range r.goalList() {
		if !math.IsNaN(g.value) && !g.met(g.loose) {
			errs = append(errs, fmt.Errorf("regression: %s: %s, bound %s", g.name, number(g.value), number(g.loose)))
		}
	}
	return errors.Join(errs...)
}
