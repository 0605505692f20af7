package compose

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
)

// rules are what every example must keep. Each returns what is wrong with one.
var rules = []func(*types.Project) []string{hardened, bounded, probed, private, sidecars, secretsElsewhere}

// faults returns what the rules have against an example.
func faults(project *types.Project) (all []string) {
	for _, rule := range rules {
		all = append(all, rule(project)...)
	}
	slices.Sort(all)
	return all
}

// program returns the name of our image that a service runs, "" if it is not one of ours.
func program(service types.ServiceConfig) string {
	image, _, _ := strings.Cut(service.Image, ":")
	name, ours := strings.CutPrefix(image, "adit-")
	if !ours {
		return ""
	}
	return name
}

// each applies a rule to every service.
func each(project *types.Project, rule func(service types.ServiceConfig, object func(format string, args ...any))) (all []string) {
	for name, service := range project.Services {
		rule(service, func(format string, args ...any) {
			all = append(all, name+": "+fmt.Sprintf(format, args...))
		})
	}
	return all
}

// hardened: nothing to gain for who breaks into a container.
func hardened(project *types.Project) []string {
	return each(project, func(s types.ServiceConfig, object func(string, ...any)) {
		if !s.ReadOnly {
			object("the root file system is writable")
		}
		if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(s.User) {
			object("user %q is not two numbers above 0", s.User)
		}
		if !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0 {
			object("capabilities: drop %v, add %v", s.CapDrop, s.CapAdd)
		}
		if !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			object("may gain privileges: security_opt %v", s.SecurityOpt)
		}
		if s.Privileged || s.Pid != "" || s.Ipc != "" || s.NetworkMode == "host" {
			object("shares the host's namespaces")
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				object("port %d is published on %q unless told otherwise", port.Target, port.HostIP)
			}
		}
		for _, mount := range s.Volumes {
			if mount.Type == types.VolumeTypeBind && !mount.ReadOnly {
				object("%s is writable", filepath.Base(mount.Source))
			}
		}
	})
}

// bounded: a share of the machine, and time to finish what is under way.
func bounded(project *types.Project) []string {
	return each(project, func(s types.ServiceConfig, object func(string, ...any)) {
		if s.PidsLimit <= 0 || s.MemLimit <= 0 {
			object("without limits of memory and processes")
		}
		if s.Restart != types.RestartPolicyUnlessStopped {
			object("restart %q: it would stay away", s.Restart)
		}
		if s.Logging == nil || s.Logging.Options["max-size"] == "" {
			object("its log grows for ever")
		}
		// The default of Compose, 10 s, would cut the drain off.
		drain := 25 * time.Second
		if value := s.Environment["DRAIN_TIMEOUT"]; value != nil {
			drain, _ = time.ParseDuration(*value)
		}
		if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) < drain+5*time.Second {
			object("stop_grace_period %v does not leave %v for the drain", s.StopGracePeriod, drain)
		}
	})
}

// probed: by the program itself, as the images have no shell.
func probed(project *types.Project) []string {
	return each(project, func(s types.ServiceConfig, object func(string, ...any)) {
		name := program(s)
		if s.HealthCheck == nil || len(s.HealthCheck.Test) < 3 || s.HealthCheck.Test[0] != "CMD" {
			object("no health check")
		} else if name != "" && !slices.Equal(s.HealthCheck.Test[1:3], []string{"/" + name, "healthcheck"}) {
			object("health check %q", s.HealthCheck.Test)
		}
	})
}

// private: the app is reached through the tunnel only.
func private(project *types.Project) []string {
	return each(project, func(s types.ServiceConfig, object func(string, ...any)) {
		if program(s) != "fileserver" {
			return
		}
		if len(s.Ports) > 0 {
			object("is published")
		}
		if addr := s.Environment["DATA_ADDR"]; addr != nil && *addr == "127.0.0.1" {
			return
		}
		for name := range s.Networks {
			if !project.Networks[name].Internal {
				object("network %s is not internal", name)
			}
			if _, ok := project.Services["server"].Networks[name]; ok {
				object("the server is on network %s too", name)
			}
		}
	})
}

// sidecars share a network that is another's: Compose refuses what they would set of their own.
func sidecars(project *types.Project) []string {
	return each(project, func(s types.ServiceConfig, object func(string, ...any)) {
		owner, ok := strings.CutPrefix(s.NetworkMode, "service:")
		if !ok {
			return
		}
		if len(s.Ports) > 0 || len(s.Networks) > 0 || s.Hostname != "" {
			object("has ports, networks or a hostname of its own in the network of %s", owner)
		}
	})
}

// secretive are the variables whose value nobody may read in an example.
var secretive = regexp.MustCompile(`(TOKEN|LICENSE|BASIC_AUTH|TLS_KEY|PASSWORD|SECRET)$`)

// secretsElsewhere: from the environment of whoever starts it, or from a file.
func secretsElsewhere(project *types.Project) []string {
	return each(project, func(s types.ServiceConfig, object func(string, ...any)) {
		for name, value := range s.Environment {
			if secretive.MatchString(name) && (value == nil || *value != token) {
				object("%s has a value", name)
			}
		}
		if name := program(s); name != "server" && name != "client" {
			return
		}
		inline, file := s.Environment["TOKEN"], s.Environment["TOKEN_FILE"]
		if (inline == nil) == (file == nil) {
			object("one of TOKEN and TOKEN_FILE is wanted")
		}
		if file != nil && !slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool {
			return strings.HasPrefix(*file, v.Target+"/") && v.ReadOnly
		}) && !slices.ContainsFunc(s.Secrets, func(v types.ServiceSecretConfig) bool { return *file == "/run/secrets/"+v.Source }) {
			object("TOKEN_FILE %s is not mounted", *file)
		}
	})
}

