package tunnel

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A peer that lets the deadline of Open pass counts as silent until it is heard of.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := script(t, Config{PingInterval: time.Hour})
		began := time.Now()
		<-time.After(time.Second)
		p.send(appendHeader(nil, framePing, 8, 0), make([]byte, 8))
		synctest.Wait()
		if s.Silent() || s.LastHeard().Sub(began) != time.Second {
			t.Errorf("silent: %t, last heard after %v", s.Silent(), s.LastHeard().Sub(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := s.Open(ctx, Target{})
		if !errors.Is(err, ErrOpenTimeout) || !s.Silent() {
			t.Errorf("error is %v, silent: %t", err, s.Silent())
		}
		p.want(frameOpen)
		p.want(frameReset)
		ping := p.want(framePing) // it is asked for a sign of life
		<-time.After(time.Second)
		p.send(appendHeader(nil, framePong, 8, 0), ping.payload)
		synctest.Wait()
		if s.Silent() {
			t.Error("silent after an answer")
		}
	})
}

// A refusal that comes just before the deadline is still a refusal, and no silence.
func TestRefusedAtDeadline(t *testing.T) {
	s, p := script(t, Config{})
	go func() { p.send(resetFrame(p.want(frameOpen).stream, CodeRefused, "")) }()
	_, err := s.Open(&lateContext{Context: t.Context()}, Target{})
	wantResetError(t, err, CodeRefused, "")
	if s.Silent() {
		t.Error("silent after a refusal")
	}
}

// lateContext is over when Open looks for the second time, to find out why it failed.
type lateContext struct {
	context.Context
	looked bool
}

func (c *lateContext) Err() error {
	if !c.looked {
		c.looked = true
		return nil
	}
	return context.DeadlineExceeded
}

func TestOpenReason(t *testing.T) {
	for want, err := range map[string]error{
		"refused":          &ResetError{Code: CodeRefused},
		"open_timeout":     fmt.Errorf("open: %w", ErrOpenTimeout),
		"visitor_left":     context.Canceled,
		"too_many_streams": ErrTooManyStreams,
		"session":          ErrClosed,
	} {
		if got := OpenReason(err); got != want {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
}
