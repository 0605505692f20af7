package service

import (
	"context"
	"sync"
)

// Drain orders how the actors of a run.Group end: those of First are interrupted with
// the group, those of Last when all of First have returned. What operators look at thus
// answers for as long as the data plane drains. The zero value is ready for use.
type Drain struct{ first sync.WaitGroup }

// First returns the actor with its end noted. It must be added to the group.
func (d *Drain) First(execute func() error, interrupt func(error)) (func() error, func(error)) {
	d.first.Add(1)
	return func() error {
		defer d.first.Done()
		return execute()
	}, interrupt
}

// Last returns the actor with its interrupt put off until all of First have returned.
func (d *Drain) Last(execute func() error, interrupt func(error)) (func() error, func(error)) {
	return execute, func(err error) {
		go func() { // ends with the actors of First
			d.first.Wait()
			interrupt(err)
		}()
	}
}

// Background returns an actor that executes until its context ends, with ctx or by its
// interrupt.
func Background(ctx context.Context, execute func(context.Context) error) (func() error, func(error)) {
	ctx, cancel := context.WithCancel(ctx)
	return func() error { return execute(ctx) }, func(error) { cancel() }
}
