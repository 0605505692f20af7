package status

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// WriteTable writes the document for people, with durations up to now in words.
// Clients choose some of what it shows, so nothing unprintable gets through.
func (d Document) WriteTable(w io.Writer, now time.Time) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Hostname: %s\nStarted:  %s\nMode:     %s\nVersion:  %s\n\n",
		printable(d.Info.Hostname), since(d.Info.StartTime, now), printable(d.Info.Mode), printable(d.Info.Version))
	if len(d.Clients) == 0 {
		fmt.Fprintln(&out, "No clients are connected.")
	} else {
		table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		licensed := slices.ContainsFunc(d.Clients, func(c Client) bool { return c.License != nil })
		row := func(id, addr, connected, licence, upstreams string) {
			if licensed {
				upstreams = licence + "\t" + upstreams
			}
			// Room for "12 minutes" keeps the columns where they are as time goes by.
			fmt.Fprintf(table, "%s\t%s\t%-10s\t%s\n", id, addr, connected, upstreams)
		}
		row("Client ID", "Remote Address", "Connected", "Licence", "Upstreams")
		for _, c := range d.Clients {
			row(printable(c.ClientID), printable(c.RemoteAddr), since(c.Since, now), c.License.text(), printable(strings.Join(c.states(), ", ")))
		}
		table.Flush()
	}
	_, err := w.Write(out.Bytes())
	return err
}

// states returns the upstreams, those that wait marked so.
func (c Client) states() []string {
	out := slices.Clone(c.Upstreams)
	for i, u := range out {
		if slices.Contains(c.Waiting, u) {
			out[i] += " (waiting)"
		}
	}
	return out
}

func (l *License) text() string {
	if l == nil {
		return "none"
	}
	return printable(l.Subject) + " until " + l.Expires.UTC().Format(time.DateOnly)
}

// since puts the time between t and now into words, in its largest whole unit.
func since(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "unknown"
	case d < time.Second: // or clocks differ
		return "just now"
	case d < time.Minute:
		return count(d/time.Second, "second")
	case d < time.Hour:
		return count(d/time.Minute, "minute")
	case d < 24*time.Hour:
		return count(d/time.Hour, "hour")
	}
	return count(d/(24*time.Hour), "day")
}

func count(n time.Duration, unit string) string {
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
