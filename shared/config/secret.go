package config

import (
	"context"
	"encoding/json"
	"strings"
	"time"
)

const redacted = "[redacted]"

// Secret is a setting that is never printed: it formats and marshals as
// "[redacted]", or as nothing if it is not set. The value is behind a pointer
// because fmt calls no methods on the unexported fields of a struct: even there
// it prints an address only.
type Secret struct {
	value *string
	file  string
}

// SecretValue returns the secret v.
func SecretValue(v string) Secret {
	if v == "" {
		return Secret{}
	}
	return Secret{value: &v}
}

// Value returns the secret itself, or "" if it is not set.
func (s Secret) Value() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsSet tells whether there is a value.
func (s Secret) IsSet() bool { return s.value != nil }

// File returns the path that the secret was read from when it came by NAME_FILE,
// or else "".
func (s Secret) File() string { return s.file }

// Decode takes any value: an error would be printed together with it.
func (s *Secret) Decode(value string) error {
	*s = SecretValue(trimNewline(value))
	return nil
}

// Watch calls changed with the new value each time the secret's file changes, as
// [Watch] does, but compared with the value that was loaded: no change is missed
// in between. Blank content is ignored. It blocks until ctx ends, also if the
// secret did not come from a file, and returns the cause.
func (s Secret) Watch(ctx context.Context, every time.Duration, changed func(value string)) error {
	if s.file == "" {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	last := s.Value()
	return watch(ctx, s.file, every, []byte(last), func(content []byte) {
		value := trimNewline(string(content))
		if strings.TrimSpace(value) == "" || value == last {
			return
		}
		last = value
		changed(value)
	})
}

func (s Secret) String() string {
	if s.value == nil {
		return ""
	}
	return redacted
}

// GoString redacts for the verb %#v.
func (s Secret) GoString() string { return "config.Secret(" + s.String() + ")" }

// MarshalText redacts for encoders of text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON redacts for JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// trimNewline drops what editors and echo leave at the end of a value.
func trimNewline(s string) string { return strings.TrimRight(s, "\r\n") }
