//go:build !linux

// Command bench compares adit with other ways to reach a private service.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: needs Linux: it reads processor time and memory of the programs from /proc")
	os.Exit(1)
}
