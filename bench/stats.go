//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// metric is something that is measured of a peer.
type metric string

// The metrics. CPU is the time of the tunnel's processes.
const (
	requestRate metric = "requests/s"
	requestP50  metric = "p50 ms"
	requestP99  metric = "p99 ms"
	requestCPU  metric = "CPU s per 100k requests"
	// requestAllocs is known of adit's programs only.
	requestAllocs metric = "allocations per request"
	singleP50     metric = "p50 µs with one connection"

	downloadRate metric = "download MB/s"
	downloadCPU  metric = "CPU s per GiB of download"
	uploadRate   metric = "upload MB/s"
	uploadCPU    metric = "CPU s per GiB of upload"

	connectRate metric = "connections/s"
	connectCPU  metric = "CPU s per 100k connections"

	bareRate metric = "bare connections/s"
	bareCPU  metric = "CPU s per 100k bare connections"

	streamDown    metric = "Gbit/s to the visitor"
	streamDownCPU metric = "CPU s per GiB to the visitor"
	streamUp      metric = "Gbit/s from the visitor"
	streamUpCPU   metric = "CPU s per GiB from the visitor"

	bareServer metric = "KiB per idle connection, server"
	bareClient metric = "KiB per idle connection, client"

	websocketServer metric = "KiB per idle websocket, server"
	websocketClient metric = "KiB per idle websocket, client"
	idleServer      metric = "MiB of an idle server"
	idleClient      metric = "MiB of an idle client"

	clientServer metric = "KiB per idle client, server"
	clientBusy   metric = "% of a core with idle clients"
)

// ofServer and ofClient are the parts of a metric that one of adit's processes causes.
func (m metric) ofServer() metric { return m + ", server" }
func (m metric) ofClient() metric { return m + ", client" }

// results are the values by peer and metric, one for each round.
type results map[string]map[metric][]float64

func (r results) add(peer string, m metric, value float64) {
	if r[peer] == nil {
		r[peer] = map[metric][]float64{}
	}
	r[peer][m] = append(r[peer][m], value)
}

// has tells whether anybody was measured.
func (r results) has(m metric) bool {
	for _, of := range r {
		if len(of[m]) > 0 {
			return true
		}
	}
	return false
}

// median returns the median, or NaN if there is no value.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// ratio is the median over the rounds of a peer's value over another's in the same
// round: what slows a round down touches both.
func (r results) ratio(peer, reference string, m metric) float64 {
	over, under := r[peer][m], r[reference][m]
	quotients := make([]float64, min(len(over), len(under)))
	for i := range quotients {
		quotients[i] = over[i] / under[i]
	}
	return median(quotients)
}

// number formats with three significant digits and thousands apart, or as a dash.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) < 9.995:
		return fmt.Sprintf("%.2f", v)
	case math.Abs(v) < 99.95:
		return fmt.Sprintf("%.1f", v)
	}
	unit := math.Pow(10, max(0, math.Floor(math.Log10(math.Abs(v)))-2))
	digits := fmt.Sprintf("%.0f", math.Round(v/unit)*unit)
	var groups []string
	for len(digits) > 3 {
		groups = append(groups, digits[len(digits)-3:])
		digits = digits[:len(digits)-3]
	}
	slices.Reverse(groups)
	return strings.Join(append([]string{digits}, groups...), ",")
}

// spread formats the median with least and most.
func spread(values []float64) string {
	if len(values) < 2 {
		return number(median(values))
	}
	return fmt.Sprintf("%s (%s to %s)", number(median(values)), number(slices.Min(values)), number(slices.Max(values)))
}
