// Package kubernetes checks the manifests of this folder: that every base, overlay and
// component renders with kustomize, that the API's own types accept each field of what
// comes out, that nothing is set which no image reads, and the rules of rules_*_test.go,
// which look at the objects as a cluster would: what selects what, which port leads where,
// whether a drain can end, who may connect to whom.
//
// Each rule is a function from a manifest to its faults. TestManifests applies all of them
// to every manifest, TestRulesFind shows with manifests broken on purpose that each rule
// finds what it is for.
//
// The folder is a Go module of its own, because the programs must not depend on what only
// these checks need.
package kubernetes
