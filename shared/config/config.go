// Package config reads the settings of an image from its environment, which is
// the only place they come from, and the only package that looks there.
//
// An image describes its variables once, as a struct:
//
//	type settings struct {
//		config.Common
//		Token config.Secret `split_words:"true" required:"true" desc:"Shared secret of server and clients."`
//		Port  config.Port   `split_words:"true" default:"8000" desc:"Where visitors connect."`
//	}
//
// [Load] fills it in, [WriteMarkdown] and [WriteEnv] document it, [Names] lists
// what it reads. The tags are those of kelseyhightower/envconfig, which also
// decodes the values, and two of our own: desc describes the variable, and
// file:"true" lets its value come from a file whose path is in NAME_FILE, as it
// always may for a [Secret].
//
// Beyond envconfig: every fault is reported, not just the first; a variable that
// is set but empty counts as not set; blanks around a value and around the
// commas of a list are dropped; and a secret's value appears in no message.
package config

import (
	"os"
	"reflect"
	"slices"
	"strings"
)

// validator is implemented by settings that relate several variables.
type validator interface {
	Validate() error
}

// Load fills spec, a pointer to a settings struct, from the environment. It
// returns nil or a [*Faults] with all that is wrong. A field whose variable is at
// fault has its default, so that what else was set can still be used.
//
// Then the Validate methods of spec and of the structs embedded in it check what
// the types do not and how variables relate. They join what they find with
// errors.Join and name variables with [Fault]. What they find about a variable
// that could not be read is left out: it is about the default.
func Load(spec any) error {
	var unread, relations Faults
	vars := variables(spec)
	for _, v := range vars {
		unread.add(v.load())
	}
	unread.add(strays(vars))
	for _, s := range structs(reflect.ValueOf(spec).Elem()) {
		if v, ok := s.Addr().Interface().(validator); ok {
			relations.add(v.Validate())
		}
	}
	faults := Faults{Problems: slices.Clone(unread.Problems)}
	for _, p := range relations.Problems {
		if !unread.about(p.Variable) {
			faults.Problems = append(faults.Problems, p)
		}
	}
	if len(faults.Problems) == 0 {
		return nil
	}
	return &faults
}

// Names returns every variable that spec reads, with the NAME_FILE forms, and of an [Each]
// those that are given.
func Names(spec any) []string {
	var names []string
	for _, v := range variables(spec) {
		names = append(names, v.name)
		if v.file {
			names = append(names, v.name+fileSuffix)
		}
	}
	return names
}

// Given reports whether the environment gives the variable a value, which is to say that
// its default does not apply: for a default that depends on other settings.
func Given(name string) bool {
	return strings.TrimSpace(os.Getenv(name)) != ""
}
