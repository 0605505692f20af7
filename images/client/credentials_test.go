package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/adit-tunnel/adit/shared/config"
	"github.com/adit-tunnel/adit/shared/license"
)

func issue(t testing.TB, expires time.Time) string {
	t.Helper()
	text, err := license.Issue(license.NewPrivateKey(), license.License{Subject: "acme", Expires: expires})
	must(t, err)
	return text
}

// TestLicenseReminders follows a licence to its end, and its successor.
func TestLicenseReminders(t *testing.T) {
	start := time.Now().Truncate(time.Second)
	const day = 24 * time.Hour
	text := issue(t, start.Add(60*day))
	cfg := load(t, "URL=ws://127.0.0.1:1", "LICENSE="+text+"\n")
	var out bytes.Buffer
	reg := prometheus.NewRegistry()
	c, err := newCredentials(cfg, reg, zerolog.New(&out))
	must(t, err)
	if c.License() != text {
		t.Errorf("got %q", c.License())
	}
	said := func() string {
		defer out.Reset()
		return out.String()
	}
	want := func(at time.Duration, parts ...string) {
		t.Helper()
		c.tell(start.Add(at))
		got := said()
		if len(parts) == 0 && got != "" {
			t.Errorf("after %s: %s", at, got)
		}
		for _, part := range parts {
			if !strings.Contains(got, part) {
				t.Errorf("after %s: %q, want %s", at, got, part)
			}
		}
		if strings.Contains(got, text) {
			t.Error("the licence is in the log")
		}
	}
	if got := said(); !strings.Contains(got, "the licence is good") || !strings.Contains(got, `"sub":"acme"`) {
		t.Errorf("at the start: %s", got)
	}
	want(29 * day)
	want(30*day, `"level":"warn"`, "the licence expires soon", start.Add(60*day).UTC().Format("2006-01-02T15:04:05"))
	want(30*day + 23*time.Hour)
	want(31*day, "the licence expires soon")
	want(59*day+12*time.Hour, "the licence expires soon")
	want(60*day, `"level":"error"`, "the licence has expired")
	want(60*day + time.Hour)
	want(61*day, "the licence has expired")
	must(t, testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(`
# HELP adit_license_expiry_timestamp_seconds When the licence of this client expires, in seconds since 1970; 0 if it does not say so in a way that we understand.
# TYPE adit_license_expiry_timestamp_seconds gauge
adit_license_expiry_timestamp_seconds %d
`, start.Add(60*day).Unix()))))
}

// TestLicenseSettings takes an expired licence, and one that only a newer version
// understands, but not what is none.
func TestLicenseSettings(t *testing.T) {
	for _, c := range []struct{ name, text, fault, log string }{
		{"expired", issue(t, time.Now().Add(-time.Hour)), "", "the licence has expired"},
		{"of a newer version", "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIiwiZXhwIjoxLCJuZXciOjF9.AAAA", "", "does not understand"},
		{"none", "secret-that-is-no-licence", "LICENSE: the licence is not good (format)", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			environment(t, "TOKEN="+token, "UPSTREAMS=http://127.0.0.1:1", "URL=wss://a", "LICENSE="+c.text)
			cfg := new(settings)
			err := config.Load(cfg)
			if c.fault != "" {
				if err == nil || !strings.Contains(err.Error(), c.fault) || strings.Contains(err.Error(), c.text) {
					t.Errorf("got %v, want %s", err, c.fault)
				}
				return
			}
			must(t, err)
			var out bytes.Buffer
			_, err = newCredentials(cfg, prometheus.NewRegistry(), zerolog.New(&out))
			must(t, err)
			if !strings.Contains(out.String(), c.log) {
				t.Errorf("logged %s, want %s", out.String(), c.log)
			}
		})
	}
}
