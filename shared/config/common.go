package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// Common is embedded by the settings of every image. METRICS_PORT is missing
// because its default differs: images may share a network namespace.
type Common struct {
	LogLevel     LogLevel      `split_words:"true" default:"info" desc:"Least severe messages to log: trace, debug, info, warn, error or disabled."`
	LogFormat    LogFormat     `split_words:"true" default:"json" desc:"json, or console for people."`
	MetricsAddr  string        `split_words:"true" desc:"Address to listen on for metrics and health. Empty: all interfaces."`
	DrainTimeout time.Duration `split_words:"true" default:"25s" desc:"How long a stop may wait for what is in flight; keep it below the platform's kill timeout."`
}

// Validate checks what the types do not.
func (c *Common) Validate() error {
	if c.DrainTimeout < 0 {
		return Fault("DRAIN_TIMEOUT", "%s is negative: use 0s to stop without waiting", c.DrainTimeout)
	}
	return nil
}

// LogLevel is the least severe level that is logged.
type LogLevel zerolog.Level

var levels = []zerolog.Level{zerolog.TraceLevel, zerolog.DebugLevel, zerolog.InfoLevel, zerolog.WarnLevel, zerolog.ErrorLevel, zerolog.Disabled}

// Decode accepts the name of a level.
func (l *LogLevel) Decode(value string) error {
	for _, level := range levels {
		if strings.EqualFold(value, level.String()) {
			*l = LogLevel(level)
			return nil
		}
	}
	return fmt.Errorf("%q is not a level: use trace, debug, info, warn, error or disabled", value)
}

// Level returns the level as zerolog has it.
func (l LogLevel) Level() zerolog.Level { return zerolog.Level(l) }

func (l LogLevel) String() string { return l.Level().String() }

// LogFormat is the form of log lines: "json" or "console".
type LogFormat string

// Decode accepts json and console.
func (f *LogFormat) Decode(value string) error {
	switch format := LogFormat(strings.ToLower(value)); format {
	case "json", "console":
		*f = format
		return nil
	}
	return fmt.Errorf("%q is not a format: use json or console", value)
}

// Console tells that lines are for people.
func (f LogFormat) Console() bool { return f == "console" }
