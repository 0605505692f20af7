// Package systemd writes the unit under which a program runs on a machine without
// containers: hardened as an image is, with the settings of the present environment, and
// with the secrets in a file of their own. `server systemd` and `client systemd` print it.
//
// What the unit takes away is everything that the program does not need: a user that
// exists only while it runs, a read-only file system, no devices, no capabilities but for
// ports below 1024, the system calls of a network service. [Needs] says what the present
// settings do need.
package systemd

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// Service is a program as a service.
type Service struct {
	Name    string    // "client": the unit is adit-client.service
	Summary string    // one line
	Program string    // where the program is now, to be installed
	Env     []Setting // what its environment gives
	Needs
}

// Setting is a variable with a value.
type Setting struct {
	Name, Value string
	// Secret: the value must not be in the unit, which everybody may read.
	Secret bool
	// File: the value is the path of a file that the program reads.
	File bool
}

// Needs is what a program needs of the system with its present settings.
type Needs struct {
	Ports []int         // that it may listen on
	Grace time.Duration // how long a stop may take that loses nothing
	Unix  bool          // it connects to unix sockets
	State []string      // folders that it keeps things in, all below /var/lib: see [StateDirectory]
	Serve []string      // folders that it reads, wherever they are
	// Set are settings that cannot be as they are, such as a path that depends on the
	// present folder, by name.
	Set map[string]string
	// Pass are variables beside the settings that the program heeds if they are set.
	Pass []string
}

const stateRoot = "/var/lib/"

// StateDirectory returns the name under which systemd makes the folder at path for the
// user of the service: that below /var/lib. Elsewhere a user that exists only while the
// service runs could own nothing.
func StateDirectory(path string) (string, bool) {
	name, ok := strings.CutPrefix(filepath.Clean(path), stateRoot)
	return name, ok && name != "" && !strings.HasPrefix(name, "private/") && PlainPath(name)
}

// Hidden reports whether a service does not see what is at path: the folders of users
// and temporary ones.
func Hidden(path string) bool {
	return within(path, "/home", "/root", "/run/user", "/tmp", "/var/tmp")
}

func within(path string, folders ...string) bool {
	path = filepath.Clean(path)
	for _, folder := range folders {
		if path == folder || strings.HasPrefix(path, folder+"/") {
			return true
		}
	}
	return false
}

// PlainPath reports whether a path means the same in every line of a unit: colons and
// blanks separate there.
func PlainPath(path string) bool {
	return path != "" && utf8.ValidString(path) && !strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`:"'\`, r) })
}

func (s Service) unit() string    { return "adit-" + s.Name + ".service" }
func (s Service) secrets() string { return "/etc/adit/" + s.Name + ".env" }
func (s Service) program() string { return "/usr/local/bin/adit-" + s.Name }

// env returns the settings as they are in the unit.
func (s Service) env() (plain, secret, files []Setting, err error) {
	var errs []error
	seen := map[string]bool{}
	for _, v := range s.Env {
		if to, ok := s.Set[v.Name]; ok {
			v.Value = to
		}
		seen[v.Name] = true
		switch {
		case strings.ContainsRune(v.Value, 0) || !utf8.ValidString(v.Value):
			errs = append(errs, fmt.Errorf("%s: is no UTF-8 text, which systemd wants", v.Name))
		case v.File && !(filepath.IsAbs(v.Value) && PlainPath(v.Value)):
			errs = append(errs, fmt.Errorf("%s: %q is not the absolute path of a file without blanks, colons, quotes and backslashes, which systemd wants: move or link the file", v.Name, v.Value))
		case v.File:
			files = append(files, v)
		case v.Secret:
			secret = append(secret, v)
		default:
			plain = append(plain, v)
		}
	}
	for _, name := range sortedKeys(s.Set) {
		if !seen[name] {
			plain = append(plain, Setting{Name: name, Value: s.Set[name]})
		}
	}
	return plain, secret, files, errors.Join(errs...)
}

// WriteSecrets writes the file with the secrets, whose path is in the unit.
func (s Service) WriteSecrets(w io.Writer) error {
	_, secret, _, err := s.env()
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, v := range secret {
		b.WriteString(v.Name + "=" + fileQuote(v.Value) + "\n")
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// fileQuote quotes a value for an environment file: within double quotes these four are
// escaped, as for a shell, and nothing else is special.
func fileQuote(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`).Replace(value) + `"`
}

// unitQuote quotes an assignment for a unit.
func unitQuote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"', r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '%':
			b.WriteString("%%")
		case r < ' ', r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// specifiers keeps a path from being expanded.
func specifiers(path string) string { return strings.ReplaceAll(path, "%", "%%") }
