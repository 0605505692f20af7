package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// version tells the images of this run from those of others.
var version = fmt.Sprintf("0.0.0-oci-%d", os.Getpid())

// needEngine skips the test where there is no container engine for the platform of this machine.
func needEngine(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", "info", "--format", "{{.OSType}}").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "linux" {
		t.Skipf("no container engine: docker info: %v: %s", err, bytes.TrimSpace(out))
	}
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is absent, which builds the images")
	}
}

// command runs a command and returns what it printed on stdout.
func command(t *testing.T, env []string, stdin io.Reader, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = stdin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		tail := stderr.Bytes()
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, tail[max(0, len(tail)-4000):])
	}
	return strings.TrimSpace(stdout.String())
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	return command(t, nil, nil, "docker", args...)
}

func removeAfter(t *testing.T, image string) {
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", image).Run() })
}

// imagesMade are the images as `make images` makes them, and where their binaries are.
var imagesMade struct {
	once sync.Once
	root string
	out  []byte
	err  error
}

// makeImages builds the images as `make images` does and returns the folder with their binaries.
func makeImages(t *testing.T) string {
	t.Helper()
	m := &imagesMade
	m.once.Do(func() {
		m.root = "../../build/images/" + version
		cmd := exec.CommandContext(context.Background(), "make", "-C", "../..", "images", "IMAGE_TAG="+version, "VERSION="+version, "SHA=abc")
		cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
		m.out, m.err = cmd.CombinedOutput()
	})
	if m.err != nil {
		t.Fatalf("make images: %v\n%s", m.err, m.out)
	}
	return m.root
}

// removeImages is for TestMain.
func removeImages() {
	if imagesMade.root == "" {
		return
	}
	for _, name := range imageNames {
		exec.Command("docker", "rmi", "-f", "adit-"+name+":"+version).Run()
	}
	os.RemoveAll(imagesMade.root)
}

// inEngine is what an engine says of an image.
type inEngine struct {
	OS           string `json:"Os"`
	Architecture string
	Variant      string
	Size         int64
	Config       v1.Config
}

func inspectImage(t *testing.T, image string) inEngine {
	t.Helper()
	var list []inEngine
	if err := json.Unmarshal([]byte(docker(t, "inspect", "--type=image", image)), &list); err != nil || len(list) != 1 {
		t.Fatalf("inspect %s: %v", image, err)
	}
	// What the engines' builders say each in its own way, and means the same.
	list[0].Config.Image = ""
	if list[0].Config.WorkingDir == "" {
		list[0].Config.WorkingDir = "/"
	}
	return list[0]
}

// entry is a file of an image: all that is the same however it was made.
type entry struct {
	path     string
	kind     byte
	mode     int64
	uid, gid int
	sum      [sha256.Size]byte
}

// contents lists the files of an image that are not the engine's own.
func contents(t *testing.T, image string) []entry {
	t.Helper()
	id := docker(t, "create", image)
	defer docker(t, "rm", id)
	out, err := exec.CommandContext(t.Context(), "docker", "export", id).Output()
	if err != nil {
		t.Fatalf("export: %v", err)
	}
	engine := regexp.MustCompile(`^(\.dockerenv|etc/(hostname|hosts|resolv\.conf|mtab)?|dev/.*|proc/|sys/)$`)
	var list []entry
	archive := tar.NewReader(bytes.NewReader(out))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if engine.MatchString(header.Name) {
			continue
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, entry{header.Name, header.Typeflag, header.Mode & 0o7777, header.Uid, header.Gid, sha256.Sum256(content)})
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	return list
}

