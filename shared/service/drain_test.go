package service

import (
	"context"
	"errors"
	"testing"

	"github.com/oklog/run"
)

func TestDrain(t *testing.T) {
	var (
		g           run.Group
		d           Drain
		interrupted = make(chan struct{})
		release     = make(chan struct{})
		last        = make(chan struct{})
		boom        = errors.New("boom")
	)
	g.Add(d.First(func() error { <-release; return nil }, func(error) { close(interrupted) }))
	g.Add(d.Last(func() error { <-last; return nil }, func(error) { close(last) }))
	g.Add(func() error { return boom }, func(error) {})
	done := make(chan error, 1)
	go func() { done <- g.Run() }()

	<-interrupted
	select {
	case <-last:
		t.Error("the last stage was interrupted before the first had returned")
	default:
	}
	close(release)
	<-last
	if err := <-done; !errors.Is(err, boom) {
		t.Errorf("the group returned %v, want %v", err, boom)
	}
}

func TestBackground(t *testing.T) {
	execute, interrupt := Background(context.Background(), func(ctx context.Context) error { <-ctx.Done(); return nil })
	done := make(chan error, 1)
	go func() { done <- execute() }()
	interrupt(nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
