//go:build unix && (!linux || race)

package rawio

import "syscall"

// Read reads from a non-blocking socket into p. It is for use in the callback of a
// syscall.RawConn.
func Read(fd uintptr, p []byte) (int, error) { return call(syscall.Read, fd, p) }

// Write writes p to a non-blocking socket. It is for use in the callback of a
// syscall.RawConn.
func Write(fd uintptr, p []byte) (int, error) { return call(syscall.Write, fd, p) }

func call(f func(int, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := f(int(fd), p)
		if err == nil {
			return n, nil
		}
		if err != syscall.EINTR {
			return 0, err
		}
	}
}
