//go:build unix

package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatsAreTested looks for the tests that the README names in its threat model.
func TestThreatsAreTested(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	must(t, err)
	_, section, _ := strings.Cut(string(readme), "### Who attacks what")
	section, _, found := strings.Cut(section, "\n## ")
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(section, -1)
	if !found || len(named) < 20 {
		t.Fatalf("the README names %d tests", len(named))
	}
	there := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	must(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		for _, f := range function.FindAllSubmatch(content, -1) {
			there[string(f[1])] = true
		}
		return err
	}))
	for _, name := range named {
		if !there[name[1]] {
			t.Errorf("the README names %s, which is no test", name[1])
		}
	}
}
