//go:build unix

package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// What the binaries under test say that they are.
const (
	testVersion = "1.2.3-e2e"
	testSHA     = "0123456789ab"
)

// raceEnabled tells that the test runs with the race detector; the binaries then do, too.
var raceEnabled bool

func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen { // the tests wait more than they compute
		_ = flag.Set("test.parallel", "8")
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if built.dir != "" {
			_ = os.RemoveAll(built.dir)
		}
		os.Exit(code)
	}))
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// binary returns the path of a program of this repository, built when it is first asked for.
func binary(t testing.TB, name string) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "adit-e2e-"); built.err == nil {
			built.err = build(built.dir)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, name)
}

func build(dir string) error {
	const version = "github.com/adit-tunnel/adit/shared/version."
	args := []string{"build", "-o", dir + "/", "-ldflags", "-X " + version + "Version=" + testVersion + " -X " + version + "SHA=" + testSHA}
	cgo := "0" // as in the images
	if raceEnabled {
		args, cgo = append(args, "-race"), "1"
	}
	cmd := exec.Command("go", append(args, "../images/server", "../images/client", "../images/fileserver")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}
