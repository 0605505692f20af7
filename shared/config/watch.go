package config

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"
)

// Watch calls changed with the content of the file at path each time that
// differs from what it was before, at first from what it is at the call. It
// compares content, neither inode nor time: a symlink that is swapped, as
// Kubernetes does with a mounted Secret, is seen like a write in place. As a file
// may be read while it is being written, a change counts once two looks in a row,
// every apart, agree. A file that cannot be read, or is none, is looked at again
// later.
//
// Watch blocks until ctx ends and returns the cause. It calls changed from the
// goroutine that it was called on.
func Watch(ctx context.Context, path string, every time.Duration, changed func(content []byte)) error {
	last, _ := readRegular(path)
	return watch(ctx, path, every, last, changed)
}

func watch(ctx context.Context, path string, every time.Duration, last []byte, changed func(content []byte)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	before := last
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		content, err := readRegular(path)
		if err != nil {
			continue
		}
		if bytes.Equal(content, before) && !bytes.Equal(content, last) {
			last = content
			changed(content)
		}
		before = content
	}
}

// readRegular reads a file but nothing that would block, such as a pipe.
func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file", path)
	}
	content, err := readFile(path)
	return []byte(content), err
}