// The archives load into the engine, and what they load is what the engine makes of the Dockerfile.
func TestLoadedIsBuilt(t *testing.T) {
	needEngine(t)
	root := makeImages(t)
	r := release{version: version + "-loaded", revision: "abc", created: time.Unix(1700000000, 0).UTC(), root: "../..", binaries: t.TempDir(), platforms: []v1.Platform{platform}}
	for _, name := range imageNames {
		t.Run(name, func(t *testing.T) {
			binary, err := os.ReadFile(filepath.Join(root, name, "out", name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(r.binaries, dashed(platform)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(r.binaries, dashed(platform), name), binary, 0o755); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := r.build(name, dir); err != nil {
				t.Fatal(err)
			}
			made, loaded := "adit-"+name+":"+version, "adit-"+name+":"+r.version
			removeAfter(t, loaded)
			if got := docker(t, "load", "--input", filepath.Join(dir, "adit-"+name+"-"+dashed(platform)+".tar")); !strings.Contains(got, loaded) {
				t.Errorf("load: %s", got)
			}
			one, two := inspectImage(t, made), inspectImage(t, loaded)
			one.Config.Labels["org.opencontainers.image.version"] = r.version // the only difference that there may be
			want, _ := json.MarshalIndent(one, "", " ")
			if got, _ := json.MarshalIndent(two, "", " "); !bytes.Equal(got, want) {
				t.Errorf("loaded:\n%s\nbuilt by the engine:\n%s", got, want)
			}
			if got, want := contents(t, loaded), contents(t, made); !slices.Equal(got, want) {
				t.Errorf("loaded:\n%v\nbuilt by the engine:\n%v", got, want)
			}
			if got := docker(t, "run", "--rm", "--read-only", "--cap-drop=ALL", "--network=none", loaded, "version"); got != "adit "+name+" "+version+" (abc)" {
				t.Errorf("version: %q", got)
			}
		})
	}
}

// builderImage makes an image of this machine's Go, with the modules that the images need: nothing can be pulled by a
// test, and a build has no network.
func builderImage(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skipf("the Go of this machine is for %s and does not run in a container", runtime.GOOS)
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the old builder cannot build here, see the Dockerfiles")
	}
	name := "adit-oci-builder:" + version
	removeAfter(t, name)
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(writeBuilder(t.Context(), pw)) }()
	command(t, nil, pr, "docker", "import",
		"--change", "ENV PATH=/usr/local/go/bin:/bin", "--change", "ENV GOPROXY=file:///modules", "--change", "ENV HOME=/root", "--change", "ENV GOTOOLCHAIN=local", "-", name)
	return name
}

// writeBuilder writes the root file system of the builder: a shell, Go, and a file proxy of modules.
func writeBuilder(ctx context.Context, out io.Writer) error {
	w := tar.NewWriter(out)
	add := func(source, dest string) error {
		info, err := os.Stat(source) // links are followed
		if err != nil {
			return err
		}
		header, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		header.Name, header.Uid, header.Gid, header.Uname, header.Gname = strings.TrimPrefix(dest, "/"), 0, 0, "", ""
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		f, err := os.Open(source)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}
	for _, dir := range []string{"tmp/", "root/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o1777}); err != nil {
			return err
		}
	}
	if err := add("/bin/sh", "/bin/sh"); err != nil {
		return err
	}
	libraries, _ := exec.CommandContext(ctx, "ldd", "/bin/sh").Output() // fails for a static one
	for _, file := range regexp.MustCompile(`/\S+\.so\S*`).FindAllString(string(libraries), -1) {
		if err := add(file, file); err != nil {
			return err
		}
	}
	env, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOMODCACHE").Output()
	if err != nil {
		return err
	}
	goroot, modules, _ := strings.Cut(strings.TrimSpace(string(env)), "\n")
	for _, part := range []string{"VERSION", "go.env", "bin", "pkg", "src"} {
		err := filepath.WalkDir(filepath.Join(goroot, part), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(file, "_test.go") || !d.Type().IsRegular() {
				return err
			}
			return add(file, "/usr/local/go"+strings.TrimPrefix(file, goroot))
		})
		if err != nil {
			return err
		}
	}
	// The go command reads the go.mod of every module, and the content of those that are compiled.
	cache := filepath.Join(modules, "cache", "download")
	used, err := exec.CommandContext(ctx, "go", "list", "-deps", "-f", "{{with .Module}}{{if .Version}}{{.Path}}@{{.Version}}{{end}}{{end}}", "../client", "../fileserver", "../server").Output()
	if err != nil {
		return err
	}
	names := strings.Fields(string(used))
	slices.Sort(names)
	downloaded, err := exec.CommandContext(ctx, "go", append([]string{"mod", "download", "-json"}, slices.Compact(names)...)...).Output()
	if err != nil {
		return err
	}
	zips := map[string]bool{}
	for d := json.NewDecoder(bytes.NewReader(downloaded)); d.More(); {
		var m struct{ Zip string }
		if err := d.Decode(&m); err != nil {
			return err
		}
		zips[m.Zip] = true
	}
	err = filepath.WalkDir(cache, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !(strings.HasSuffix(file, ".mod") || strings.HasSuffix(file, ".info") || zips[file]) {
			return err
		}
		return add(file, "/modules"+strings.TrimPrefix(file, cache))
	})
	if err != nil {
		return err
	}
	return w.Close()
}

