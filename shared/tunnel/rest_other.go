//go:build !linux

package tunnel

// canRest is false where an idle connection keeps its goroutine.
const canRest = false

var resting poller

type poller struct{}

func (*poller) add(*relay) bool { return false }
func (*poller) remove(*relay)   {}
