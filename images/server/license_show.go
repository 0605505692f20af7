package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/license"
)

// showSettings is what the environment of a client and of a server say of licences.
type showSettings struct {
	License config.Secret `desc:"The licence."`
	Keys    config.Secret `envconfig:"LICENSE_PUBLIC_KEY" desc:"Public keys that verify it."`
}

// errNotGood is the exit code: what is wrong was printed.
var errNotGood = errors.New("the licence is not good")

// show says what a licence allows, and whether it is good.
func (c licenseCommand) show(args []string) error {
	var keyFile string
	set := flag.NewFlagSet("show", flag.ContinueOnError)
	set.StringVar(&keyFile, "key", "", "")
	rest, err := arguments(set, args, 1)
	if err != nil {
		return err
	}
	var s showSettings
	if err := config.Load(&s); err != nil {
		return err
	}
	text, err := c.licence(rest, s.License)
	if err != nil {
		return err
	}
	keys, err := c.publicKeys(keyFile, s.Keys)
	if err != nil {
		return err
	}
	said, err := license.Read(text)
	readable := err == nil
	verdict := "not verified: give --key FILE, or set LICENSE_PUBLIC_KEY, to know"
	switch {
	case !keys.IsZero():
		var l license.License
		if l, err = keys.Verify(text, c.now); err == nil {
			verdict = "yes, signed with the key " + l.KeyID
		}
	case readable && !c.now.Before(said.Ends()):
		err = &license.Error{Claim: "exp", Reason: "it has expired: ask for a new one"}
	}
	if bad, ok := errors.AsType[*license.Error](err); ok {
		verdict = fmt.Sprintf("no (%s): %s", bad.Claim, bad.Reason)
	}
	if _, err := fmt.Fprintf(c.stdout, "%-9s %s\n", "Good:", verdict); err != nil {
		return err
	}
	if readable {
		if err := describe(c.stdout, said, c.now); err != nil {
			return err
		}
	}
	if err != nil {
		return errNotGood
	}
	return nil
}

// licence finds the licence that is asked about.
func (c licenseCommand) licence(args []string, set config.Secret) (string, error) {
	path := "-"
	switch {
	case len(args) == 1 && strings.HasPrefix(args[0], "ey") && strings.Count(args[0], ".") == 2:
		return args[0], nil // not quoted as the name of a file that is missing
	case len(args) == 1:
		path = args[0]
	case set.IsSet():
		return strings.TrimSpace(set.Value()), nil
	}
	text, err := c.read(path)
	if path == "-" && err != nil {
		return "", fmt.Errorf("%w: name the file of the licence, or set LICENSE or LICENSE_FILE", err)
	}
	return strings.TrimSpace(text), err
}

// publicKeys returns the keys in the file that was typed, or else those of the environment;
// none if there are none.
func (c licenseCommand) publicKeys(path string, set config.Secret) (keys license.Keys, err error) {
	if path == "" {
		if !set.IsSet() {
			return keys, nil
		}
		if keys, err = license.ParseKeys(set.Value()); err != nil {
			return keys, fault{config.Fault("LICENSE_PUBLIC_KEY", "%w", err)}
		}
		return keys, nil
	}
	text, err := c.read(path)
	if err != nil {
		return keys, err
	}
	if keys, err = license.ParseKeys(text); err != nil {
		return keys, fmt.Errorf("%s: %w", place(path), err)
	}
	return keys, nil
}

// readableByOthers reports whether the mode of a file lets others than its owner read it,
// where that means something.
func readableByOthers(info fs.FileInfo) bool {
	return info.Mode().IsRegular() && info.Mode().Perm()&0o044 != 0 && os.PathSeparator == '/'
}
