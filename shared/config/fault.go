package config

import (
	"fmt"
	"slices"
	"strings"
)

// A Problem is one fault of the configuration.
type Problem struct {
	Variable string // empty if the fault is not of one variable
	Err      error  // what is wrong and what to do about it
}

func (p *Problem) Error() string {
	if p.Variable == "" {
		return p.Err.Error()
	}
	return p.Variable + ": " + p.Err.Error()
}

func (p *Problem) Unwrap() error { return p.Err }

// Fault returns a [*Problem] of the variable name. The format is fmt.Errorf's; it
// says what is wrong and what to do, and never contains a secret.
func Fault(name, format string, args ...any) error {
	return &Problem{Variable: name, Err: fmt.Errorf(format, args...)}
}

// Faults is all that is wrong with a configuration.
type Faults struct {
	Problems []*Problem
}

// Error returns the problems, one per line.
func (f *Faults) Error() string {
	lines := make([]string, len(f.Problems))
	for i, p := range f.Problems {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

func (f *Faults) Unwrap() []error {
	errs := make([]error, len(f.Problems))
	for i, p := range f.Problems {
		errs[i] = p
	}
	return errs
}

// add takes joined errors apart. It keeps one of several equal problems: the
// Validate method of an embedded struct is called for both that struct and, as
// it is promoted, for the struct around it.
func (f *Faults) add(err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			f.add(err)
		}
		return
	}
	problem, ok := err.(*Problem)
	if !ok {
		problem = &Problem{Err: err}
	}
	for _, p := range f.Problems {
		if p.Error() == problem.Error() {
			return
		}
	}
	f.Problems = append(f.Problems, problem)
}

// about reports whether one of the problems is of the variable or of the file that
// it may come from.
func (f *Faults) about(variable string) bool {
	return variable != "" && slices.ContainsFunc(f.Problems, func(p *Problem) bool {
		return strings.TrimSuffix(p.Variable, fileSuffix) == strings.TrimSuffix(variable, fileSuffix)
	})
}
