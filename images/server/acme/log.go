package acme

import (
	"bytes"
	"context"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// event is called by certmagic, before it asks for a certificate, too. What is worth a line is logged here in our words.
func (m *Manager) event(_ context.Context, name string, data map[string]any) error {
	renewal, _ := data["renewal"].(bool)
	host, _ := data["identifier"].(string)
	switch name {
	case "cert_obtaining":
		return m.mayAsk(host)
	case "cert_obtained":
		m.cfg.Metrics.issued.Inc()
		if renewal {
			m.log.Info().Str("host", host).Msg("certificate renewed")
		}
	case "cert_failed": // of attempts of our own the error is returned
		if err, ok := data["error"].(error); ok && renewal {
			m.mu.Lock()
			m.told = err.Error()
			m.mu.Unlock()
			m.renewalFailed(host, err)
		}
	}
	return nil
}

func (m *Manager) renewalFailed(host string, err error) {
	reason := reasonOf(err)
	m.cfg.Metrics.failed(reason)
	event := m.log.Error()
	if host != "" {
		event.Str("host", host)
	}
	event.Err(err).Str("reason", reason).Str("hint", hints[reason]).Msg("certificate could not be renewed, the one before stays in use")
}

// jobFailed is how certmagic's log says that a renewal failed, also for what has no event: a folder that cannot be
// written to.
const jobFailed = "job failed"

func (m *Manager) jobFailed(err error) {
	m.mu.Lock()
	known := strings.Contains(err.Error(), errUnserved.Error()) || m.told != "" && strings.Contains(err.Error(), m.told)
	m.mu.Unlock()
	if !known {
		m.renewalFailed("", err)
	}
}

// newLogger returns the logger for certmagic. It talks much, in another style; what it says is for who asks for it,
// at level debug.
func newLogger(m *Manager) *zap.Logger { return zap.New(core{m: m}) }

// standard takes what certmagic says through the standard logger, which is little.
type standard struct{ m *Manager }

func (w standard) Write(line []byte) (int, error) {
	event := w.m.log.Debug()
	if bytes.Contains(line, []byte("panic")) {
		event = w.m.log.Error()
	}
	event.Bytes("detail", bytes.TrimSpace(line)).Msg("certmagic")
	return len(line), nil
}

// core passes on what certmagic logs.
type core struct {
	m      *Manager
	fields []zapcore.Field
}

// Enabled implements zapcore.LevelEnabler.
func (c core) Enabled(level zapcore.Level) bool { return level >= zapcore.InfoLevel }

// With implements zapcore.Core.
func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{c.m, append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

// Check implements zapcore.Core.
func (c core) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) {
		return to
	}
	return to.AddCore(e, c)
}

// Write implements zapcore.Core. Of the fields it takes those that tell what a line is about: others hold whole
// requests, or times in many forms.
func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	event := c.m.log.Debug()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		err, isErr := f.Interface.(error)
		switch {
		case f.Type == zapcore.ErrorType && isErr:
			if e.Message == jobFailed {
				c.m.jobFailed(err)
			}
			event.Err(err)
		case f.Type == zapcore.StringType && (f.Key == "identifier" || f.Key == "challenge_type" || f.Key == "url"):
			event.Str(f.Key, f.String)
		}
	}
	event.Str("detail", e.Message).Msg("certmagic")
	return nil
}

// Sync implements zapcore.Core.
func (core) Sync() error { return nil }
