package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/adit-tunnel/adit/shared/version"
)

func (p Program) help(_ []string, stdout, _ io.Writer) int {
	p.writeHelp(stdout)
	return ExitOK
}

// misuse explains what was wrong with the arguments and what is right.
func (p Program) misuse(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "%s: %v\n\n", p.Name, err)
	p.writeHelp(stderr)
	return ExitUsage
}

func (p Program) writeHelp(w io.Writer) {
	fmt.Fprintf(w, "adit %s %s: %s\n\nUsage:\n", p.Name, version.String(), p.Summary)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "  %s\trun until SIGTERM or Ctrl-C\n", p.Name)
	for _, c := range p.commands() {
		usage := p.Name + " " + c.Name
		if c.Args != "" {
			usage += " " + c.Args
		}
		fmt.Fprintf(table, "  %s\t%s\n", usage, c.Help)
	}
	table.Flush()
	fmt.Fprintf(w, "\nAll configuration is by environment variables: %s env shows them.\n", p.Name)
}
