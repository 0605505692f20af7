package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

var built struct {
	once sync.Once
	dir  string
	out  []byte
	err  error
}

// platform is the one that the binary of these tests is for.
var platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

// binaries returns a folder with a binary of the fileserver, as the build command wants it.
func binaries(t *testing.T) string {
	t.Helper()
	if _, ok := architectures[runtime.GOARCH]; !ok || runtime.GOARCH == "arm" {
		t.Skipf("the archives are not made for %s", runtime.GOARCH)
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "adit-oci-test-"); built.err != nil {
			return
		}
		const version = "github.com/adit-tunnel/adit/shared/version."
		cmd := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X "+version+"Version=1.2.3 -X "+version+"SHA=abc",
			"-o", filepath.Join(built.dir, dashed(platform), "fileserver"), "../fileserver")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
		built.out, built.err = cmd.CombinedOutput()
	})
	if built.err != nil {
		t.Fatalf("build the fileserver: %v\n%s", built.err, built.out)
	}
	return built.dir
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	removeImages()
	os.Exit(code)
}

// archives makes the archives of the fileserver and returns their folder.
func archives(t *testing.T, args ...string) string {
	t.Helper()
	dir, from := filepath.Join(t.TempDir(), "images"), binaries(t)
	args = append([]string{"build", "-version", "1.2.3", "-revision", "abc", "-epoch", "1700000000", "-platforms", platform.String(), "-root", "../..", "-binaries", from, "-out", dir}, args...)
	if err := run(append(args, "fileserver"), io.Discard); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestArchives(t *testing.T) {
	dir := archives(t)
	var report strings.Builder
	if err := run([]string{"check", dir}, &report); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(report.String()), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "adit-fileserver-linux-") || runtime.GOOS == "linux" && !strings.HasSuffix(lines[0], "runs here") {
		t.Errorf("the check says\n%s", report.String())
	}
	again := archives(t)
	for _, name := range []string{sumsFile, "adit-fileserver.tar", "adit-fileserver-" + dashed(platform) + ".tar", "adit-fileserver-" + dashed(platform) + ".cdx.json"} {
		one, err1 := os.ReadFile(filepath.Join(dir, name))
		two, err2 := os.ReadFile(filepath.Join(again, name))
		if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
			t.Errorf("%s: two builds differ: %v %v", name, err1, err2)
		}
	}
}

