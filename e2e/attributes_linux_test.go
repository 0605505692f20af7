package e2e

import "syscall"

// processAttributes has the kernel end a program should the test be killed.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
