package tunnel

import (
	"sync"

	"github.com/adit-tunnel/adit/shared/rawio"
)

// A chunk holds received bytes of one stream: filled at the end by the session's
// reader, consumed at the front by the stream's.
type chunk struct {
	buf  []byte // of a class's size
	r, w int    // consumed up to r, filled up to w
	next *chunk
}

// chunkClasses are the sizes of chunks in bytes. The largest holds any frame.
var chunkClasses = [...]int{2 << 10, 8 << 10, 32 << 10, 64 << 10}

var chunkPools [len(chunkClasses)]sync.Pool

// newChunk returns an empty chunk with room for n bytes, n at most MaxPayload.
func newChunk(n int) *chunk {
	for i, size := range chunkClasses {
		if n <= size {
			if c, _ := chunkPools[i].Get().(*chunk); c != nil {
				return c
			}
			return &chunk{buf: make([]byte, size)}
		}
	}
	panic("tunnel: chunk larger than a frame")
}

func (c *chunk) free() {
	c.r, c.w, c.next = 0, 0, nil
	for i, size := range chunkClasses {
		if len(c.buf) == size {
			chunkPools[i].Put(c)
			return
		}
	}
}

// Pools of plain buffers: pendingPool for the writer's batches, which begin small and grow
// (nearly idle sessions, very many at once, have a ping to send), copyPool for bytes on
// their way from a socket into a stream, idlePool for the wait for such bytes, lanePool and
// widePool for streams that are on a lane.
var (
	pendingPool = sync.Pool{New: func() any { return &Buffer{b: make([]byte, 0, 512)} }}
	copyPool    = sync.Pool{New: func() any { return &Buffer{b: make([]byte, copySize)} }}
	idlePool    = sync.Pool{New: func() any { return &Buffer{b: make([]byte, idleSize)} }}
	lanePool    = sync.Pool{New: func() any { return &Buffer{b: make([]byte, laneSize)} }}
	widePool    = sync.Pool{New: func() any { return &Buffer{b: make([]byte, rawio.WideSize)} }}
)

// copySize is how much is read from a socket at once, in bytes: one full frame.
const (
	copySize = bulkData
	idleSize = 4 << 10
	// laneSize is a usual frame on a lane with its header: eight records of TLS.
	laneSize = 8 * 16 << 10
)

// Buffer holds bytes on their way into a stream. It is of a pool.
type Buffer struct{ b []byte }

// newLaneBuffer returns a buffer for a stream that is on a lane, whose frames are made in place. Its body is as long as
// a usual one of them, or longer if wide and there is one.
func newLaneBuffer(wide bool) *Buffer {
	if wide && rawio.TakeWide() {
		return widePool.Get().(*Buffer)
	}
	return lanePool.Get().(*Buffer)
}

// wideNext is called whenever bytes of a transfer on a lane have come, and reports whether a wide buffer is worth it for
// the next ones.
func wideNext(p *rawio.Pace, n int) bool { return p.Fast(n) && n >= laneSize-wsHeader }

// LaneBuffers gives a transfer on a lane its buffers, one at a time. The zero value is ready; it is used by one
// goroutine, which calls Recycle at the end.
type LaneBuffers struct {
	pace rawio.Pace
	b    *Buffer
}

// Next returns the buffer for the next bytes, after n came in the last one, which is not to be used any more.
func (l *LaneBuffers) Next(n int) *Buffer {
	wide := wideNext(&l.pace, n)
	if l.b != nil && wide == (len(l.b.b) > laneSize) {
		return l.b
	}
	l.Recycle()
	l.b = newLaneBuffer(wide)
	return l.b
}

// Recycle gives the last buffer back.
func (l *LaneBuffers) Recycle() {
	if l.b != nil {
		l.b.Recycle()
		l.b = nil
	}
}

// Body is where bytes are read to.
func (b *Buffer) Body() []byte { return b.b[b.front():] }

// front is how many bytes lie in front of the body: in a buffer for a lane there is room
// for the header of a frame.
func (b *Buffer) front() int {
	if len(b.b) >= laneSize {
		return wsHeader
	}
	return 0
}

// Recycle returns the buffer to its pool.
func (b *Buffer) Recycle() {
	switch len(b.b) {
	case idleSize:
		idlePool.Put(b)
	case copySize:
		copyPool.Put(b)
	case laneSize:
		lanePool.Put(b)
	default:
		widePool.Put(b)
		rawio.GiveWide()
	}
}
