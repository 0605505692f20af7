//go:build unix && !linux

package e2e

import "syscall"

func processAttributes() *syscall.SysProcAttr { return nil }
