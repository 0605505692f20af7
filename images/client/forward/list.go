package forward

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/adit-tunnel/adit/shared/hostport"
)

// List is the value of FORWARDS.
type List []Forward

// Forward is a local port and the service of the server's network that it leads to.
type Forward struct {
	Host        string // to listen on: an address
	Port        int    // to listen on; 0: any free one
	Destination string // "host:port"
}

// defaultHost is where only programs of this machine (or pod, or container) can connect.
const defaultHost = "127.0.0.1"

const example = "write port:host:port, such as 3000:10.0.0.2:3000, or address:port:host:port to listen on another address than 127.0.0.1, with IPv6 in brackets"

// Decode implements envconfig.Decoder. It reports all items that are wrong.
func (l *List) Decode(value string) error {
	var (
		out  List
		errs []error
	)
	seen := map[string]bool{}
	for text := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }) {
		f, err := parse(text)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%q %w", text, err))
			continue
		case f.Port != 0 && seen[f.listen()]:
			errs = append(errs, fmt.Errorf("%q: %s is there twice", text, f.listen()))
			continue
		}
		seen[f.listen()] = true
		out = append(out, f)
	}
	if len(out) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("holds nothing: "+example))
	}
	*l = out
	return errors.Join(errs...)
}

// String returns the text that Decode takes.
func (l List) String() string {
	var out []string
	for _, f := range l {
		out = append(out, f.String())
	}
	return strings.Join(out, ",")
}

// String returns the forward with its address, as in 127.0.0.1:3000:10.0.0.2:3000.
func (f Forward) String() string { return f.listen() + ":" + f.Destination }

func (f Forward) listen() string { return net.JoinHostPort(f.Host, strconv.Itoa(f.Port)) }

func parse(text string) (Forward, error) {
	f := Forward{Host: defaultHost}
	first, rest, ok := cut(text)
	if !ok {
		return f, errors.New("is not a forward: " + example)
	}
	if _, err := netip.ParseAddr(first); err == nil {
		f.Host = first
		if first, rest, ok = cut(rest); !ok {
			return f, errors.New("is not a forward: " + example)
		}
	}
	port, ok := hostport.Port(first)
	if !ok && first != "0" {
		return f, fmt.Errorf("has %q where the local port is to be: %s", first, example)
	}
	f.Port = int(port)
	host, port, err := hostport.Parse(rest)
	if err != nil {
		return f, fmt.Errorf("leads to %q, which %w: %s", rest, err, example)
	}
	f.Destination = net.JoinHostPort(host, strconv.Itoa(int(port)))
	return f, nil
}

// cut returns what is before the first colon, without the brackets that IPv6 is in, and what
// is behind it.
func cut(s string) (first, rest string, ok bool) {
	if strings.HasPrefix(s, "[") {
		return strings.Cut(s[1:], "]:")
	}
	return strings.Cut(s, ":")
}
