package routing

import (
	"errors"
	"strings"

	"github.com/adit-tunnel/adit/shared/license"
)

// Hosts is the value of ALLOW_HOSTS: hosts and wildcards that clients may ask for, in the
// form of those of a licence; empty for all.
type Hosts []string

// Decode implements envconfig.Decoder.
func (h *Hosts) Decode(value string) error {
	var (
		out  Hosts
		errs []error
	)
	for _, text := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }) {
		host, err := license.ParseHost(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, host)
	}
	if len(out) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("no host: write hosts such as example.com or *.example.com, or * for all"))
	}
	*h = out
	return errors.Join(errs...)
}

// String returns the text that Decode takes.
func (h Hosts) String() string { return strings.Join(h, ",") }

// Allows reports whether a client may ask for the host, or the wildcard.
func (h Hosts) Allows(host string) bool {
	return len(h) == 0 || license.License{Hosts: h}.AllowsHost(host)
}
