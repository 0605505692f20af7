package tunnel

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

const canRest = true

// resting has the relays that are at rest.
var resting poller

// poller waits for the sockets of many relays at once, in one goroutine, which is there
// while there are any.
type poller struct {
	mu      sync.Mutex
	file    *os.File // of the epoll instance; nil before it is needed
	raw     syscall.RawConn
	relays  map[uint64]*relay
	last    uint64 // id; those of the past are not used again, as descriptors are
	running bool
}

// add waits for the relay's socket, and wakes the relay when there is something to read,
// the end included. It reports false if it cannot. The caller has the relay's lock.
func (p *poller) add(r *relay) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file == nil && p.open() != nil {
		return false
	}
	p.last++
	event := syscall.EpollEvent{
		Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | 1<<30, // EPOLLONESHOT
		Fd:     int32(p.last), Pad: int32(p.last >> 32),
	}
	if p.control(r, syscall.EPOLL_CTL_ADD, &event) != nil {
		return false
	}
	r.rest.id = p.last
	p.relays[p.last] = r
	trims.add()
	if !p.running {
		p.running = true
		_ = p.file.SetReadDeadline(time.Time{})
		go p.run()
	}
	return true
}

// remove forgets a relay that rests no more.
func (p *poller) remove(r *relay) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.relays, r.rest.id)
	trims.remove()
	_ = p.control(r, syscall.EPOLL_CTL_DEL, nil) // a socket that is closed is not there any more
	if len(p.relays) == 0 {
		_ = p.file.SetReadDeadline(time.Unix(1, 0))
	}
}

func (p *poller) control(r *relay, op int, event *syscall.EpollEvent) error {
	var err error
	outer := p.raw.Control(func(epoll uintptr) {
		inner := r.raw.conn.Control(func(fd uintptr) { err = syscall.EpollCtl(int(epoll), op, int(fd), event) })
		err = errors.Join(err, inner)
	})
	return errors.Join(err, outer)
}

func (p *poller) open() error {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	_ = syscall.SetNonblock(fd, true) // tells os that it can be waited for
	p.file = os.NewFile(uintptr(fd), "epoll")
	p.relays = map[uint64]*relay{}
	p.raw, err = p.file.SyscallConn()
	return err
}

// run wakes relays until there are none.
func (p *poller) run() {
	events := make([]syscall.EpollEvent, 64)
	for {
		n := 0
		_ = p.raw.Read(func(epoll uintptr) bool {
			n, _ = syscall.EpollWait(int(epoll), events, 0) // EINTR does not occur without a wait
			return n > 0
		})
		p.mu.Lock()
		// There may have been an event of a relay that is gone: the deadline that remove has
		// set since would be lost below.
		if len(p.relays) == 0 {
			p.running = false
			p.mu.Unlock()
			return
		}
		_ = p.file.SetReadDeadline(time.Time{})
		var awake []*relay
		for _, event := range events[:max(n, 0)] {
			if r := p.relays[uint64(uint32(event.Fd))|uint64(uint32(event.Pad))<<32]; r != nil {
				awake = append(awake, r)
			}
		}
		p.mu.Unlock()
		for _, r := range awake {
			r.wake()
		}
	}
}