func TestRules(t *testing.T) {
	for _, file := range examples(t) {
		t.Run(filepath.Dir(file), func(t *testing.T) {
			for _, fault := range faults(mustLoad(t, file)) {
				t.Error(fault)
			}
		})
	}
}

// A rule that has nothing against anything would hold nothing.
func TestRulesObject(t *testing.T) {
	for _, c := range []struct{ name, example, old, new, want string }{
		{"writable root", "quickstart", "read_only: true", "read_only: false", "client: the root file system is writable"},
		{"root", "quickstart", `user: "65532:65532"`, `user: "0:0"`, `client: user "0:0"`},
		{"named user", "quickstart", `user: "65532:65532"`, "user: nobody", `client: user "nobody"`},
		{"capabilities", "quickstart", "cap_drop: [ALL]", "cap_drop: [NET_RAW]", "client: capabilities: drop [NET_RAW]"},
		{"added capability", "quickstart", "cap_drop: [ALL]", "cap_drop: [ALL]\n  cap_add: [NET_ADMIN]", "add [NET_ADMIN]"},
		{"privileges", "quickstart", "security_opt:", "x-security_opt:", "client: may gain privileges"},
		{"published to all", "quickstart", "${PUBLISH_DATA:-127.0.0.1:8000}", "${PUBLISH_DATA:-8000}", "server: port 8000 is published on"},
		{"writable files", "quickstart", "webroot:/srv:ro", "webroot:/srv", "fileserver: webroot is writable"},
		{"no memory limit", "quickstart", "mem_limit: 256m", "x-mem_limit: 256m", "client: without limits"},
		{"does not come back", "sidecar", "restart: unless-stopped", "restart: \"no\"", "app: restart \"no\""},
		{"endless log", "sidecar", "max-size", "max-files", "app: its log grows for ever"},
		{"short grace", "sidecar", "stop_grace_period: 30s", "stop_grace_period: 10s", "client: stop_grace_period 10s does not leave 25s"},
		{"long drain", "tcp-ha", "MODE: tcp", "MODE: tcp\n      DRAIN_TIMEOUT: 1m", "server: stop_grace_period 30s does not leave 1m0s"},
		{"no health check", "secrets", `["CMD", "/fileserver", "healthcheck"]`, `["NONE"]`, "fileserver: no health check"},
		{"a shell", "secrets", `["CMD", "/fileserver", "healthcheck"]`, `["CMD", "/bin/sh", "-c", "true"]`, "fileserver: health check"},
		{"a published app", "sidecar", "    networks: [private]\n", "    networks: [private]\n    ports: [\"127.0.0.1:1:1\"]\n", "app: is published"},
		{"a way out", "sidecar", "private: {internal: true}", "private: {}", "app: network private is not internal"},
		{"a way in", "sidecar", "networks: [tunnel]", "networks: [tunnel, private]", "app: the server is on network private too"},
		{"an open app", "sidecar-localhost", "DATA_ADDR: 127.0.0.1", "DATA_ADDR: 0.0.0.0", "app: network tunnel is not internal"},
		{"a secret", "secrets", "BASIC_AUTH_FILE: /run/secrets/basic_auth", "BASIC_AUTH: me:secret", "fileserver: BASIC_AUTH has a value"},
		{"a token", "sidecar", `TOKEN: "${TOKEN:?set`, `TOKEN: "${OTHER:-0123456789abcdef}" # "`, "client: TOKEN has a value"},
		{"no token", "quickstart", `TOKEN: "${TOKEN:?set`, `LOG_LEVEL: "${TOKEN:?set`, "client: one of TOKEN and TOKEN_FILE is wanted"},
		{"a token that is nowhere", "secrets", "target: /run/secrets, read_only: true}", "target: /run/other, read_only: true}", "server: TOKEN_FILE /run/secrets/token is not mounted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			project, err := loadChanged(t, c.example, c.old, c.new)
			if err != nil {
				t.Fatal(err)
			}
			found := faults(project)
			if !slices.ContainsFunc(found, func(fault string) bool { return strings.Contains(fault, c.want) }) {
				t.Errorf("nothing like %q among %q", c.want, found)
			}
		})
	}
}

// Compose itself refuses what the sidecar may not have.
func TestSidecarPorts(t *testing.T) {
	shared := `network_mode: "service:app"`
	project, err := loadChanged(t, "sidecar-localhost", shared, shared+"\n    ports: [\"127.0.0.1:1:1\"]")
	if err == nil && len(faults(project)) == 0 {
		t.Error("ports of a sidecar are taken")
	}
	if _, err := loadChanged(t, "sidecar-localhost", shared, shared+"\n    networks: [tunnel]"); err == nil {
		t.Error("networks of a sidecar are taken")
	}
}

// loadChanged loads an example in which every old is new.
func loadChanged(t *testing.T, example, old, new string) (*types.Project, error) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(example, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(content), old) {
		t.Fatalf("%s has no %q", example, old)
	}
	file := filepath.Join(t.TempDir(), "docker-compose.yml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(content), old, new)), 0o600); err != nil {
		t.Fatal(err)
	}
	return load(t, file, "TOKEN="+token)
}
