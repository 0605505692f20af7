package main

import (
	"os"
	"syscall"
)

// processAttributes puts a program into a process group of its own, so that Ctrl-C
// reaches the demo alone, which then stops the programs in order. Should the demo
// be killed, the kernel stops them.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