// buildKit returns a docker command that builds with BuildKit: docker itself, or one of another version beside it.
func buildKit(t *testing.T) string {
	t.Helper()
	var tried []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		program := filepath.Join(dir, "docker")
		out, err := exec.CommandContext(t.Context(), program, "--version").Output()
		if err != nil {
			continue
		}
		var major int
		fmt.Sscanf(string(out), "Docker version %d.", &major)
		if major > 0 && major < 23 || exec.CommandContext(t.Context(), program, "buildx", "version").Run() == nil {
			return program // until 23 it has BuildKit built in
		}
		tried = append(tried, program)
	}
	t.Skipf("no BuildKit: none of %q builds with it (Debian 12: docker.io, later: docker-buildx)", tried)
	return ""
}

// The Dockerfiles build from source, with the builder that docker-compose 1 uses and with BuildKit for another platform.
// TestDockerfilesBuildAlike holds that what is said of one goes for the others.
func TestDockerfiles(t *testing.T) {
	needEngine(t)
	all := t
	builder := builderImage(t)
	arguments := []string{"--build-arg", "BUILDER=" + builder, "--build-arg", "VERSION=" + version, "--build-arg", "SHA=abc", "../.."}

	t.Run("old builder", func(t *testing.T) {
		name := "adit-oci-fileserver:" + version
		removeAfter(t, name)
		said := command(t, []string{"DOCKER_BUILDKIT=0"}, nil, "docker", append([]string{"build", "--tag", name, "--file", "../fileserver/Dockerfile"}, arguments...)...)
		for _, step := range regexp.MustCompile(`(?m)^ ---> ([0-9a-f]{12})$`).FindAllStringSubmatch(said, -1) {
			all.Cleanup(func() { exec.Command("docker", "rmi", step[1]).Run() }) // the latest first; what is in use stays
		}
		got := inspectImage(t, name)
		if got.OS != "linux" || got.Architecture != runtime.GOARCH {
			t.Errorf("for %s/%s", got.OS, got.Architecture)
		}
		// Not only alike: the same bytes as from the release flags of the Makefile.
		root := makeImages(t)
		binary, err := os.ReadFile(filepath.Join(root, "fileserver", "out", "fileserver"))
		if err != nil {
			t.Fatal(err)
		}
		want := []entry{{"fileserver", tar.TypeReg, 0o755, 0, 0, sha256.Sum256(binary)}, {"srv/", tar.TypeDir, 0o755, 0, 0, sha256.Sum256(nil)}}
		if got := contents(t, name); !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
	t.Run("BuildKit", func(t *testing.T) {
		program := buildKit(t)
		name := "adit-oci-server:" + version
		removeAfter(t, name)
		command(t, []string{"DOCKER_BUILDKIT=1"}, nil, program, append([]string{"build", "--platform", "linux/arm/v7", "--tag", name, "--file", "../server/Dockerfile"}, arguments...)...)
		got := inspectImage(t, name)
		if got.OS != "linux" || got.Architecture != "arm" || got.Variant != "v7" {
			t.Errorf("for %s/%s/%s", got.OS, got.Architecture, got.Variant)
		}
		s, err := readStage(strings.NewReader(dockerfile(t, "server")), map[string]string{"VERSION": version, "SHA": "abc"})
		if err != nil {
			t.Fatal(err)
		}
		one, _ := json.MarshalIndent(got.Config, "", " ")
		if two, _ := json.MarshalIndent(s.config, "", " "); !bytes.Equal(one, two) {
			t.Errorf("the engine's configuration:\n%s\nthe archive's:\n%s", one, two)
		}
		list := contents(t, name)
		if len(list) != 4 || list[3].path != "var/lib/adit/" || list[3].uid != 65532 || list[1].uid != 0 || list[2].uid != 0 {
			t.Errorf("files %v", list)
		}
		id := docker(t, "create", "--platform", "linux/arm/v7", name)
		defer docker(t, "rm", id)
		dir := t.TempDir()
		docker(t, "cp", id+":/server", dir)
		binary, err := os.ReadFile(filepath.Join(dir, "server"))
		if err != nil {
			t.Fatal(err)
		}
		c := content{platform: v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, config: got.Config, binary: binary}
		if err := c.checkBinary(); err != nil {
			t.Error(err)
		}
		how, err := runVersion(&c)
		if err != nil {
			t.Error(err)
		}
		t.Log(how)
		info, err := buildinfo.Read(bytes.NewReader(binary))
		if err != nil || info.GoVersion != runtime.Version() {
			t.Errorf("made by %v, %v", info, err)
		}
	})
}
