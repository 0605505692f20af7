package main

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// maxSize is how large an image may be, unpacked, as `docker images` tells it.
const maxSize = 15_000_000

// architectures says what a platform's binaries are, and what runs them elsewhere.
var architectures = map[string]struct {
	machine elf.Machine
	class   elf.Class
	qemu    string
}{
	"amd64": {elf.EM_X86_64, elf.ELFCLASS64, "qemu-x86_64-static"},
	"arm64": {elf.EM_AARCH64, elf.ELFCLASS64, "qemu-aarch64-static"},
	"arm":   {elf.EM_ARM, elf.ELFCLASS32, "qemu-arm-static"},
}

// check reads every archive in a folder back and reports a line for each image in it.
func check(dir string, out io.Writer) error {
	want, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		return err
	}
	if got, err := sums(dir); err != nil || got != string(want) {
		return errors.Join(fmt.Errorf("%s does not fit the files beside it", sumsFile), err)
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil || len(archives) == 0 {
		return errors.Join(fmt.Errorf("%s: no archives", dir), err)
	}
	ran := map[v1.Hash]bool{} // an image is in two archives and runs once
	for _, archive := range archives {
		if err := checkArchive(archive, ran, out); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(archive), err)
		}
	}
	return nil
}

func checkArchive(archive string, ran map[v1.Hash]bool, out io.Writer) error {
	dir, err := os.MkdirTemp("", "adit-oci-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := unpack(archive, dir); err != nil {
		return err
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return err
	}
	if err := validate.Index(index); err != nil { // reads every blob and compares digests and sizes
		return err
	}
	images, err := imagesOf(index)
	if err != nil {
		return err
	}
	if len(images) == 1 {
		if err := checkDockerManifest(dir, images[0]); err != nil {
			return err
		}
	}
	for _, image := range images {
		digest, err := image.Digest()
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.Base(archive), ".tar")
		c, err := inspect(image)
		if err != nil {
			return fmt.Errorf("%s: %w", digest, err)
		}
		how := "checked above"
		if !ran[digest] {
			ran[digest] = true
			if how, err = runVersion(c); err != nil {
				return fmt.Errorf("%s: %w", c.platform, err)
			}
		}
		fmt.Fprintf(out, "%-32s %-14s %8d bytes  %s  %s\n", name, c.platform, len(c.binary), digest, how)
	}
	return nil
}

// imagesOf returns the images of an index and of the indexes in it, each for the platform that the index says.
func imagesOf(index v1.ImageIndex) ([]v1.Image, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var images []v1.Image
	for _, m := range manifest.Manifests {
		if m.MediaType.IsIndex() {
			inner, err := index.ImageIndex(m.Digest)
			if err != nil {
				return nil, err
			}
			more, err := imagesOf(inner)
			if err != nil {
				return nil, err
			}
			images = append(images, more...)
			continue
		}
		image, err := index.Image(m.Digest)
		if err != nil {
			return nil, err
		}
		config, err := image.ConfigFile()
		if err != nil {
			return nil, err
		}
		if m.Platform == nil || !m.Platform.Equals(*config.Platform()) {
			return nil, fmt.Errorf("%s is for %v, but the index says %v", m.Digest, config.Platform(), m.Platform)
		}
		images = append(images, image)
	}
	return images, nil
}

// content is what was found in an image.
type content struct {
	platform v1.Platform
	config   v1.Config
	binary   []byte
	headers  []*tar.Header
}

// inspect finds out whether an image is what all of ours are.
func inspect(image v1.Image) (*content, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	c := &content{platform: *config.Platform(), config: config.Config}
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	var size int64
	for _, layer := range layers {
		if err := c.read(layer, &size); err != nil {
			return nil, err
		}
	}
	switch {
	case len(c.binary) == 0:
		return nil, fmt.Errorf("%q is not in the image", c.config.Entrypoint)
	case size > maxSize:
		return nil, fmt.Errorf("%d bytes are more than the %d that an image may have", size, maxSize)
	case c.config.User != "65532:65532":
		return nil, fmt.Errorf("the user is %q", c.config.User)
	}
	return c, c.checkBinary()
}

