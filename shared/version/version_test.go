package version

import "testing"

func TestString(t *testing.T) {
	if got := String(); got != "dev (unknown)" {
		t.Errorf("got %q", got)
	}
}
