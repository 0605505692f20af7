package rawio

import (
	"sync/atomic"
	"time"
)

// WideSize is how much a bulky transfer moves at once where its bytes pass through this program, in bytes. Every system
// call costs more than itself, for what comes after it finds its memory in no cache: four times as much at once as the
// 128 KiB that all may use takes a fifth of the processor time of a download over TLS.
const WideSize = 512 << 10

// wideMost is how many buffers of WideSize there are at most, in all: 16 MiB. The fastest have them; slow or stalled
// transfers, of which there may be thousands, do not need them.
const wideMost = 32

// fastRate is from when on a transfer is worth a buffer of WideSize, in bytes per second.
const fastRate = 64 << 20

// Pace is that of one transfer: when bytes came last, since the program began. The zero value is ready; it is used by
// one goroutine.
type Pace time.Duration

var began = time.Now()

// Fast is called whenever bytes have come, and reports whether that was soon enough after the last ones for the transfer
// to be worth a buffer of WideSize: where the peer is slow, each step waits for it.
func (p *Pace) Fast(n int) bool { return p.fast(n, time.Since(began)) }

func (p *Pace) fast(n int, now time.Duration) bool {
	took := now - time.Duration(*p)
	*p = Pace(now)
	return took.Seconds() <= float64(n)/fastRate
}

var wide atomic.Int32

// TakeWide reports whether the caller may hold one more buffer of WideSize until it calls [GiveWide].
func TakeWide() bool {
	if wide.Add(1) > wideMost {
		wide.Add(-1)
		return false
	}
	return true
}

// GiveWide is called by who has one buffer of WideSize less.
func GiveWide() { wide.Add(-1) }
