package main

import (
	"os"
	"syscall"
)

// processAttributes puts a program into a process group of its own, so that Ctrl-C
// reaches the demo alone, which then stops the programs in order.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

func terminate(p *os.Process) error { return p.Kill() }
