package edge

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/adit-tunnel/adit/shared/tunnel"
)

// awaitResponse reads heads until the final one, and passes interim ones on.
func (x *exchange) awaitResponse(c *conn) (*http.Response, error) {
	c.head = maxHead
	for {
		if err := x.awaitByte(c); err != nil {
			return nil, err
		}
		resp, err := http.ReadResponse(c.br, x.r)
		switch {
		case err != nil && c.fault != nil: // the parser may only see a cut line
			return nil, c.fault
		case err != nil:
			return nil, err
		case resp.StatusCode < 100:
			return nil, errors.New("a status code of less than 100")
		case resp.StatusCode == http.StatusContinue:
			x.body.proceed()
			continue
		case resp.StatusCode == http.StatusSwitchingProtocols && !sameProtocol(resp.Header, x.upgrade):
			return nil, errors.New("changed to a protocol that nobody asked for")
		case resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols:
			x.sendInterim(resp)
			continue
		}
		c.head = -1
		_ = c.st.SetReadDeadline(time.Time{})
		x.body.refuse()
		return resp, nil
	}
}

// watchdog knows how long to wait for a response.
//
// A client that is frozen takes requests on streams that are open already, and never
// answers: when nothing has come after half of the time that opening a stream may take,
// the client is asked for a sign of life, and at the end of it given up.
type watchdog struct {
	x                   *exchange
	session             *tunnel.Session
	begun, half, nudged time.Time
	heard               bool
}

func (x *exchange) watchdog(session *tunnel.Session) watchdog {
	now := time.Now()
	return watchdog{x: x, session: session, begun: now, half: now.Add(x.e.open / 2)}
}

// next returns until when to wait before it is asked again, or why not to wait any more.
func (d *watchdog) next(now time.Time) (next time.Time, err error) {
	full := d.begun.Add(d.x.e.open)
	switch {
	case now.Before(d.half):
		next = d.half
	case d.nudged.IsZero():
		d.session.Nudge()
		d.nudged, next = now, full
	case now.Before(full):
		next = full
	default:
		// Whoever wakes up much later was frozen itself.
		if late := now.Sub(full) > d.x.e.open/2; !d.heard && !late && !d.session.LastHeard().After(d.nudged) {
			d.session.Missed()
			return now, errSilent
		}
		d.heard, next = true, now.Add(time.Minute) // pings watch over the session by now
	}
	if limit := d.x.limit(d.begun, now); !limit.IsZero() {
		if !now.Before(limit) {
			return now, os.ErrDeadlineExceeded
		}
		if next.After(limit) {
			next = limit
		}
	}
	return next, nil
}

// awaitByte waits for the first byte of a response head, and sets the deadline for the
// rest of it if there is any.
func (x *exchange) awaitByte(c *conn) error {
	watch := x.watchdog(c.st.Session())
	for {
		next, err := watch.next(time.Now())
		if err != nil {
			return err
		}
		_ = c.st.SetReadDeadline(next)
		if _, err := c.br.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
			if part, _ := c.br.Peek(c.br.Buffered()); !bytes.Contains(part, []byte("\r\n\r\n")) {
				next = time.Time{}
				if x.e.wait > 0 {
					next = time.Now().Add(x.e.wait)
				}
				_ = c.st.SetReadDeadline(next)
			}
			return err
		}
	}
}

// limit returns when the upstream has to have answered, as seen now, if we wait since
// begun; the zero time if it may take as long as it likes. Its time begins when it has
// the whole request. Calls of gRPC have deadlines of their own, and answers that may
// be long in coming: the head of a stream of messages often waits for the first.
func (x *exchange) limit(begun, now time.Time) time.Time {
	if x.e.wait <= 0 || x.isGRPC() {
		return time.Time{}
	}
	if x.body.done != nil {
		begun = now
		if at := x.body.sentAt.Load(); at != 0 {
			begun = time.Unix(0, at)
		}
	}
	return begun.Add(x.e.wait)
}
