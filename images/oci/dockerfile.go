package main

import (
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// stage is what the last stage of a Dockerfile says.
type stage struct {
	config v1.Config
	files  []file // folders come before what is in them
}

// file is a file or an empty folder of an image.
type file struct {
	path   string // absolute
	folder bool
	uid    int
	gid    int
}

// The Dockerfiles' build stages leave these two things, and the last stage copies nothing else.
const (
	builtBinary = "/out/" // with the name of the image
	builtState  = "/out/state"
)

// readStage reads the last stage of a Dockerfile, which must be FROM scratch, with the build arguments args. What an
// engine would understand and this does not is an error: the images are the same, however they are made.
func readStage(r io.Reader, args map[string]string) (*stage, error) {
	parsed, err := parser.Parse(r)
	if err != nil {
		return nil, err
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return nil, err
	}
	if len(stages) == 0 || stages[len(stages)-1].BaseName != "scratch" {
		return nil, fmt.Errorf("the last stage is not FROM scratch")
	}
	s := &stage{config: v1.Config{
		// As every engine does.
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Labels:       map[string]string{},
		ExposedPorts: map[string]struct{}{},
		WorkingDir:   "/",
	}}
	known := map[string]string{}
	lex := shell.NewLex(parsed.EscapeToken)
	expand := func(word string) (string, error) {
		env := append([]string(nil), s.config.Env...)
		for name, value := range known {
			env = append(env, name+"="+value)
		}
		word, unmatched, err := lex.ProcessWord(word, shell.EnvsFromSlice(env))
		if err == nil && len(unmatched) > 0 {
			err = fmt.Errorf("%v is not declared by ARG in the last stage", unmatched)
		}
		return word, err
	}
	for _, command := range stages[len(stages)-1].Commands {
		if e, ok := command.(instructions.SupportsSingleWordExpansion); ok {
			if err := e.Expand(expand); err != nil {
				return nil, fmt.Errorf("%s: %w", command.Name(), err)
			}
		}
		if arg, ok := command.(*instructions.ArgCommand); ok {
			for _, a := range arg.Args {
				if given, ok := args[a.Key]; ok {
					known[a.Key] = given
				} else {
					known[a.Key] = a.ValueString()
				}
			}
			continue
		}
		if err := s.apply(command); err != nil {
			return nil, fmt.Errorf("%s: %w", command.Name(), err)
		}
	}
	if len(s.config.Entrypoint) == 0 {
		return nil, fmt.Errorf("there is no ENTRYPOINT")
	}
	return s, nil
}

func (s *stage) apply(command instructions.Command) error {
	switch c := command.(type) {
	case *instructions.LabelCommand:
		for _, l := range c.Labels {
			s.config.Labels[l.Key] = l.Value
		}
	case *instructions.EnvCommand:
		for _, e := range c.Env {
			s.config.Env = append(s.config.Env, e.Key+"="+e.Value)
		}
	case *instructions.WorkdirCommand:
		if !path.IsAbs(c.Path) {
			return fmt.Errorf("%s is not absolute", c.Path)
		}
		s.config.WorkingDir = path.Clean(c.Path)
		s.folder(s.config.WorkingDir, 0, 0)
	case *instructions.CopyCommand:
		return s.copy(c)
	case *instructions.UserCommand:
		s.config.User = c.User
	case *instructions.ExposeCommand:
		for _, port := range c.Ports {
			if !strings.Contains(port, "/") {
				port += "/tcp"
			}
			s.config.ExposedPorts[port] = struct{}{}
		}
	case *instructions.HealthCheckCommand:
		h := c.Health
		if h.StartInterval != 0 {
			return fmt.Errorf("--start-interval is unknown to many engines")
		}
		s.config.Healthcheck = &v1.HealthConfig{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, Retries: h.Retries}
	case *instructions.EntrypointCommand:
		if c.PrependShell {
			return fmt.Errorf("needs a shell: write it as a list")
		}
		s.config.Entrypoint = c.CmdLine
	default:
		return fmt.Errorf("images/oci does not know this instruction: teach it, in dockerfile.go")
	}
	return nil
}

// copy understands the binary and the folder for state.
func (s *stage) copy(c *instructions.CopyCommand) error {
	if c.From == "" || len(c.SourcePaths) != 1 || len(c.SourceContents) > 0 || c.Chmod != "" || c.Link || c.Parents || len(c.ExcludePatterns) > 0 {
		return fmt.Errorf("only COPY --from=build [--chown=UID:GID] SOURCE DESTINATION is understood")
	}
	uid, gid := 0, 0
	if c.Chown != "" {
		user, group, _ := strings.Cut(c.Chown, ":")
		var err1, err2 error
		uid, err1 = strconv.Atoi(user)
		gid, err2 = strconv.Atoi(group)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("--chown=%s: write numbers, UID:GID", c.Chown)
		}
	}
	source, dest := c.SourcePaths[0], c.DestPath
	if !path.IsAbs(dest) || strings.HasSuffix(dest, "/") {
		return fmt.Errorf("the destination %s is not the absolute path of a file or folder", dest)
	}
	if source == builtState {
		s.folder(dest, uid, gid)
		return nil
	}
	if path.Join(builtBinary, path.Base(dest)) != source || path.Dir(dest) != "/" {
		return fmt.Errorf("%s %s is neither the binary nor %s", source, dest, builtState)
	}
	s.files = append(s.files, file{path: dest, uid: uid, gid: gid})
	return nil
}

// folder adds a folder with what it is in, which is root's.
func (s *stage) folder(name string, uid, gid int) {
	if name == "/" {
		return
	}
	for _, f := range s.files {
		if f.path == name {
			return
		}
	}
	s.folder(path.Dir(name), 0, 0)
	s.files = append(s.files, file{path: name, folder: true, uid: uid, gid: gid})
}
