//go:build unix

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long an event may take before a test gives up: long, since what it waits for takes milliseconds
// unless the machine is busy.
const patience = 30 * time.Second

// program is a running process and what it logs.
type program struct {
	t       testing.TB
	name    string
	env     []string
	cmd     *exec.Cmd
	log     logs
	done    chan struct{}
	foreign bool // not of this repository: its log is its own
}

// start runs a binary of this repository with env and nothing else until the test ends, when it is asked to stop and
// must do so with exit code 0. All that it prints must be JSON, and hold no secret of env.
func start(t testing.TB, name string, env ...string) *program {
	t.Helper()
	p := &program{t: t, name: name, env: env, cmd: exec.Command(binary(t, name))}
	p.run()
	return p
}

func (p *program) run() {
	p.t.Helper()
	p.cmd.Env = append(inherited(), p.env...)
	p.cmd.SysProcAttr = processAttributes()
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.log.more = make(chan struct{})
	p.done = make(chan struct{})
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in ProcessState
		p.log.flush()
		close(p.done)
	}()
	p.t.Cleanup(p.end)
}

// inherited is what a program may have of the environment of the test.
func inherited() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
}

// end stops the program unless the test has, and looks at what it has logged.
func (p *program) end() {
	select {
	case <-p.done:
	default:
		p.stop()
	}
	if !p.foreign {
		for _, e := range p.log.from(0) {
			if e.fields == nil || strings.Contains(e.field("detail"), "panic serving") {
				p.t.Errorf("%s printed a line that is not JSON, or panicked: %s", p.name, e.text)
			}
		}
		checkSecrets(p.t, p.env, p.log.String())
	}
	if p.t.Failed() {
		p.t.Logf("%s with %q printed:\n%s", p.name, p.env, p.log.String())
	}
}

func (p *program) signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Errorf("signal %s: %v", p.name, err)
	}
}

// wait returns how the program ended.
func (p *program) wait() *os.ProcessState {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Errorf("%s does not end", p.name)
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return p.cmd.ProcessState
}

// stop asks the program to end, which must be a success.
func (p *program) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if state := p.wait(); state.ExitCode() != 0 {
		p.t.Errorf("%s after SIGTERM: %v", p.name, state)
	}
}

// kill ends the program as a crash would.
func (p *program) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	p.wait()
}

// await returns the first entry of the log with the message and fields, given as name, part of the value.
func (p *program) await(message string, fields ...string) entry {
	p.t.Helper()
	return p.awaitFrom(0, message, fields...)
}

// awaitFrom is await for entries from a mark on.
func (p *program) awaitFrom(mark int, message string, fields ...string) entry {
	p.t.Helper()
	timeout := time.After(patience)
	ended := false
	for {
		more := p.log.next()
		for _, e := range p.log.from(mark) {
			if e.is(message, fields...) {
				return e
			}
		}
		if ended {
			p.t.Fatalf("%s ended (%v) and never logged %q %q", p.name, p.cmd.ProcessState, message, fields)
		}
		select {
		case <-more:
		case <-p.done:
			ended = true
		case <-timeout:
			p.t.Fatalf("%s does not log %q %q", p.name, message, fields)
		}
	}
}

// mark is the end of the log as it is now.
func (p *program) mark() int { return len(p.log.from(0)) }

// never fails the test if the log has an entry with the message.
func (p *program) never(message string) {
	p.t.Helper()
	for _, e := range p.log.from(0) {
		if e.is(message) {
			p.t.Errorf("%s logged: %s", p.name, e.text)
		}
	}
}

// addr returns where a listener of the program, named as in its log, listens.
func (p *program) addr(server string) string {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		more := p.log.next()
		for _, e := range p.log.from(0) {
			if e.is("listening") && e.field("server") == server {
				return e.field("addr")
			}
		}
		select {
		case <-more:
		case <-p.done:
			p.t.Fatalf("%s ended: %v", p.name, p.cmd.ProcessState)
		case <-timeout:
			p.t.Fatalf("%s does not listen for the %s", p.name, server)
		}
	}
}

// entry is a line of a log; fields is nil if it is not JSON.
type entry struct {
	text   string
	fields map[string]any
}

func (e entry) field(name string) string {
	if v, ok := e.fields[name]; ok {
		return fmt.Sprint(v)
	}
	return ""
}

func (e entry) is(message string, fields ...string) bool {
	if e.field("message") != message {
		return false
	}
	for i := 0; i < len(fields); i += 2 {
		if !strings.Contains(e.field(fields[i]), fields[i+1]) {
			return false
		}
	}
	return true
}

// logs is an io.Writer that others may read and wait for.
type logs struct {
	mu      sync.Mutex
	entries []entry
	partial []byte
	more    chan struct{} // closed with the next line
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, b...)
	for {
		line, rest, ok := bytes.Cut(l.partial, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.addLocked(line)
		l.partial = rest
	}
}

func (l *logs) addLocked(line []byte) {
	e := entry{text: string(line)}
	_ = json.Unmarshal(line, &e.fields)
	l.entries = append(l.entries, e)
	close(l.more)
	l.more = make(chan struct{})
}

// flush takes up a last line without an end.
func (l *logs) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.addLocked(l.partial)
		l.partial = nil
	}
}

func (l *logs) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.more
}

func (l *logs) from(mark int) []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries[mark:len(l.entries):len(l.entries)]
}

func (l *logs) String() string {
	var b strings.Builder
	for _, e := range l.from(0) {
		b.WriteString(e.text + "\n")
	}
	return b.String()
}

// result is what a program that ended by itself said.
type result struct {
	code           int
	stdout, stderr string
}

// command runs a binary of this repository with arguments to its end.
func command(t testing.TB, name, args string, env ...string) result {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd := exec.Command(binary(t, name), strings.Fields(args)...)
	cmd.Env = append(inherited(), env...)
	cmd.SysProcAttr = processAttributes()
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() {
		t.Errorf("%s %s does not end", name, args)
		_ = cmd.Process.Kill()
	})
	_ = cmd.Wait() // how it ended is in ProcessState
	timer.Stop()
	r := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	if args == "systemd --secrets" { // to print them is what it is for
		checkSecrets(t, env, r.stderr)
	} else {
		checkSecrets(t, env, r.stdout+r.stderr)
	}
	return r
}

// checkSecrets fails the test if output holds what only variables for secrets hold.
func checkSecrets(t testing.TB, env []string, output string) {
	t.Helper()
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		of, isFile := strings.CutSuffix(name, "_FILE")
		switch strings.TrimRight(of, "_0123456789") { // BASIC_AUTH_1
		case "TOKEN", "TLS_KEY", "BASIC_AUTH", "BEARER_TOKEN", "LICENSE", "OPERATOR_TOKEN":
		default:
			continue
		}
		if isFile {
			content, _ := os.ReadFile(value) // some are missing on purpose
			value = string(content)
		}
		for _, secret := range strings.FieldsFunc(value, func(r rune) bool { return r == '\n' || r == ',' || r == ':' }) {
			if len(secret) >= 8 && !strings.HasPrefix(secret, "-----") && strings.Contains(output, secret) {
				t.Errorf("%s is printed:\n%s", name, output)
			}
		}
	}
}