func (c *content) read(layer v1.Layer, size *int64) error {
	r, err := layer.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close()
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		c.headers = append(c.headers, header)
		*size += header.Size
		switch {
		case header.Typeflag == tar.TypeDir:
		case header.Typeflag == tar.TypeReg && slices.Equal(c.config.Entrypoint, []string{"/" + header.Name}) && header.Mode == 0o755:
			if c.binary, err = io.ReadAll(archive); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s should not be in the image, or not with mode %o", header.Name, header.Mode)
		}
	}
}

// checkBinary holds that the binary is static and for the platform of its image.
func (c *content) checkBinary() error {
	want, ok := architectures[c.platform.Architecture]
	if !ok {
		return fmt.Errorf("%s is a platform that images/oci does not know: add it to architectures in check.go", c.platform)
	}
	program, err := elf.NewFile(bytes.NewReader(c.binary))
	if err != nil {
		return err
	}
	if program.Machine != want.machine || program.Class != want.class {
		return fmt.Errorf("the binary is for %v, %v, not for %s", program.Machine, program.Class, c.platform)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			return fmt.Errorf("the binary is not static")
		}
	}
	info, err := buildinfo.Read(bytes.NewReader(c.binary))
	if err != nil {
		return err
	}
	for _, s := range info.Settings {
		if s.Key == "GOARM" && "v"+strings.Split(s.Value, ",")[0] != c.platform.Variant {
			return fmt.Errorf("the binary is for GOARM=%s, not for %s", s.Value, c.platform)
		}
	}
	return nil
}

// runVersion runs the version command of an image's binary, if this machine can, and returns how.
func runVersion(c *content) (how string, err error) {
	var command []string
	how = "runs here"
	if c.platform.OS != runtime.GOOS || c.platform.Architecture != runtime.GOARCH {
		qemu := architectures[c.platform.Architecture].qemu
		program, err := exec.LookPath(qemu)
		if err != nil {
			return "not run: " + qemu + " is absent (Debian: qemu-user-static)", nil
		}
		command = append(command, program)
		how = "runs under " + qemu
	}
	dir, err := os.MkdirTemp("", "adit-oci-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, filepath.Base(c.config.Entrypoint[0]))
	if err := os.WriteFile(binary, c.binary, 0o755); err != nil {
		return "", err
	}
	command = append(command, binary, "version")
	got, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, got)
	}
	labels := c.config.Labels
	want := fmt.Sprintf("adit %s %s (%s)\n", filepath.Base(binary), labels["org.opencontainers.image.version"], labels["org.opencontainers.image.revision"])
	if string(got) != want {
		return "", fmt.Errorf("the binary says %q, the labels %q", got, want)
	}
	return how, nil
}

// checkDockerManifest holds that manifest.json, for older engines, leads to the same image as the index.
func checkDockerManifest(dir string, image v1.Image) error {
	content, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return err
	}
	var list []dockerManifest
	if err := json.Unmarshal(content, &list); err != nil {
		return err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return err
	}
	var layers []string
	for _, l := range manifest.Layers {
		layers = append(layers, blobPath(l.Digest))
	}
	if len(list) != 1 || list[0].Config != blobPath(manifest.Config.Digest) || !slices.Equal(list[0].Layers, layers) || len(list[0].RepoTags) != 1 {
		return fmt.Errorf("manifest.json is not of the image in the index: %s", content)
	}
	return nil
}

// unpack unpacks a tar file of regular files.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r := tar.NewReader(f)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			return fmt.Errorf("%s is not a plain file", header.Name)
		}
		if err := root.MkdirAll(filepath.Dir(header.Name), 0o755); err != nil {
			return err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := root.WriteFile(header.Name, content, 0o644); err != nil {
			return err
		}
	}
}
