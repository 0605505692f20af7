package tcp

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/adit-tunnel/adit/shared/hostport"
)

// Ports is the value of ALLOW_PORTS: ports and ranges of them, "2222,8000-8999".
type Ports []Range

// Range is the ports from First to Last.
type Range struct{ First, Last int }

// Decode implements envconfig.Decoder.
func (p *Ports) Decode(value string) error {
	var (
		out  Ports
		errs []error
	)
	for _, text := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }) {
		first, last, isRange := strings.Cut(text, "-")
		if !isRange {
			last = first
		}
		a, ok := hostport.Port(first)
		b, ok2 := hostport.Port(last)
		if !ok || !ok2 || a > b {
			errs = append(errs, fmt.Errorf("%q is neither a port nor a range of ports from 1 to 65535, such as 2222 or 8000-8999", text))
			continue
		}
		out = append(out, Range{int(a), int(b)})
	}
	if len(out) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("no port: write ports and ranges, such as 2222 or 8000-8999"))
	}
	*p = out
	return errors.Join(errs...)
}

// String returns the text that Decode takes.
func (p Ports) String() string {
	var out []string
	for _, r := range p {
		if r.First == r.Last {
			out = append(out, strconv.Itoa(r.First))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
	}
	return strings.Join(out, ",")
}

// Contains reports whether the port may be asked for.
func (p Ports) Contains(port int) bool {
	for _, r := range p {
		if r.First <= port && port <= r.Last {
			return true
		}
	}
	return false
}

// first is a port to name in an example.
func (p Ports) first() int {
	if len(p) == 0 {
		return 0
	}
	return p[0].First
}
