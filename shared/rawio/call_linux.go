//go:build linux && !race

package rawio

import (
	"syscall"
	"unsafe"
)

// Read reads from a non-blocking socket into p, which must not be empty. It is for use
// in the callback of a syscall.RawConn.
func Read(fd uintptr, p []byte) (int, error) { return call(syscall.SYS_READ, fd, p) }

// Write writes p, which must not be empty, to a non-blocking socket. It is for use in the
// callback of a syscall.RawConn.
func Write(fd uintptr, p []byte) (int, error) { return call(syscall.SYS_WRITE, fd, p) }

func call(number, fd uintptr, p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(number, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p))) // #nosec G103 -- as package syscall does it
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, syscall.EAGAIN // a constant: no allocation
		default:
			return 0, errno
		}
	}
}
