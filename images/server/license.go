package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/adit-tunnel/adit/shared/cli"
	"github.com/adit-tunnel/adit/shared/config"
)

const licenseHelp = `adit server license: a tunnel of its own for each customer, without a list of customers

Usage:
  server license keygen FILE       make a key: write the private one to FILE, the public one to FILE.pub, and print the
                                   public one as a line; nothing is overwritten. FILE may be -: the private key is printed
  server license issue FLAGS       print a licence, signed with the private key
  server license show [LICENCE]    say what a licence allows, until when, and whether it is good: exit 0, or else 1 with
                                   the claim that fails. LICENCE is a file, the licence itself, or - for stdin; without
                                   it LICENSE or LICENSE_FILE counts, or else stdin

Flags of issue:
  --key FILE          the private key, - for stdin; without it LICENSE_PRIVATE_KEY or LICENSE_PRIVATE_KEY_FILE counts
  --sub NAME          whom it is for; required
  --exp WHEN          when it ends: 90d, 12w, 1y or 36h from now, 2027-12-31 (with the end of that day, UTC), or
                      2027-12-31T12:00:00Z; required
  --hosts LIST        hosts that the client may serve: shop.example.com,*.example.org, or * for all; without it none
  --ports LIST        TCP ports that it may serve: 2222,8000-8999; without it none
  --max-clients N     how many clients with this NAME may be connected at once; without it any number
  --nbf WHEN          when it begins, in the same forms; without it at once
  --iss NAME, --jti ID   for your own accounts

Flags of show:
  --key FILE          the public key; without it LICENSE_PUBLIC_KEY or LICENSE_PUBLIC_KEY_FILE counts; without any of them
                      the licence is not verified, only read
`

// licenseCommand is the command license. It asks no server, and none of the settings of
// one: licences are issued where the private key is, and that is no server.
type licenseCommand struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            time.Time
}

// licenses is the command license as a part of the program.
func licenses() cli.Command {
	return cli.Command{
		Name: "license", Args: "COMMAND", Help: "make keys for licences, issue and show them: server license help",
		Run: func(args []string, stdout, stderr io.Writer) int {
			return licenseCommand{os.Stdin, stdout, stderr, time.Now()}.run(args)
		},
	}
}

// misuse is an error for which the help is the answer.
type misuse struct{ error }

// fault is an error of what was typed, which the help would only hide.
type fault struct{ error }

func (c licenseCommand) run(args []string) int {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	var err error
	switch name {
	case "keygen":
		err = c.keygen(args)
	case "issue":
		err = c.issue(args)
	case "show":
		err = c.show(args)
	case "help", "-h", "-help", "--help":
		err = flag.ErrHelp
	case "":
		err = misuse{errors.New("a command is missing")}
	default:
		err = misuse{fmt.Errorf("unknown command %q", name)}
	}
	var (
		wrong  misuse
		typed  fault
		faults *config.Faults
	)
	switch {
	case err == nil:
		return cli.ExitOK
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(c.stdout, licenseHelp)
		return cli.ExitOK
	case errors.As(err, &wrong):
		fmt.Fprintf(c.stderr, "server: license %s: %v\n\n%s", name, err, licenseHelp)
		return cli.ExitUsage
	}
	fmt.Fprintln(c.stderr, err)
	if errors.As(err, &typed) || errors.As(err, &faults) {
		return cli.ExitUsage
	}
	return cli.ExitFailure
}

// arguments reads the flags of set, and what may stand behind them or between them, which is
// at most most.
func arguments(set *flag.FlagSet, args []string, most int) (rest []string, err error) {
	set.SetOutput(io.Discard)
	for {
		if err := set.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, misuse{err}
		}
		if set.NArg() == 0 {
			return rest, nil
		}
		if rest = append(rest, set.Arg(0)); len(rest) > most {
			return nil, misuse{fmt.Errorf("unexpected argument %q", set.Arg(0))}
		}
		args = set.Args()[1:]
	}
}

// maxInput bounds what is read: keys and licences are small.
const maxInput = 64 << 10

// read returns what is in the file at path, - for stdin.
func (c licenseCommand) read(path string) (string, error) {
	in := c.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	content, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	switch {
	case err != nil:
		return "", err
	case len(content) > maxInput:
		return "", fmt.Errorf("%s has more than %d bytes: it is neither a key nor a licence", place(path), maxInput)
	case len(bytes.TrimSpace(content)) == 0:
		return "", fmt.Errorf("%s is empty", place(path))
	}
	return string(content), nil
}

// place is a path in messages.
func place(path string) string {
	if path == "-" {
		return "stdin"
	}
	return path
}

// splitList takes a list apart at its commas and blanks.
func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
}
