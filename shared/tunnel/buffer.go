package tunnel

import "sync"

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

// Pools of plain buffers: pendingPool for the writer's batches, copyPool for bytes
// on their way from a socket into a stream, idlePool for the wait for such bytes.
var (
	pendingPool = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, smallLimit+4<<10)} }}
	copyPool    = sync.Pool{New: func() any { return &buffer{b: make([]byte, copySize)} }}
	idlePool    = sync.Pool{New: func() any { return &buffer{b: make([]byte, idleSize)} }}
)

// copySize is how much is read from a socket at once, in bytes: one full frame.
const (
	copySize = bulkData
	idleSize = 4 << 10
)

type buffer struct{ b []byte }

// recycleCopy returns a buffer to copyPool or idlePool.
func (b *buffer) recycleCopy() {
	if len(b.b) == idleSize {
		idlePool.Put(b)
		return
	}
	copyPool.Put(b)
}
