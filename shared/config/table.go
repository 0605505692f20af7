package config

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"
)

// WriteMarkdown writes the table of the variables of spec for the README.
func WriteMarkdown(w io.Writer, spec any) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, "| Variable | Default | Description |\n|---|---|---|\n")
	vars := variables(spec)
	for _, v := range vars {
		if v.of != "" { // the table is the same in every environment
			continue
		}
		def := ""
		switch {
		case v.def != "":
			def = "`" + v.def + "`"
		case v.required:
			def = "**required**"
		}
		fmt.Fprintf(out, "| `%s`%s | %s | %s |\n", v.name, v.star(), cell(def), cell(v.desc))
	}
	if anyFile(vars) {
		fmt.Fprint(out, "\n\\* The value may also come from a file: set `NAME_FILE` to its path.\n")
	}
	if anyEach(vars) {
		fmt.Fprint(out, "\n† For one of several alone, by its place in the list: `NAME_1` is for the first, `NAME_2` for the second, each in place of `NAME`.\n")
	}
	return out.Flush()
}

// WriteEnv writes a table of the variables of spec with their current values,
// those of secrets redacted. It reads the environment, not spec: what is at fault
// is shown as it was set.
func WriteEnv(w io.Writer, spec any) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(out, "VARIABLE\tVALUE\tDEFAULT\tDESCRIPTION\n")
	vars := variables(spec)
	for _, v := range vars {
		def := v.def
		if v.required && def == "" {
			def = "(required)"
		}
		fmt.Fprintf(out, "%s%s\t%s\t%s\t%s\n", v.name, v.star(), printable(v.current()), def, v.desc)
	}
	if anyFile(vars) {
		fmt.Fprint(out, "\n* The value may also come from a file: set NAME_FILE to its path.\n")
	}
	if anyEach(vars) {
		fmt.Fprint(out, "\n† For one of several alone, by its place in the list: NAME_1 is for the first, NAME_2 for the second, each in place of NAME.\n")
	}
	return out.Flush()
}

// current returns the value in force, fit to be printed.
func (v variable) current() string {
	value, path := os.Getenv(v.name), ""
	if v.file {
		path = os.Getenv(v.name + fileSuffix)
	}
	switch {
	case path != "":
		return "(from " + path + ")"
	case value == "":
		return v.def
	case v.secret:
		return redacted
	}
	return passwordRegexp.ReplaceAllString(value, "${1}"+redacted+"@")
}

// Assignment is a variable that the environment gives a value.
type Assignment struct {
	Name, Value string
	Secret      bool // not to be shown: a secret, or a URL with a password
	File        bool // NAME_FILE: the value is the path of the file
}

// Environment returns what the environment gives to the variables of spec, in their order,
// and to those of more, which are not of spec, if they are set.
func Environment(spec any, more ...string) []Assignment {
	var list []Assignment
	add := func(name string, secret, file bool) {
		if value := os.Getenv(name); strings.TrimSpace(value) != "" {
			list = append(list, Assignment{name, value, secret || passwordRegexp.MatchString(value), file})
		}
	}
	for _, v := range variables(spec) {
		add(v.name, v.secret, false)
		if v.file {
			add(v.name+fileSuffix, false, true)
		}
	}
	for _, name := range more {
		add(name, false, false)
	}
	return list
}

// passwordRegexp finds the password of a URL.
var passwordRegexp = regexp.MustCompile(`(://[^/?#@\s:]*:)[^/?#\s]*@`)

func (v variable) star() string {
	star := ""
	if v.file {
		star = "*"
	}
	if v.each {
		star += "†"
	}
	return star
}

func anyEach(vars []variable) bool {
	return slices.ContainsFunc(vars, func(v variable) bool { return v.each })
}

func anyFile(vars []variable) bool {
	for _, v := range vars {
		if v.file {
			return true
		}
	}
	return false
}

// cell keeps s within one cell of a Markdown table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// printable keeps s on one line of a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
