// Package configtest keeps what is written about settings in line with the settings.
package configtest

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/adit-tunnel/adit/shared/config"
)

var update = flag.Bool("update", false, "write the tables of variables into the README")

// README checks that the table of an image's variables in the README at path, between
// <!-- settings NAME --> and <!-- end -->, is what the program itself says, spec being
// its settings. With -update it writes the table.
func README(t *testing.T, path, name string, spec any) {
	t.Helper()
	var table strings.Builder
	if err := config.WriteMarkdown(&table, spec); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin := "<!-- settings " + name + " -->\n"
	before, rest, ok := strings.Cut(string(doc), begin)
	old, after, ok2 := strings.Cut(rest, "<!-- end -->")
	if !ok || !ok2 {
		t.Fatalf("%s has no %s… <!-- end -->", path, begin)
	}
	want := "\n" + strings.TrimSpace(table.String()) + "\n\n"
	if old == want {
		return
	}
	if !*update {
		t.Errorf("the table of %s in %s is not what the program says; write it with: make docs", name, path)
		return
	}
	if err := os.WriteFile(path, []byte(before+begin+want+"<!-- end -->"+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
