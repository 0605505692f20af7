// Command oci makes OCI archives of the images for several platforms, and needs no container engine for it: the
// binaries are cross-compiled, and everything else about an image is in its Dockerfile. `make images-multiarch` runs it.
//
//	dockerfile.go   reads the last stage of a Dockerfile: files and configuration
//	image.go        makes an image of them and a binary
//	archive.go      writes images as archives, to the byte the same each time
//	sbom.go         lists what a binary was made from
//	check.go        reads the archives back: do they load, do they hold what they should?
//
// It is a tool of the build and in none of the images.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const usage = `usage:
  oci build -version V -revision SHA [-epoch SECONDS] [-platforms linux/amd64,...] [-root DIR] -binaries DIR -out DIR IMAGE...
  oci check DIR

build makes archives of the images whose Dockerfiles are images/IMAGE/Dockerfile below the root (.), of the
binaries DIR/linux-amd64/IMAGE and so on. check reads the archives in DIR and runs what is in them.
`

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "oci: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("no command\n%s", usage)
	}
	switch args[0] {
	case "build":
		return runBuild(args[1:], out)
	case "check":
		if len(args) != 2 {
			return fmt.Errorf("check needs one folder\n%s", usage)
		}
		return check(args[1], out)
	}
	return fmt.Errorf("unknown command %q\n%s", args[0], usage)
}

// release is what all images of one build have in common.
type release struct {
	version, revision string
	// created is the time of the commit, never that of the build: two builds are to be the same.
	created   time.Time
	platforms []v1.Platform
	binaries  string // the folder with binaries in folders for platforms
	root      string // the folder with images/ in it
}

func runBuild(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var r release
	flags.StringVar(&r.version, "version", "", "")
	flags.StringVar(&r.revision, "revision", "", "")
	flags.StringVar(&r.binaries, "binaries", "", "")
	flags.StringVar(&r.root, "root", ".", "")
	epoch := flags.Int64("epoch", 0, "")
	platforms := flags.String("platforms", "linux/amd64,linux/arm64,linux/arm/v7", "")
	dir := flags.String("out", "", "")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w\n%s", err, usage)
	}
	if r.version == "" || r.revision == "" || r.binaries == "" || *dir == "" || flags.NArg() == 0 {
		return fmt.Errorf("build needs more\n%s", usage)
	}
	r.created = time.Unix(*epoch, 0).UTC()
	for _, text := range strings.Split(*platforms, ",") {
		p, err := v1.ParsePlatform(text)
		if err != nil || p.OS == "" || p.Architecture == "" {
			return fmt.Errorf("platform %q: write it as linux/amd64 or linux/arm/v7", text)
		}
		r.platforms = append(r.platforms, *p)
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	for _, name := range flags.Args() {
		if err := r.build(name, *dir); err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
	}
	if err := writeSums(*dir); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d images for %s in %s\n", flags.NArg(), *platforms, *dir)
	return nil
}

// build writes the archives and SBOMs of one image.
func (r release) build(name, dir string) error {
	source, err := os.Open(filepath.Join(r.root, "images", name, "Dockerfile"))
	if err != nil {
		return err
	}
	defer source.Close()
	stage, err := readStage(source, map[string]string{"VERSION": r.version, "SHA": r.revision})
	if err != nil {
		return fmt.Errorf("%s: %w", source.Name(), err)
	}
	var images []v1.Image
	for _, p := range r.platforms {
		binary, err := os.ReadFile(filepath.Join(r.binaries, dashed(p), name))
		if err != nil {
			return err
		}
		image, err := makeImage(stage, name, binary, p, r.created)
		if err != nil {
			return err
		}
		file := filepath.Join(dir, "adit-"+name+"-"+dashed(p))
		bom, err := makeSBOM(name, r, p, binary)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file+".cdx.json", bom, 0o644); err != nil {
			return err
		}
		if err := writeArchive(file+".tar", tagged{"adit-" + name, r.version}, r.created, image); err != nil {
			return err
		}
		images = append(images, image)
	}
	return writeArchive(filepath.Join(dir, "adit-"+name+".tar"), tagged{"adit-" + name, r.version}, r.created, images...)
}

// dashed is a platform as a part of file names: linux-arm-v7.
func dashed(p v1.Platform) string { return strings.ReplaceAll(p.String(), "/", "-") }
