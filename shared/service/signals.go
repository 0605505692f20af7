package service

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/oklog/run"
)

// Signals returns an actor that ends a run.Group with a [run.SignalError] on the
// first SIGINT or SIGTERM, or with ctx.Err() when ctx ends. After the first
// signal it stops to listen, so a second one meets the default of the operating
// system and ends the process at once.
//
// It is run.SignalHandler except that it listens from the call on. That one
// begins in a goroutine of the group, beside those that already serve, and a
// signal that comes in between kills the process without a drain.
func Signals(ctx context.Context) (execute func() error, interrupt func(error)) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(ctx)
	execute = func() error {
		defer signal.Stop(signals)
		select {
		case sig := <-signals:
			return &run.SignalError{Signal: sig}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return execute, func(error) { cancel() }
}
