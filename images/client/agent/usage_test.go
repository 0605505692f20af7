package agent

import (
	"os"
	"runtime"
	"testing"
)

var raceEnabled bool

type counts struct{ goroutines, descriptors int }

func usage(testing.TB) counts {
	c := counts{goroutines: runtime.NumGoroutine()}
	if list, err := os.ReadDir("/proc/self/fd"); err == nil { // Linux
		c.descriptors = len(list)
	}
	return c
}
