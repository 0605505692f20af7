package oneport

import (
	"bufio"
	"net/http"
	"path"
	"strings"
	"testing"
)

// FuzzBelow asks for any target: what the data plane would read as a path at or below the control plane's never gets
// there, so no upstream can pose as it, and nothing else is taken from visitors.
func FuzzBelow(f *testing.F) {
	for _, s := range []string{"/_adit/status", "/%5Fadit/x", "/a/../_adit", "//_adit//x", "/_adit/../x", "/_adit2", "http://h/_adit", "*", "/./_adit", "/_adit%2f..%2fx", "/_adit;x", "/x/%2e%2e/_adit"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n")))
		if err != nil || r.ProtoMajor != 1 || len(r.Header) > 0 {
			return
		}
		to, ok := below("/_adit", r)
		read := path.Clean("/" + r.URL.Path) // as the data plane matches prefixes
		want := read == "/_adit" || strings.HasPrefix(read, "/_adit/")
		if ok != want {
			t.Fatalf("%q, which is read as %q, is the control plane's: %v", target, read, ok)
		}
		if ok && !strings.HasPrefix(to, "/") {
			t.Fatalf("%q becomes %q", target, to)
		}
	})
}
