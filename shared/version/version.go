// Package version tells which build of adit is running. The values are set when
// a binary is linked:
//
//	go build -ldflags "-X github.com/adit-tunnel/adit/shared/version.Version=0.1.0
//	                   -X github.com/adit-tunnel/adit/shared/version.SHA=4e35edf"
package version

// Version is the release, SHA the commit that it was built from.
var (
	Version = "dev"
	SHA     = "unknown"
)

// String returns the release with its commit, such as "0.1.0 (4e35edf)".
func String() string {
	return Version + " (" + SHA + ")"
}
