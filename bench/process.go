//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout bounds how long a program may take until it can be used, stopTimeout
	// until it has ended.
	startTimeout = 20 * time.Second
	stopTimeout  = 10 * time.Second
)

// process is a program that runs until it is stopped.
type process struct {
	name   string
	cmd    *exec.Cmd
	cancel context.CancelFunc
	done   chan struct{} // closed once it has ended
	err    error         // what it ended with; valid after done
	log    *tail
	ends1  bool // its exit status after a signal is 1
}

// start runs a program with env and nothing else that configures it.
func start(name, path string, args, env []string) (*process, error) {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		for _, entry := range os.Environ() {
			if strings.HasPrefix(entry, name+"=") {
				cmd.Env = append(cmd.Env, entry)
			}
		}
	}
	cmd.Env = append(cmd.Env, env...)
	p := &process{name: name, cmd: cmd, cancel: cancel, done: make(chan struct{}), log: new(tail)}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	// A group of its own, so that Ctrl-C reaches this program alone, which then stops
	// the others in order. Should this one be killed, the kernel stops them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// stop ends the program and waits for it.
func (p *process) stop() error {
	select {
	case <-p.done:
		p.cancel()
		return p.ended()
	default:
	}
	p.cancel()
	<-p.done
	var exit *exec.ExitError
	switch {
	case p.err == nil, errors.Is(p.err, context.Canceled):
		return nil
	case p.ends1 && errors.As(p.err, &exit) && exit.ExitCode() == 1:
		return nil
	case errors.As(p.err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM: // too young to know what to do
		return nil
	}
	return fmt.Errorf("stop %s: %w", p.name, p.err)
}

// ended says why a program ended that was to run on, or returns nil.
func (p *process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended by itself: %v\n%s", p.name, p.err, p.log)
	default:
		return nil
	}
}

// until waits for a condition while the programs run.
func until(ctx context.Context, what string, condition func() bool, running ...*process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		for _, p := range running {
			if err := p.ended(); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			logs := ""
			for _, p := range running {
				logs += "\n" + p.name + ": " + p.log.String()
			}
			return fmt.Errorf("%s: %w%s", what, ctx.Err(), logs)
		}
	}
	return nil
}

// pids are the process and what it started, such as the workers of nginx.
func (p *process) pids() ([]int, error) {
	pids := []int{p.cmd.Process.Pid}
	for i := 0; i < len(pids); i++ {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pids[i]))
		if err != nil {
			return nil, fmt.Errorf("children of %s: %w", p.name, err)
		}
		for _, field := range strings.Fields(string(children)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("children of %s: %w", p.name, err)
			}
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// cpu is the processor time that the program has used, in seconds.
func (p *process) cpu() (float64, error) {
	return p.sum("stat", parseStat)
}

// rss is the memory that the program occupies, in KiB.
func (p *process) rss() (float64, error) {
	return p.sum("smaps_rollup", parseRollup)
}

func (p *process) sum(file string, value func(string) (float64, error)) (float64, error) {
	pids, err := p.pids()
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			return 0, fmt.Errorf("%s of %s: %w", file, p.name, err)
		}
		v, err := value(string(text))
		if err != nil {
			return 0, fmt.Errorf("%s of %s: %w", file, p.name, err)
		}
		total += v
	}
	return total, nil
}

// ticks is the unit of times in /proc/PID/stat: USER_HZ, 100 on every Linux.
const ticks = 100

// parseStat returns user and system time of /proc/PID/stat in seconds (proc(5)).
func parseStat(text string) (float64, error) {
	_, rest, ok := strings.Cut(text[max(strings.LastIndexByte(text, ')'), 0):], ") ") // the name may hold anything
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, errors.New("malformed")
	}
	user, err1 := strconv.ParseUint(fields[11], 10, 64) // the 14th of all
	system, err2 := strconv.ParseUint(fields[12], 10, 64)
	return float64(user+system) / ticks, errors.Join(err1, err2)
}

// parseRollup returns Rss of /proc/PID/smaps_rollup in KiB.
func parseRollup(text string) (float64, error) {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "Rss:" && fields[2] == "kB" {
			return strconv.ParseFloat(fields[1], 64)
		}
	}
	return 0, errors.New("has no Rss")
}

// tail keeps the last lines that a program printed. It is an io.Writer.
type tail struct {
	mu      sync.Mutex
	lines   []string
	partial []byte
}

const tailLines = 40

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.partial = append(t.partial, b...)
	for {
		line, rest, ok := bytes.Cut(t.partial, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		t.lines = append(t.lines, string(line))
		if len(t.lines) > tailLines {
			t.lines = slices.Delete(t.lines, 0, len(t.lines)-tailLines)
		}
		t.partial = append(t.partial[:0], rest...)
	}
}

// Lines returns what is kept.
func (t *tail) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.lines)
}

func (t *tail) String() string { return strings.Join(t.Lines(), "\n") }
