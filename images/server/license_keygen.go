package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"

	"github.com/adit-tunnel/adit/shared/license"
)

// keygen makes a key. The public one is all that goes to stdout, in the form that
// LICENSE_PUBLIC_KEY takes, unless the private one was asked for there.
func (c licenseCommand) keygen(args []string) error {
	rest, err := arguments(flag.NewFlagSet("keygen", flag.ContinueOnError), args, 1)
	if err != nil {
		return err
	}
	if len(rest) == 0 || rest[0] == "" {
		return misuse{errors.New("name the file that the private key goes to, or - to print it")}
	}
	key := license.NewPrivateKey()
	private, err := key.PEM()
	if err != nil {
		return err
	}
	path := rest[0]
	if path == "-" {
		if _, err := c.stdout.Write(private); err != nil {
			return err
		}
		fmt.Fprintf(c.stderr, "the public key, for LICENSE_PUBLIC_KEY on the server:\n%s\n", key.Public())
		return nil
	}
	public, err := key.PublicPEM()
	if err != nil {
		return err
	}
	if err := create(path, private, 0o600); err != nil {
		return err
	}
	if err := create(path+".pub", public, 0o644); err != nil {
		_ = os.Remove(path) // nobody has seen this key: the next attempt may have the name
		return err
	}
	fmt.Fprintf(c.stderr, "%s is the private key: keep it, and off every server. %s.pub is the public one, for LICENSE_PUBLIC_KEY_FILE on the server; as a line for LICENSE_PUBLIC_KEY:\n", path, path)
	_, err = fmt.Fprintln(c.stdout, key.Public())
	return err
}

// create writes a file that is not there yet, and no half of one.
func create(path string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s is there already, and licences may depend on it: name another file, or move it away", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: in a container, mount a folder and run with --user \"$(id -u)\", or print the key with: license keygen -", err)
	case err != nil:
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(path)
	}
	return err
}
