package service

import (
	"errors"
	"net"
	"time"
)

// Accept hands every connection of l to serve, which must not block, until l is closed, or
// stop while it waits. When a connection cannot be accepted, most likely for want of
// descriptors, it says so to failed and waits a moment, longer each time, up to a second.
func Accept(l net.Listener, stop <-chan struct{}, failed func(err error, retryIn time.Duration), serve func(net.Conn)) {
	const first, most = 5 * time.Millisecond, time.Second
	delay := first
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			failed(err, delay)
			timer := time.NewTimer(delay)
			select {
			case <-timer.C:
			case <-stop:
				timer.Stop()
				return
			}
			delay = min(2*delay, most)
			continue
		}
		delay = first
		serve(conn)
	}
}
