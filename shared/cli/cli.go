// Package cli is the command line of an image: without an argument, or with serve,
// the program runs, with another it tells about itself or about the instance that
// runs in the same container. An image has neither a shell nor curl, so its binary
// is also its own health probe. There are no flags that configure: all
// configuration is by environment.
package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/service"
	"github.com/adit-tunnel/adit/shared/status"
	"github.com/adit-tunnel/adit/shared/systemd"
	"github.com/adit-tunnel/adit/shared/telemetry"
	"github.com/adit-tunnel/adit/shared/version"
)

// What every command exits with.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2 // and bad configuration
)

// Program is one image. All fields are required but Status and Needs, without which there
// are no commands status and systemd.
type Program struct {
	Name    string // "server"
	Summary string // one line

	// Settings returns a pointer to a new, empty settings struct.
	Settings func() any
	// Common returns what such a struct embeds.
	Common func(settings any) config.Common
	// Serve runs until a signal, which a group of its own handles, and returns
	// what the group did.
	Serve func(ctx context.Context, settings any, log zerolog.Logger) error
	// Status returns the status of the running instance. Settings may have
	// faults: it complains about those that it needs.
	Status func(ctx context.Context, settings any) (status.Document, error)
	// Probe returns where /healthz and /readyz answer, as seen from inside the
	// container, and the client to use, nil for a plain one. Settings may have
	// faults here too.
	Probe func(settings any) (url string, client *http.Client, err error)
	// Needs returns what the program needs of the system with these settings, which
	// have no faults. An error is about what it cannot have under systemd.
	Needs func(settings any) (systemd.Needs, error)
	// Commands are those that only this image has.
	Commands []Command
}

// Command is a subcommand.
type Command struct {
	Name, Args, Help string
	// Run gets what follows the name and returns an exit code. Its output goes to stdout,
	// what is about it to stderr.
	Run func(args []string, stdout, stderr io.Writer) int
}

func (p Program) commands() []Command {
	list := []Command{
		{"serve", "", "the same, for platforms that insist on a command", p.serveCommand},
		{"healthcheck", "[--ready]", "exit 0 if the running " + p.Name + " is healthy (ready), else 1 with the reason", p.healthcheck},
		{"env", "", "show every variable with its current value, secrets redacted", p.env},
		{"version", "", "show the version", p.version},
		{"help", "", "show this", p.help},
	}
	if p.Needs != nil {
		list = slices.Insert(list, 3, Command{"systemd", "[--secrets]", "print a hardened systemd unit for the current settings (the file with its secrets)", p.systemd})
	}
	if p.Status != nil {
		list = slices.Insert(list, 1, Command{"status", "[--json]", "show the running tunnel and its clients", p.status})
	}
	return slices.Insert(list, len(list)-2, p.Commands...) // before version and help
}

// Run does what args, without the program's name, ask for and returns the exit
// code.
func (p Program) Run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		return p.serve(stderr)
	}
	name := args[0]
	if name == "-h" || name == "-help" || name == "--help" {
		name = "help"
	}
	for _, c := range p.commands() {
		if c.Name == name {
			return c.Run(args[1:], stdout, stderr)
		}
	}
	return p.misuse(stderr, fmt.Errorf("unknown command %q", args[0]))
}

func (p Program) serveCommand(args []string, stdout, stderr io.Writer) int {
	if code, stop := p.parse("serve", args, stdout, stderr); stop {
		return code
	}
	return p.serve(stderr)
}

func (p Program) serve(stderr io.Writer) int {
	settings := p.Settings()
	err := config.Load(settings)
	common := p.Common(settings)
	log := telemetry.NewLogger(stderr, common.LogLevel.Level(), common.LogFormat.Console())
	if err == nil {
		err = p.Serve(context.Background(), settings, log)
	}
	if faults := faultsOf(err); faults != nil {
		// At any LOG_LEVEL: nothing else says why there is no process.
		logFaults(telemetry.NewLogger(stderr, zerolog.ErrorLevel, common.LogFormat.Console()), faults)
		return ExitUsage
	}
	code := service.Exit(err)
	if code != ExitOK {
		log.Error().Err(err).Msg("stopped by a failure")
	}
	return code
}

func (p Program) env(args []string, stdout, stderr io.Writer) int {
	if code, stop := p.parse("env", args, stdout, stderr); stop {
		return code
	}
	settings := p.Settings()
	if err := config.WriteEnv(stdout, settings); err != nil {
		fmt.Fprintln(stderr, err)
		return ExitFailure
	}
	if err := config.Load(settings); err != nil {
		fmt.Fprintf(stderr, "\n%v\n", err)
		return ExitUsage
	}
	return ExitOK
}

func (p Program) version(args []string, stdout, stderr io.Writer) int {
	if code, stop := p.parse("version", args, stdout, stderr); stop {
		return code
	}
	fmt.Fprintf(stdout, "adit %s %s\n", p.Name, version.String())
	return ExitOK
}

// systemd prints nothing at all if anything is wrong with the settings: its output goes
// into a file.
func (p Program) systemd(args []string, stdout, stderr io.Writer) int {
	var secrets bool
	if code, stop := p.parse("systemd", args, stdout, stderr, boolFlag{"secrets", &secrets}); stop {
		return code
	}
	settings := p.Settings()
	if err := config.Load(settings); err != nil {
		fmt.Fprintln(stderr, err)
		return ExitUsage
	}
	needs, err := p.Needs(settings)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return ExitUsage
	}
	service := systemd.Service{Name: p.Name, Summary: p.Summary, Program: p.Name, Needs: needs}
	if path, err := os.Executable(); err == nil {
		service.Program = path
	}
	for _, a := range config.Environment(settings, needs.Pass...) {
		service.Env = append(service.Env, systemd.Setting(a))
	}
	write := service.Write
	if secrets {
		write = service.WriteSecrets
	}
	var out bytes.Buffer
	if err := write(&out); err != nil {
		fmt.Fprintln(stderr, err)
		return ExitUsage
	}
	if _, err := out.WriteTo(stdout); err != nil {
		fmt.Fprintln(stderr, err)
		return ExitFailure
	}
	return ExitOK
}

// parse reads the flags of a subcommand, pairs of name and *bool, and tells
// whether that was all there is to do.
func (p Program) parse(command string, args []string, stdout, stderr io.Writer, flags ...boolFlag) (code int, stop bool) {
	set := flag.NewFlagSet(command, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, f := range flags {
		set.BoolVar(f.value, f.name, false, "")
	}
	err := set.Parse(args)
	if err == nil && set.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	switch {
	case err == nil:
		return ExitOK, false
	case errors.Is(err, flag.ErrHelp):
		return p.help(nil, stdout, stderr), true
	}
	return p.misuse(stderr, fmt.Errorf("%s: %w", command, err)), true
}

type boolFlag struct {
	name  string
	value *bool
}
