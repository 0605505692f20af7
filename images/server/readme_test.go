package main

import (
	"testing"

	"github.com/adit-tunnel/adit/shared/config/configtest"
)

func TestREADME(t *testing.T) {
	configtest.README(t, "../../README.md", "server", new(settings))
}