// Another program reads the archives as this one does.
func TestSkopeo(t *testing.T) {
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is absent (Debian: skopeo)")
	}
	dir := archives(t)
	for _, name := range []string{"adit-fileserver", "adit-fileserver-" + dashed(platform)} {
		cmd := exec.CommandContext(t.Context(), "skopeo", "--insecure-policy", "copy", "--all", "oci-archive:"+filepath.Join(dir, name+".tar"), "dir:"+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// The check finds what could be wrong with an image.
func TestCheckFinds(t *testing.T) {
	from := binaries(t)
	good, err := os.ReadFile(filepath.Join(from, dashed(platform), "fileserver"))
	if err != nil {
		t.Fatal(err)
	}
	here := platform.Architecture
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[here]
	for _, test := range []struct {
		name              string
		platform, version string
		binary            []byte
		dockerfile        func(string) string
		want              string
	}{
		{name: "another architecture", platform: other, binary: good, want: "the binary is for EM_"},
		{name: "another word size", platform: "arm/v7", binary: good, want: "the binary is for EM_"},
		{name: "unknown architecture", platform: "riscv64", binary: good, want: "does not know"},
		{name: "no program", binary: []byte(strings.Repeat("#!/bin/sh\n", 99)), want: "bad magic number"},
		{name: "too large", binary: append(slices.Clone(good), make([]byte, maxSize)...), want: "are more than the"},
		{name: "another version", version: "1.2.4", binary: good, want: `the labels "adit fileserver 1.2.4 (abc)`},
		{name: "root", binary: good, dockerfile: func(s string) string { return strings.Replace(s, "USER 65532:65532", "USER 0", 1) }, want: `the user is "0"`},
		{name: "no binary", binary: good, dockerfile: func(s string) string { return strings.Replace(s, "COPY --from=build", "# ", 1) }, want: "is not in the image"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "another version" && runtime.GOOS != "linux" {
				t.Skip("the binary does not run on " + runtime.GOOS)
			}
			p, err := v1.ParsePlatform("linux/" + map[bool]string{true: here, false: test.platform}[test.platform == ""])
			if err != nil {
				t.Fatal(err)
			}
			text := dockerfile(t, "fileserver")
			if test.dockerfile != nil {
				text = test.dockerfile(text)
			}
			version := "1.2.3"
			if test.version != "" {
				version = test.version
			}
			s, err := readStage(strings.NewReader(text), map[string]string{"VERSION": version, "SHA": "abc"})
			if err != nil {
				t.Fatal(err)
			}
			var r release
			image, err := makeImage(s, "fileserver", test.binary, *p, r.created)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := writeArchive(filepath.Join(dir, "x.tar"), tagged{"x", "1+2"}, r.created, image); err != nil {
				t.Fatal(err)
			}
			if err := writeSums(dir); err != nil {
				t.Fatal(err)
			}
			if err := check(dir, io.Discard); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	t.Run("changed", func(t *testing.T) {
		dir := archives(t)
		name := filepath.Join(dir, "adit-fileserver.tar")
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		content[len(content)/2] ^= 1
		if err := os.WriteFile(name, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := check(dir, io.Discard); err == nil || !strings.Contains(err.Error(), sumsFile) {
			t.Errorf("with the old sums: %v", err)
		}
		if err := writeSums(dir); err != nil {
			t.Fatal(err)
		}
		if err := check(dir, io.Discard); err == nil || !strings.Contains(err.Error(), "validating") {
			t.Errorf("with new sums: %v", err)
		}
	})
	t.Run("empty", func(t *testing.T) {
		dir := t.TempDir()
		if err := writeSums(dir); err != nil {
			t.Fatal(err)
		}
		if err := check(dir, io.Discard); err == nil || !strings.Contains(err.Error(), "no archives") {
			t.Errorf("got %v", err)
		}
	})
}

func TestMisuse(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "no command"},
		{[]string{"push"}, `unknown command "push"`},
		{[]string{"check"}, "check needs one folder"},
		{[]string{"build", "client"}, "build needs more"},
		{[]string{"build", "-version", "1", "-revision", "1", "-binaries", "x", "-out", "x"}, "build needs more"},
		{[]string{"build", "-version", "1", "-revision", "1", "-binaries", "x", "-out", "x", "-platforms", "linux", "client"}, `platform "linux"`},
		{[]string{"build", "-push"}, "not defined: -push"},
	} {
		if err := run(test.args, io.Discard); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want %s", test.args, err, test.want)
		}
	}
}

// The SBOM is valid by CycloneDX's own schema and has every module that the binary says it was linked from.
func TestSBOM(t *testing.T) {
	dir := archives(t)
	content, err := os.ReadFile(filepath.Join(dir, "adit-fileserver-"+dashed(platform)+".cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := bomSchema(t).Validate(document); err != nil {
		t.Errorf("not by the schema: %v", err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(content), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(filepath.Join(binaries(t), dashed(platform), "fileserver"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, dep := range info.Deps {
		want = append(want, "pkg:golang/"+dep.Path+"@"+dep.Version)
	}
	var got []string
	for _, c := range *bom.Components {
		got = append(got, c.PackageURL)
		if c.Name != "std" && (c.Hashes == nil || len((*c.Hashes)[0].Value) != 64) {
			t.Errorf("%s has no hash", c.Name)
		}
	}
	if !slices.Equal(got, want) || len(got) < 5 {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if c := bom.Metadata.Component; c.Name != "adit-fileserver" || c.Version != "1.2.3" || len((*c.Hashes)[0].Value) != 64 || bom.Metadata.Timestamp != "2023-11-14T22:13:20Z" {
		t.Errorf("it is about %+v, of %s", c, bom.Metadata.Timestamp)
	}
}

// bomSchema is the schema that comes with the library.
func bomSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	for url, name := range map[string]string{"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json"} {
		content, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "schema", name))
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource("http://cyclonedx.org/schema/"+url, document); err != nil {
			t.Fatal(err)
		}
	}
	return compiler.MustCompile("http://cyclonedx.org/schema/bom-1.6.schema.json")
}

// Every image has the authorities' certificates compiled in, except the one that connects to nobody.
func TestRootsAreCompiledIn(t *testing.T) {
	const roots = "golang.org/x/crypto/x509roots/fallback"
	for _, name := range imageNames {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath", "../"+name).Output()
		if err != nil {
			t.Fatal(err)
		}
		var found bool
		for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
			var p struct{ ImportPath string }
			if err := d.Decode(&p); err != nil {
				t.Fatal(err)
			}
			found = found || p.ImportPath == roots
		}
		if want := name != "fileserver"; found != want {
			t.Errorf("%s has %s: %v, want %v", name, roots, found, want)
		}
	}
}
