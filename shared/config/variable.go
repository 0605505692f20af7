package config

import (
	"encoding"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/kelseyhightower/envconfig"
)

const fileSuffix = "_FILE"

// maxFile bounds what a NAME_FILE may hold: more is a mistake.
const maxFile = 1 << 20

// variable is one field of the settings and the variable that fills it.
type variable struct {
	name     string
	field    reflect.Value
	def      string
	desc     string
	required bool
	secret   bool
	file     bool // NAME_FILE is read too

	each   bool   // NAME_1 and so on are read too
	of     string // the variable whose place this one takes for one of several; empty: none
	loaded func() // called when the field is set; may be nil
}

var secretType = reflect.TypeFor[Secret]()

// variables lists the variables of spec in the order of its fields. It panics
// unless spec is a pointer to a struct, which only a programmer can change.
func variables(spec any) []variable {
	s := reflect.ValueOf(spec)
	if s.Kind() != reflect.Pointer || s.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: %T is not a pointer to a struct", spec))
	}
	return collect("", s.Elem())
}

func collect(prefix string, s reflect.Value) []variable {
	var list []variable
	for i := range s.NumField() {
		field, info := s.Field(i), s.Type().Field(i)
		if !field.CanSet() || isTrue(info.Tag.Get("ignored")) {
			continue
		}
		name := variableName(prefix, info)
		several, isEach := field.Addr().Interface().(each)
		if isEach {
			field = several.all()
		} else if isGroup(field) {
			if info.Anonymous {
				name = prefix
			}
			list = append(list, collect(name, field)...)
			continue
		}
		secret := field.Type() == secretType
		v := variable{
			name:     name,
			field:    field,
			def:      info.Tag.Get("default"),
			desc:     info.Tag.Get("desc"),
			required: isTrue(info.Tag.Get("required")),
			secret:   secret,
			file:     secret || isTrue(info.Tag.Get("file")),
			each:     isEach,
		}
		list = append(list, v)
		if isEach {
			list = append(list, v.places(several)...)
		}
	}
	return list
}

// structs returns s and the structs within it that hold variables.
func structs(s reflect.Value) []reflect.Value {
	list := []reflect.Value{s}
	for i := range s.NumField() {
		if field := s.Field(i); field.CanSet() && isGroup(field) && !isEach(field) {
			list = append(list, structs(field)...)
		}
	}
	return list
}

// isGroup tells a struct of variables from a struct that is the value of one.
func isGroup(field reflect.Value) bool {
	return field.Kind() == reflect.Struct && !decodesItself(field)
}

func isEach(field reflect.Value) bool {
	_, ok := field.Addr().Interface().(each)
	return ok
}

func decodesItself(field reflect.Value) bool {
	switch field.Addr().Interface().(type) {
	case envconfig.Decoder, envconfig.Setter, encoding.TextUnmarshaler, encoding.BinaryUnmarshaler:
		return true
	}
	return false
}

var (
	wordRegexp    = regexp.MustCompile("[^A-Z]+|[A-Z]+[^A-Z]+|[A-Z]+")
	acronymRegexp = regexp.MustCompile("^([A-Z]+)([A-Z][^A-Z]+)$")
)

// variableName follows the rules of envconfig, which does not export them.
func variableName(prefix string, info reflect.StructField) string {
	name := info.Name
	if isTrue(info.Tag.Get("split_words")) {
		words := wordRegexp.FindAllString(name, -1)
		for i, word := range words {
			words[i] = acronymRegexp.ReplaceAllString(word, "${1}_${2}")
		}
		name = strings.Join(words, "_")
	}
	if explicit := info.Tag.Get("envconfig"); explicit != "" {
		name = explicit
	}
	if prefix != "" {
		name = prefix + "_" + name
	}
	return strings.ToUpper(name)
}

// load sets the field from the environment, or to the default.
func (v variable) load() error {
	value, path, err := v.lookup()
	if err == nil && value == "" && v.def == "" && v.required {
		err = v.missing()
	}
	if err == nil && value != "" {
		if err = v.decode(value); err == nil {
			if v.secret {
				v.field.Addr().Interface().(*Secret).file = path
			}
			if v.loaded != nil {
				v.loaded()
			}
			return nil
		}
	}
	if v.def != "" {
		if err := v.decode(v.def); err != nil {
			return err
		}
	}
	return err
}

func (v variable) missing() error {
	if v.file {
		return Fault(v.name, "is required but not set: set %s, or set %s%s to the path of a file that holds it", v.name, v.name, fileSuffix)
	}
	return Fault(v.name, "is required but not set: set %s", v.name)
}

// lookup returns the value, "" if it is not set, and the path of the file that
// it came from, if any.
func (v variable) lookup() (value, path string, err error) {
	value = os.Getenv(v.name)
	if v.file {
		path = os.Getenv(v.name + fileSuffix)
	}
	switch {
	case value != "" && path != "":
		return "", "", Fault(v.name, "both %s and %s%s are set: unset one of them", v.name, v.name, fileSuffix)
	case path != "":
		if value, err = readFile(path); err != nil {
			return "", path, Fault(v.name+fileSuffix, "%w: check the path and that the process may read it", err)
		}
		if strings.TrimSpace(value) == "" {
			return "", path, Fault(v.name+fileSuffix, "file %s is blank: write the value into it", path)
		}
	case value != "" && v.secret && strings.TrimSpace(value) == "":
		return "", "", Fault(v.name, "is blank: set a value, or unset it")
	}
	return v.trim(value), path, nil
}

// trim drops blanks that mean nothing. A secret keeps its own.
func (v variable) trim(value string) string {
	switch {
	case v.secret:
		return value
	case v.field.Kind() == reflect.Slice && !decodesItself(v.field):
		return strings.Join(splitList(value), ",")
	}
	return strings.TrimSpace(value)
}

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(content) > maxFile {
		return "", fmt.Errorf("read %s: more than %d bytes", path, maxFile)
	}
	return string(content), nil
}

func isTrue(s string) bool {
	b, _ := strconv.ParseBool(s)
	return b
}
