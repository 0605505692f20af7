//go:build unix

package files

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestSpecial holds that pipes, sockets and devices are 404, at once, and absent from the listing: ask fails the test
// when an answer takes longer than its deadline.
func TestSpecial(t *testing.T) {
	dir := tree(t, map[string]string{
		"regular": "content", "linkpipe": "-> pipe", "folder/index.html": "-> ../pipe", "folder/x": "x",
	})
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o666))
	socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
	must(t, err)
	defer socket.Close()
	special := []string{"pipe", "socket", "linkpipe"}
	// Only root may make devices; /dev/null serves others as one.
	if err := syscall.Mknod(filepath.Join(dir, "device"), syscall.S_IFCHR|0o666, 1<<8|3); err == nil {
		special = append(special, "device")
	}
	addr := start(t, serve(t, dir, Options{Browse: true}))
	for _, name := range special {
		t.Run(name, func(t *testing.T) {
			ask(t, addr, "GET", "/"+name).expect(t, 404, "not found: \"/"+name+"\"\n")
			ask(t, addr, "GET", "/"+name+"/").expect(t, 404, "not found: \"/"+name+"/\"\n")
		})
	}
	listing := ask(t, addr, "GET", "/")
	for _, name := range special {
		if strings.Contains(listing.body, ">"+name+"<") {
			t.Errorf("%s is listed", name)
		}
	}
	if !strings.Contains(listing.body, ">regular<") {
		t.Error("the regular file is not listed")
	}
	if a := ask(t, addr, "GET", "/folder/"); a.code != 200 || !strings.Contains(a.body, "Index of /folder") {
		t.Errorf("a pipe as index.html: got %d, want the listing", a.code)
	}
	t.Run("/dev", func(t *testing.T) {
		addr := start(t, serve(t, "/dev", Options{Browse: true}))
		for _, name := range []string{"null", "zero", "tty"} {
			ask(t, addr, "GET", "/"+name).expect(t, 404, "not found: \"/"+name+"\"\n")
		}
	})
}

// TestSwapped holds that a pipe which takes a file's place after open looked at it does not block: the flag that open
// uses returns at once.
func TestSwapped(t *testing.T) {
	dir := t.TempDir()
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o666))
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	f, err := root.OpenFile("pipe", os.O_RDONLY|nonblock, 0)
	must(t, err)
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	if servable(info) {
		t.Error("a pipe counts as servable")
	}
}

// TestUnreadable needs a user that permissions apply to.
func TestUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may read everything; TestStatus covers the code")
	}
	dir := tree(t, map[string]string{"locked": "x"})
	must(t, os.Chmod(filepath.Join(dir, "locked"), 0))
	addr := start(t, serve(t, dir, Options{}))
	ask(t, addr, "GET", "/locked").expect(t, 403, "forbidden: the file server has no permission to read \"/locked\"\n")
}

// TestBytesInNames holds that names which are not UTF-8, as older systems left them, are listed and served.
func TestBytesInNames(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "caf\xe9.txt"), []byte("latin"), 0o644); err != nil {
		t.Skip("this file system takes only UTF-8 names:", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, `back\slash`), []byte("backslash"), 0o644))
	addr := start(t, serve(t, dir, Options{Browse: true}))
	listing := ask(t, addr, "GET", "/")
	for target, want := range map[string]string{"./caf%E9.txt": "latin", "./back%5Cslash": "backslash"} {
		if !strings.Contains(listing.body, `href="`+target+`"`) {
			t.Errorf("no link to %s", target)
		}
		ask(t, addr, "GET", strings.TrimPrefix(target, ".")).expect(t, 200, want)
	}
}
