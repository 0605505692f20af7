package cli

import (
	"errors"

	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/config"
)

// faultsOf returns the faults of the configuration in err, or nil.
func faultsOf(err error) []*config.Problem {
	if faults, ok := errors.AsType[*config.Faults](err); ok {
		return faults.Problems
	}
	if problem, ok := errors.AsType[*config.Problem](err); ok {
		return []*config.Problem{problem}
	}
	return nil
}

func logFaults(log zerolog.Logger, faults []*config.Problem) {
	for _, problem := range faults {
		event := log.Error()
		if problem.Variable != "" {
			event.Str("variable", problem.Variable)
		}
		event.AnErr("error", problem.Err).Msg("bad configuration")
	}
}
