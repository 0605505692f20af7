package route

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Wait says whether visitors wait for the service behind an upstream, and when it counts
// as being there:
//
//	off                 they do not
//	tcp                 a connection can be made (with TLS, for https)
//	/healthz            GET /healthz is answered with 200 to 399
//	/healthz=204        … with 204
//	/healthz=200-299    … with 200 to 299
//
// The zero Wait says nothing.
type Wait struct {
	Kind      WaitKind
	Path      string // of WaitHTTP
	Low, High int    // the statuses of WaitHTTP
}

// WaitKind is how a Wait finds out.
type WaitKind uint8

// The kinds of Wait.
const (
	WaitUnset WaitKind = iota
	WaitOff
	WaitTCP
	WaitHTTP
)

// A check's answer that is good unless the user says otherwise: any but an error.
const lowStatus, highStatus = 200, 399

// Decode parses a Wait. It implements envconfig.Decoder.
func (w *Wait) Decode(value string) (err error) {
	*w, err = ParseWait(value)
	return err
}

// ParseWait parses a Wait. Errors quote the text and say what to write instead.
func ParseWait(text string) (Wait, error) {
	switch strings.ToLower(text) {
	case "off", "false":
		return Wait{Kind: WaitOff}, nil
	case "tcp", "true":
		return Wait{Kind: WaitTCP}, nil
	}
	p, statuses, given := strings.Cut(text, "=")
	if !strings.HasPrefix(p, "/") || strings.Trim(p, pathBytes) != "" || strings.Contains(p, "//") || path.Clean(p) != p && path.Clean(p)+"/" != p {
		return Wait{}, fmt.Errorf("%q is no way to wait: write tcp, a path such as /healthz, a path with the status wanted such as /healthz=200 or /healthz=200-299, or off", text)
	}
	w := Wait{Kind: WaitHTTP, Path: p, Low: lowStatus, High: highStatus}
	if !given {
		return w, nil
	}
	low, high, ranged := strings.Cut(statuses, "-")
	if !ranged {
		high = low
	}
	var err, errHigh error
	w.Low, err = parseStatus(low)
	if w.High, errHigh = parseStatus(high); err != nil || errHigh != nil || w.Low > w.High {
		return Wait{}, fmt.Errorf("%q: %q is neither a status from 200 to 599 nor a range of them: write %s=200 or %[3]s=200-299", text, statuses, p)
	}
	return w, nil
}

// pathBytes need no escaping in a path, a query and a list of upstreams.
const pathBytes = "/ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:@"

func parseStatus(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 200 || n > 599 || len(text) != 3 {
		return 0, errors.New("no status")
	}
	return n, nil
}

// String returns what ParseWait takes back, "" for the zero Wait.
func (w Wait) String() string {
	switch w.Kind {
	case WaitOff:
		return "off"
	case WaitTCP:
		return "tcp"
	case WaitHTTP:
		switch {
		case w.Low == lowStatus && w.High == highStatus:
			return w.Path
		case w.Low == w.High:
			return w.Path + "=" + strconv.Itoa(w.Low)
		}
		return fmt.Sprintf("%s=%d-%d", w.Path, w.Low, w.High)
	}
	return ""
}

// WaitOr returns how visitors wait for the upstream: as it says itself, or else as others
// do. A port is not asked for a path unless it says so itself.
func (u Upstream) WaitOr(others Wait) Wait {
	switch {
	case u.Wait.Kind != WaitUnset:
		return u.Wait
	case others.Kind == WaitHTTP && u.IsTCP():
		return Wait{Kind: WaitTCP}
	}
	return others
}
