package config

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
)

var durationType = reflect.TypeFor[time.Duration]()

// decode sets the field to what value says, or leaves it as it is.
func (v variable) decode(value string) error {
	if v.secret {
		return v.field.Addr().Interface().(*Secret).Decode(value)
	}
	decoded, err := decodeAs(v.field.Type(), value)
	if err != nil {
		return &Problem{Variable: v.name, Err: explain(v.field.Type(), value, err)}
	}
	v.field.Set(decoded)
	return nil
}

// decodeAs has envconfig decode one value wherever it came from: the value is
// the default of the only field of a struct, under a prefix that no variable of
// any environment can have.
func decodeAs(t reflect.Type, value string) (reflect.Value, error) {
	spec := reflect.New(reflect.StructOf([]reflect.StructField{{
		Name: "Value",
		Type: t,
		Tag:  reflect.StructTag(`default:` + strconv.Quote(value)),
	}}))
	err := envconfig.Process("=", spec.Interface())
	if parse, ok := errors.AsType[*envconfig.ParseError](err); ok {
		err = parse.Err
	}
	return spec.Elem().Field(0), err
}

// explain says what is expected where envconfig uses parsers that do not.
func explain(t reflect.Type, value string, err error) error {
	number, ok := err.(*strconv.NumError)
	switch {
	case t == durationType:
		return fmt.Errorf("%q is not a duration: use a number with a unit, such as 500ms, 25s or 5m", value)
	case !ok:
		return err
	case number.Func == "ParseBool":
		return fmt.Errorf("%q is neither true nor false: use one of them", number.Num)
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("%q is out of range: use a number that fits", number.Num)
	default:
		return fmt.Errorf("%q is not a number: use digits only", number.Num)
	}
}

// splitList takes a list apart at its commas, without blanks and empty items.
func splitList(value string) []string {
	var items []string
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
