//go:build unix

package rawio

import "sync"

// aheadSize is how much is read from the socket at once when reading ahead, in bytes.
const aheadSize = 128 << 10

var (
	aheadPool = sync.Pool{New: func() any { return &kept{b: make([]byte, aheadSize)} }}
	widePool  = sync.Pool{New: func() any { return &kept{b: make([]byte, WideSize)} }}
)

// kept is what was read ahead: b from r to w.
type kept struct {
	b    []byte
	r, w int
}

// newKept returns a wide one if there is one.
func newKept(wide bool) *kept {
	if wide && TakeWide() {
		return widePool.Get().(*kept)
	}
	return aheadPool.Get().(*kept)
}

func (k *kept) recycle() {
	if len(k.b) == WideSize {
		widePool.Put(k)
		GiveWide()
	} else {
		aheadPool.Put(k)
	}
}

// ReadAhead has Read take up to 128 KiB from the socket at once, or [WideSize] where that much comes fast, and keep what
// was not asked for: TLS asks for a record at a time. While the socket is silent no buffer is held. It is called while
// nobody reads; from then on nobody may read the socket in another way.
func (c *Conn) ReadAhead() { c.r.ahead, c.r.call = true, c.r.readAhead }

// Ahead returns how many bytes Read has kept. Only who reads may call it.
func (c *Conn) Ahead() int {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if k := c.r.kept; k != nil {
		return k.w - k.r
	}
	return 0
}

// take moves what was read ahead to p.
func (o *op) take(p []byte) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.takeLocked(p)
}

func (o *op) takeLocked(p []byte) int {
	k := o.kept
	if k == nil {
		return 0
	}
	n := copy(p, k.b[k.r:k.w])
	if k.r += n; k.r == k.w {
		k.recycle()
		o.kept = nil
	}
	return n
}

// readAhead is the callback of a Read that finds nothing kept; false waits for more.
func (o *op) readAhead(fd uintptr) bool {
	if o.n = o.takeLocked(o.p); o.n > 0 { // another Read has kept something meanwhile
		return true
	}
	k := newKept(o.much)
	direct := o.p
	o.p = k.b
	ready := o.read(fd)
	o.p = direct
	if ready {
		o.much = o.pace.Fast(o.n) && o.n >= aheadSize
	}
	k.r, k.w = copy(direct, k.b[:o.n]), o.n
	o.n = k.r
	if k.r < k.w {
		o.kept = k
	} else {
		k.recycle()
	}
	return ready
}
