package kubernetes

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// programs are those of the images, compiled for this machine, and what they read.
var programs struct {
	dir       string
	variables map[string]map[string]string // image → variable → default
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if err := build(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(programs.dir)
		return m.Run()
	}())
}

func build() (err error) {
	if programs.dir, err = os.MkdirTemp("", "adit-kubernetes-"); err != nil {
		return err
	}
	args := []string{"build", "-o", programs.dir + string(filepath.Separator)}
	for _, image := range images {
		args = append(args, "./images/"+image)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the images' programs: %w\n%s", err, out)
	}
	programs.variables = map[string]map[string]string{}
	for _, image := range images {
		table, _ := env(image, nil) // an error tells of what is required
		read := map[string]string{}
		heading, _, _ := strings.Cut(table, "\n")
		from, to := strings.Index(heading, "VALUE"), strings.Index(heading, "DEFAULT")
		for _, row := range regexp.MustCompile(`(?m)^([A-Z][A-Z0-9_]*)(\*?) .*$`).FindAllStringSubmatch(table, -1) {
			if row[1] == "VARIABLE" || from < 0 || to < from || len(row[0]) < to {
				continue
			}
			read[row[1]] = strings.TrimSpace(row[0][from:to])
			if row[2] == "*" {
				read[row[1]+"_FILE"] = ""
			}
		}
		if read["LOG_LEVEL"] != "info" || read["DRAIN_TIMEOUT"] != "25s" {
			return fmt.Errorf("%s env does not show its variables and their defaults:\n%s", image, table)
		}
		programs.variables[image] = read
	}
	return nil
}

// defaults returns the variables that an image reads, with their defaults.
func defaults(image string) map[string]string { return programs.variables[image] }

// env runs the env command of an image, which fails if the environment is at fault. Files and folders that a container
// would have are stood in for.
func env(image string, environment map[string]string) (string, error) {
	program := filepath.Join(programs.dir, image)
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	cmd := exec.CommandContext(context.Background(), program, "env")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SYSTEMROOT=" + os.Getenv("SYSTEMROOT")}
	for name, value := range environment {
		switch {
		case strings.HasSuffix(name, "_FILE"):
			value = filepath.Join(programs.dir, "secret")
			if err := os.WriteFile(value, []byte(token+"\n"), 0o600); err != nil {
				return "", err
			}
		case strings.HasSuffix(name, "_DIR"), name == "WEBROOT":
			value = programs.dir
		}
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// started remembers which environments were found good: many manifests share one.
var started sync.Map

// checkEnvironment: a name that no image reads would be ignored in silence, and a value that one does not take would end it.
func checkEnvironment(m *manifest) (faults []string) {
	for _, w := range workloads(m) {
		for _, c := range w.containers() {
			if c.image == "" {
				continue
			}
			environment := map[string]string{}
			for _, e := range c.Env {
				if _, ok := defaults(c.image)[e.Name]; !ok {
					faults = append(faults, fmt.Sprintf("%s sets %s, which the image %s does not read", w, e.Name, c.image))
				}
				if _, twice := environment[e.Name]; twice {
					faults = append(faults, fmt.Sprintf("%s sets %s twice", w, e.Name))
				}
				environment[e.Name] = e.Value
				if e.ValueFrom != nil {
					environment[e.Name] = token
				}
			}
			var lines []string
			for name, value := range environment {
				lines = append(lines, name+"="+value)
			}
			slices.Sort(lines)
			key := c.image + "\n" + strings.Join(lines, "\n")
			if _, ok := started.Load(key); ok {
				continue
			}
			if out, err := env(c.image, environment); err != nil {
				faults = append(faults, fmt.Sprintf("%s: the image %s does not start with these settings: %v\n%s", w, c.image, err, out))
				continue
			}
			started.Store(key, true)
		}
	}
	return faults
}
