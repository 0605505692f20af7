package edge

// blocks follows the frames of a visitor of HTTP/2 as far as it takes to know of heads that
// are under way: those whose END_HEADERS has not come (RFC 9113 section 4.3). Nobody needs
// more than one frame but for a large head, and one that is never ended stays in memory as
// long as the connection is idle.
type blocks struct {
	header [9]byte // of a frame, as far as it has come
	have   int
	left   int  // bytes of the payload that are still to come
	open   bool // the head goes on behind this frame
}

const (
	frameHeaders      = 1
	frameContinuation = 9
	endHeaders        = 4
	// blockCost is what a byte of a head in HTTP/2 may cost, where a field may have five.
	blockCost = 12
)

// check follows p and returns how many bytes of heads that are under way are in it.
func (b *blocks) check(p []byte) (held int) {
	for len(p) > 0 {
		if b.left > 0 {
			n := min(len(p), b.left)
			if b.open {
				held += n
			}
			b.left -= n
			p = p[n:]
			continue
		}
		n := copy(b.header[b.have:], p)
		p = p[n:]
		if b.have += n; b.have < len(b.header) {
			break
		}
		b.have = 0
		b.left = int(b.header[0])<<16 | int(b.header[1])<<8 | int(b.header[2])
		if kind := b.header[3]; kind == frameHeaders || kind == frameContinuation {
			b.open = b.header[4]&endHeaders == 0
		}
	}
	return held
}
