package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// stopTimeout is how long a program may take to stop before it is killed.
const stopTimeout = 10 * time.Second

// group is the programs that were started. Its methods are for one goroutine.
type group struct{ programs []*program }

type program struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{} // closed once it has ended
	err    error         // what it ended with; valid after done
}

// start runs the program at path, whose output goes to out, with env and nothing
// else that configures it.
func (g *group) start(name, path string, env []string, out *lines) error {
	ctx, cancel := context.WithCancel(context.Background())
	output := &prefixed{prefix: fmt.Sprintf("%-10s | ", name), out: out}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append(inherited(), env...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = processAttributes()
	cmd.Cancel = func() error { return terminate(cmd.Process) }
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		cancel()
		return fmt.Errorf("start %s: %w", name, err)
	}
	p := &program{name: name, cancel: cancel, done: make(chan struct{})}
	g.programs = append(g.programs, p)
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
		output.flush()
	}()
	return nil
}

// ended returns the error of a program that ended by itself, or nil.
func (g *group) ended() error {
	for _, p := range g.programs {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %w", p.name, orSuccess(p.err))
		default:
		}
	}
	return nil
}

// until waits for condition, but not longer than limit, nor once a program or ctx
// has ended.
func (g *group) until(ctx context.Context, limit time.Duration, condition func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := g.ended(); err != nil {
			return err
		}
		if condition() {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("no answer within %v: %w", limit, ctx.Err())
		}
	}
}

// wait returns nil once ctx has ended, or an error once a program has.
func (g *group) wait(ctx context.Context) error {
	ended := make(chan struct{}, len(g.programs))
	for _, p := range g.programs {
		go func() { <-p.done; ended <- struct{}{} }()
	}
	select {
	case <-ctx.Done():
		return nil
	case <-ended:
		return g.ended()
	}
}

// stop asks the programs to stop, the last started first, and waits for each.
func (g *group) stop() error {
	var errs []error
	for i := len(g.programs) - 1; i >= 0; i-- {
		p := g.programs[i]
		select {
		case <-p.done: // by itself, which has been told
			p.cancel()
			continue
		default:
		}
		p.cancel()
		<-p.done
		// Windows has no signal that asks; there a program can only be killed.
		if p.err != nil && runtime.GOOS != "windows" && !errors.Is(p.err, context.Canceled) {
			errs = append(errs, fmt.Errorf("stop %s: %w", p.name, p.err))
		}
	}
	g.programs = nil
	return errors.Join(errs...)
}

// inherited is what a program needs of the environment to run at all. The rest is
// left out: a PORT or TLS_CERT of this shell is not meant for the demo.
func inherited() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return !slices.Contains([]string{"PATH", "HOME", "TMPDIR", "TEMP", "SYSTEMROOT"}, strings.ToUpper(name))
	})
}

func exeSuffix() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}

// orSuccess gives a program that ended without an error one to tell.
func orSuccess(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// lines lets several programs share an output without mixing their lines.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) print(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	io.WriteString(l.w, text)
}

// prefixed passes on whole lines, each with the name of its program before it.
type prefixed struct {
	prefix  string
	out     *lines
	partial []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.partial = append(p.partial, b...)
	for {
		i := bytes.IndexByte(p.partial, '\n')
		if i < 0 {
			return len(b), nil
		}
		p.out.print(p.prefix + string(p.partial[:i+1]))
		p.partial = p.partial[i+1:]
	}
}

// flush passes on a last line that has no end.
func (p *prefixed) flush() {
	if len(p.partial) > 0 {
		p.Write([]byte("\n"))
	}
}
