package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

func TestSecretIsNotPrinted(t *testing.T) {
	const value = "hunter2-hunter2-hunter2"
	secret := SecretValue(value)
	if secret.Value() != value || !secret.IsSet() {
		t.Fatalf("got %q", secret.Value())
	}
	type exported struct{ Secret Secret }
	type unexported struct{ secret Secret }
	var out strings.Builder
	for _, v := range []any{
		secret, &secret, exported{secret}, unexported{secret}, &unexported{secret},
		[]Secret{secret}, map[string]Secret{"k": secret}, map[Secret]int{secret: 1}, []any{unexported{secret}},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("slog", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("slog", "v", v)
		log := zerolog.New(&out)
		log.Info().Interface("v", v).Any("w", v).Msg("zerolog")
	}
	// The hexadecimal verbs would print the bytes.
	for _, leak := range []string{value, fmt.Sprintf("%x", value), fmt.Sprintf("%X", value)} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("printed: %s", out.String())
		}
	}
	if !strings.Contains(out.String(), redacted) {
		t.Error("nothing says that there is a secret")
	}
}

func TestSecretUnset(t *testing.T) {
	for _, secret := range []Secret{{}, SecretValue("")} {
		text, _ := secret.MarshalText()
		if secret.IsSet() || secret.Value() != "" || secret.String() != "" || len(text) != 0 {
			t.Errorf("got %#v", secret)
		}
	}
}

// No fault may repeat a secret, even one that was put where it does not belong.
func TestFaultsContainNoSecret(t *testing.T) {
	const value = "hunter2-hunter2-hunter2"
	for _, env := range []map[string]string{
		{"TOKEN": value, "TOKEN_FILE": write(t, value)},
		{"TOKEN": value, "PORT": "x"},
		{"TOKEN_FILE": write(t, value), "PORT": "x"},
	} {
		var s settings
		environ(t, &s, env)
		err := Load(&s)
		if err == nil || strings.Contains(err.Error(), value) {
			t.Errorf("got %v", err)
		}
	}
}
