package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/config"
)

// TestVisitorsFile changes the file of BASIC_AUTH, to something unusable first.
func TestVisitorsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ann:first-password\n")
	for _, name := range config.Names(&settings{}) {
		t.Setenv(name, "")
	}
	t.Setenv("TOKEN", secretToken)
	t.Setenv("BASIC_AUTH_FILE", file)
	t.Setenv("MODE", "http,tcp")
	var cfg settings
	if err := config.Load(&cfg); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		v, err := newVisitors(&cfg, nil, zerolog.New(&out))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, watch := range v.watch() {
			wg.Go(func() { _ = watch(ctx) })
		}
		want := func(pair string, in bool) {
			t.Helper()
			line := "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))
			if got := v.door.All().Check(netip.Addr{}, []string{line}); got.Admits() != in {
				t.Errorf("%s: %+v", pair, got)
			}
		}
		change := func(content string) {
			write(content)
			<-time.After(3 * rereadEvery)
			synctest.Wait()
		}
		want("ann:first-password", true)
		change("ann-second-password")
		want("ann:first-password", true)
		change("ann:second-password")
		want("ann:first-password", false)
		want("ann:second-password", true)
		cancel()
		wg.Wait()
		for _, part := range []string{"the new credentials of visitors are not valid", "took up changed credentials of visitors", `"visitors":"1 user"`, "TCP ports cannot ask for credentials"} {
			if !strings.Contains(out.String(), part) {
				t.Errorf("no %s in %s", part, out.String())
			}
		}
		if strings.Contains(out.String(), "-password") {
			t.Errorf("a password is in the log: %s", out.String())
		}
	})
}
