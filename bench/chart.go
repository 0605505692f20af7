//go:build linux

package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// chart draws, for each thing that was measured under load, a bar for each peer: how it
// compares with a direct connection. It is an SVG without a program in it, and readable on
// light and dark ground.
func (r report) chart() string {
	const (
		left, bar, gap, width = 190, 14, 26, 720
		scale                 = width - left - 70
	)
	var b strings.Builder
	y := 24
	text := func(x, y int, anchor, weight, s string) {
		var escaped strings.Builder
		_ = xml.EscapeText(&escaped, []byte(s))
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"%s\" font-weight=\"%s\">%s</text>\n", x, y, anchor, weight, &escaped)
	}
	for _, m := range []struct {
		title string
		metric
	}{
		{fmt.Sprintf("HTTP requests/s, %d connections", keepAlive), requestRate},
		{"HTTP download", downloadRate},
		{"HTTP upload", uploadRate},
		{"New HTTP connections/s", connectRate},
		{"New TCP connections/s", bareRate},
		{"TCP stream to the visitor", streamDown},
		{"TCP stream from the visitor", streamUp},
	} {
		if !r.results.has(m.metric) || len(r.results[direct][m.metric]) == 0 {
			continue
		}
		text(0, y, "start", "bold", m.title+", × direct")
		y += 10
		for _, p := range r.opts.peers {
			v := r.results.ratio(p, direct, m.metric)
			if p == direct || math.IsNaN(v) {
				continue
			}
			fill := "#8c959f"
			if isAdit(p) {
				fill = "#0969da"
			}
			text(left-8, y+bar-3, "end", "normal", titleOf(p))
			length := max(1, int(min(v, 1)*scale))
			fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/>\n", left, y, length, bar-2, fill)
			text(left+length+6, y+bar-3, "start", "normal", number(v))
			y += bar + 3
		}
		y += gap
	}
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%[1]d\" height=\"%[2]d\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#6e7781\">\n%s</svg>\n",
		width, max(y-gap+10, 1), b.String())
}
