//go:build unix && !linux

package main

import (
	"os"
	"syscall"
)

// processAttributes puts a program into a process group of its own, so that Ctrl-C
// reaches the demo alone, which then stops the programs in order.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
