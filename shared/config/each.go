package config

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Each is a setting for all of a list, such as all upstreams, that some of them may have in
// their own way: NAME is for all, NAME_1 takes its place for the first, NAME_2 for the second
// and so on. A variable that begins with NAME_ and is none of these is a fault: one that is
// misspelt must not be taken for none.
type Each[T any] struct {
	All T
	own map[int]*T
}

// Own returns what the one at the place, counted from 1, has of its own.
func (e *Each[T]) Own(place int) (value T, ok bool) {
	if p := e.own[place]; p != nil {
		return *p, true
	}
	return value, false
}

// For returns what counts for the one at the place: its own, or that of all.
func (e *Each[T]) For(place int) T {
	if value, ok := e.Own(place); ok {
		return value
	}
	return e.All
}

// Places returns those that have something of their own, in their order.
func (e *Each[T]) Places() []int { return slices.Sorted(maps.Keys(e.own)) }

// each is what the rest of the package needs of an Each.
type each interface {
	all() reflect.Value
	// place returns room for the value of one, and what puts it in place.
	place(n int) (reflect.Value, func())
}

func (e *Each[T]) all() reflect.Value { return reflect.ValueOf(&e.All).Elem() }

func (e *Each[T]) place(n int) (reflect.Value, func()) {
	value := new(T)
	return reflect.ValueOf(value).Elem(), func() {
		if e.own == nil {
			e.own = map[int]*T{}
		}
		e.own[n] = value
	}
}

// placeRegexp finds the place in what follows NAME_.
var placeRegexp = regexp.MustCompile(`^([1-9][0-9]{0,3})(` + fileSuffix + `)?$`)

// places returns the variables NAME_1 and so on that the environment gives a value.
func (v variable) places(e each) []variable {
	var list []variable
	for _, n := range v.placesGiven() {
		own := variable{
			name: v.name + "_" + strconv.Itoa(n), desc: fmt.Sprintf("%s for number %d alone.", v.name, n),
			secret: v.secret, file: v.file, of: v.name,
		}
		own.field, own.loaded = e.place(n)
		list = append(list, own)
	}
	return list
}

func (v variable) placesGiven() []int {
	var places []int
	for _, suffix := range suffixes(v.name) {
		m := placeRegexp.FindStringSubmatch(suffix)
		if m == nil || m[2] != "" && !v.file {
			continue
		}
		n, _ := strconv.Atoi(m[1])
		if !slices.Contains(places, n) {
			places = append(places, n)
		}
	}
	slices.Sort(places)
	return places
}

// suffixes returns what follows name and _ in the names that the environment gives a value.
func suffixes(name string) []string {
	var list []string
	for _, assignment := range os.Environ() {
		given, value, _ := strings.Cut(assignment, "=")
		if suffix, ok := strings.CutPrefix(given, name+"_"); ok && value != "" {
			list = append(list, suffix)
		}
	}
	slices.Sort(list)
	return list
}

// strays returns a fault for each variable of the environment that looks as if it belonged to
// an Each, and does not.
func strays(vars []variable) error {
	var faults Faults
	known := map[string]bool{}
	for _, v := range vars {
		known[v.name] = true
		known[v.name+fileSuffix] = known[v.name+fileSuffix] || v.file
	}
	for _, v := range vars {
		if !v.each {
			continue
		}
		for _, suffix := range suffixes(v.name) {
			if name := v.name + "_" + suffix; !known[name] {
				faults.add(Fault(name, "is no variable of this program: write %s for all, %[1]s_1 for the first, %[1]s_2 for the second and so on; or unset it", v.name))
			}
		}
	}
	if len(faults.Problems) == 0 {
		return nil
	}
	return &faults
}
