//go:build !unix

package files

// nonblock is nothing where no named pipe can be found in a folder.
const nonblock = 0
