package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// makeSBOM lists, in CycloneDX's JSON, the modules that a binary was linked from, as the linker recorded them in it.
func makeSBOM(name string, r release, p v1.Platform, binary []byte) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dashed(p), err)
	}
	if info.Main.Path == "" {
		return nil, fmt.Errorf("%s: the binary does not say what module it is of", dashed(p))
	}
	sum := sha256.Sum256(binary)
	properties := []cdx.Property{{Name: "oci:platform", Value: p.String()}, {Name: "oci:revision", Value: r.revision}}
	for _, s := range info.Settings {
		if s.Key == "CGO_ENABLED" || strings.HasPrefix(s.Key, "GO") {
			properties = append(properties, cdx.Property{Name: "go:build:" + s.Key, Value: s.Value})
		}
	}
	root := cdx.Component{
		BOMRef: modulePURL(info.Main.Path, r.version), PackageURL: modulePURL(info.Main.Path, r.version) + "#images/" + name,
		Type: cdx.ComponentTypeApplication, Name: "adit-" + name, Version: r.version,
		Hashes:     &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
		Licenses:   &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
		Properties: &properties,
	}
	components := []cdx.Component{module("std", strings.TrimPrefix(info.GoVersion, "go"), "")}
	for _, dep := range info.Deps {
		components = append(components, moduleOf(dep))
	}
	var refs []string
	for _, c := range components {
		refs = append(refs, c.BOMRef)
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: r.created.Format(time.RFC3339),
		Component: &root,
		Tools:     &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "adit images/oci", Version: r.version}}},
		Authors:   &[]cdx.OrganizationalContact{{Name: "adit"}},
	}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: root.BOMRef, Dependencies: &refs}}
	var out bytes.Buffer
	err = cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
	return out.Bytes(), err
}

func moduleOf(dep *debug.Module) cdx.Component {
	if dep.Replace != nil {
		dep = dep.Replace
	}
	return module(dep.Path, dep.Version, dep.Sum)
}

// module is a component; sum is as in go.sum, or empty.
func module(path, version, sum string) cdx.Component {
	c := cdx.Component{
		BOMRef: modulePURL(path, version), PackageURL: modulePURL(path, version),
		Type: cdx.ComponentTypeLibrary, Name: path, Version: version, Scope: cdx.ScopeRequired,
	}
	// The one kind of sum that there is: a SHA-256, of the list of the module's files.
	if encoded, ok := strings.CutPrefix(sum, "h1:"); ok {
		if raw, err := base64.StdEncoding.DecodeString(encoded); err == nil {
			c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(raw)}}
		}
	}
	return c
}

func modulePURL(path, version string) string {
	return "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
}
