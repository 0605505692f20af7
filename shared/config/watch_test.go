package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// watched runs watch in a bubble of fake time, plays the steps at one second
// intervals with two looks in each, and returns what was reported.
func watched(t *testing.T, watch func(ctx context.Context, every time.Duration, changed func(string)) error, steps []func()) []string {
	t.Helper()
	var got []string
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error)
		go func() {
			done <- watch(ctx, 400*time.Millisecond, func(content string) { got = append(got, content) })
		}()
		synctest.Wait()
		for _, step := range steps {
			step()
			time.Sleep(time.Second) // of the bubble, not of the machine
			synctest.Wait()
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	return got
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	to := func(content string) func() {
		return func() { must(t, os.WriteFile(path, []byte(content), 0o600)) }
	}
	to("one")()
	got := watched(t, func(ctx context.Context, every time.Duration, changed func(string)) error {
		return Watch(ctx, path, every, func(content []byte) { changed(string(content)) })
	}, []func(){
		func() {},
		to("one"),
		to("two"),
		func() { must(t, os.Remove(path)) },
		to("two"),
		func() { must(t, os.Remove(path)); must(t, os.Mkdir(path, 0o700)) },
		func() { must(t, os.Remove(path)) },
		to("three"),
		to("one"),
	})
	if want := []string{"two", "three", "one"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Kubernetes swaps a symlink to the directory that holds the file.
func TestWatchSymlinkSwap(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"v1", "v2"} {
		must(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, version, "token"), []byte(version), 0o600))
	}
	must(t, os.Symlink("v1", filepath.Join(dir, "..data")))
	path := filepath.Join(dir, "token")
	must(t, os.Symlink(filepath.Join("..data", "token"), path))
	got := watched(t, func(ctx context.Context, every time.Duration, changed func(string)) error {
		return Watch(ctx, path, every, func(content []byte) { changed(string(content)) })
	}, []func(){
		func() {
			must(t, os.Symlink("v2", filepath.Join(dir, "..new")))
			must(t, os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
		},
	})
	if want := []string{"v2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A file that is read in the middle of a write is not reported.
func TestWatchHalfWritten(t *testing.T) {
	path := write(t, "one")
	half := func() {
		must(t, os.WriteFile(path, []byte("tw"), 0o600))
		time.AfterFunc(500*time.Millisecond, func() { os.WriteFile(path, []byte("two"), 0o600) })
	}
	got := watched(t, func(ctx context.Context, every time.Duration, changed func(string)) error {
		return Watch(ctx, path, every, func(content []byte) { changed(string(content)) })
	}, []func(){half, func() {}})
	if want := []string{"two"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSecretWatch(t *testing.T) {
	path := write(t, "one\n")
	var s struct{ Token Secret }
	environ(t, &s, map[string]string{"TOKEN_FILE": path})
	must(t, Load(&s))
	to := func(content string) func() {
		return func() { must(t, os.WriteFile(path, []byte(content), 0o600)) }
	}
	// The first change is made between Load and Watch.
	to("two\n")()
	got := watched(t, s.Token.Watch, []func(){func() {}, to("two"), to(" \n"), to("two\n"), to("three\r\n")})
	if want := []string{"two", "three"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSecretWatchWithoutFile(t *testing.T) {
	if got := watched(t, SecretValue("one").Watch, []func(){func() {}}); got != nil {
		t.Errorf("got %q", got)
	}
}
