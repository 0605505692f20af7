package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tagged is a name for an image in the engine that loads it.
type tagged struct{ name, tag string }

// badTag finds what a tag may not have, such as the plus sign of a version.
var badTag = regexp.MustCompile(`[^A-Za-z0-9_.-]`)

func (t tagged) String() string { return t.name + ":" + t.safeTag() }
func (t tagged) safeTag() string {
	return badTag.ReplaceAllString(t.tag, "-")
}

// writeArchive writes images as an OCI image layout in a tar file: one image as it is, several as an index of platforms.
// An archive of one image can also be loaded by engines that know nothing of OCI layouts (docker load before 25): beside
// the index it has the manifest.json that they look for.
func writeArchive(name string, t tagged, created time.Time, images ...v1.Image) error {
	dir, err := os.MkdirTemp("", "adit-oci-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	names := layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": t.safeTag(),
		"io.containerd.image.name":          "docker.io/library/" + t.String(),
	})
	if len(images) == 1 {
		config, err := images[0].ConfigFile()
		if err != nil {
			return err
		}
		if err := l.AppendImage(images[0], names, layout.WithPlatform(*config.Platform())); err != nil {
			return err
		}
		if err := writeDockerManifest(l, t, images[0]); err != nil {
			return err
		}
	} else {
		index, err := indexOf(images)
		if err != nil {
			return err
		}
		if err := l.AppendIndex(index, names); err != nil {
			return err
		}
	}
	return tarFolder(name, dir, created)
}

// indexOf returns an index of one image for several platforms.
func indexOf(images []v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, image := range images {
		config, err := image.ConfigFile()
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: config.Platform()}})
		index = mutate.Annotations(index, config.Config.Labels).(v1.ImageIndex)
	}
	return index, nil
}

// dockerManifest is an entry of manifest.json, as docker save writes it.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func writeDockerManifest(l layout.Path, t tagged, image v1.Image) error {
	config, err := image.ConfigName()
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	m := dockerManifest{Config: blobPath(config), RepoTags: []string{t.String()}}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, blobPath(digest))
	}
	content, err := json.Marshal([]dockerManifest{m})
	if err != nil {
		return err
	}
	return l.WriteFile("manifest.json", content, 0o644)
}

func blobPath(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// tarFolder packs the files of a folder in the order of their names, with nothing of this machine in the headers.
func tarFolder(name, dir string, modified time.Time) (err error) {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if closed := out.Close(); err == nil {
			err = closed
		}
	}()
	w := tar.NewWriter(out)
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		relative, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		err = w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: filepath.ToSlash(relative), Size: int64(len(content)), Mode: 0o644, ModTime: modified, Format: tar.FormatUSTAR,
		})
		if err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err != nil {
		return err
	}
	return w.Close()
}

// sumsFile lists the digests of all other files of the folder, for sha256sum -c.
const sumsFile = "SHA256SUMS"

func writeSums(dir string) error {
	content, err := sums(dir)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, sumsFile), []byte(content), 0o644)
}

func sums(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var lines []string
	for _, e := range entries {
		if e.Name() == sumsFile {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		f.Close()
		if err != nil {
			return "", err
		}
		lines = append(lines, fmt.Sprintf("%x  %s\n", sum.Sum(nil), e.Name()))
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[66:], b[66:]) })
	return strings.Join(lines, ""), nil
}
