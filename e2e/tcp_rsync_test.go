//go:build unix

package e2e

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// newTree makes a folder with files of many sizes, some of them in folders below.
func newTree(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	data := rand.NewChaCha8([32]byte{2: 9})
	for i, size := range []int64{0, 1, 511, 4096, 65537, 300_000, 3 << 20} {
		for _, dir := range []string{".", "a", "a/b"} {
			must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
			f, err := os.Create(filepath.Join(root, dir, fmt.Sprintf("file %d", i)))
			must(t, err)
			_, err = io.CopyN(f, data, size)
			must(t, err)
			must(t, f.Close())
		}
	}
	return root
}

// hashOfTree names every file below root with its hash.
func hashOfTree(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(root, path)
			fmt.Fprintf(&b, "%s %s\n", hashOfFile(t, path), name)
		}
		return err
	}))
	return b.String()
}

// TestRsync copies a tree of files from and to an rsync daemon.
func TestRsync(t *testing.T) {
	t.Parallel()
	rsync := needProgram(t, "rsync", "rsync")
	tree, inbox := newTree(t), t.TempDir()
	private, addr := privatePort(t)
	// uid and gid count only for root, who would become nobody.
	config := write(t, "rsyncd.conf", fmt.Sprintf("use chroot = no\nuid = %d\ngid = %d\nlog file = /dev/null\n"+
		"[tree]\npath = %s\nread only = yes\n[inbox]\npath = %s\nread only = no\n", os.Getuid(), os.Getgid(), tree, inbox))
	serve(t, syscall.SIGTERM, addr, rsync, "--daemon", "--no-detach", "--address=127.0.0.1", "--port="+private, "--config="+config)
	want := hashOfTree(t, tree)
	bothWays(t, addr, func(t *testing.T, port string) string {
		url := "rsync://127.0.0.1:" + port
		got := filepath.Join(t.TempDir(), "got")
		visitor{}.run(t, rsync, "-a", "--timeout=20", url+"/tree/", got)
		visitor{}.run(t, rsync, "-a", "--timeout=20", "--delete", "--checksum", got+"/", url+"/inbox/"+port)
		for _, copied := range []string{got, filepath.Join(inbox, port)} {
			if got := hashOfTree(t, copied); got != want {
				t.Errorf("the copy has\n%s\nwant\n%s", got, want)
			}
		}
		return hashOfTree(t, got)
	})
}
