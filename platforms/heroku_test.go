package platforms

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// What https://devcenter.heroku.com/articles/build-docker-images-heroku-yml documents.
type herokuConfig struct {
	Setup struct {
		Addons []struct {
			Plan string `yaml:"plan"`
			As   string `yaml:"as"`
		} `yaml:"addons"`
		Config map[string]any `yaml:"config"`
	} `yaml:"setup"`
	Build struct {
		Docker map[string]string `yaml:"docker"`
		Config map[string]any    `yaml:"config"`
	} `yaml:"build"`
	Release struct {
		Image   string   `yaml:"image"`
		Command []string `yaml:"command"`
	} `yaml:"release"`
	Run map[string]any `yaml:"run"` // a command, or {command, image}
}

// What https://devcenter.heroku.com/articles/app-json-schema documents.
type herokuApp struct {
	Name         string                  `json:"name"`
	Description  string                  `json:"description"`
	Keywords     []string                `json:"keywords"`
	Website      string                  `json:"website"`
	Repository   string                  `json:"repository"`
	Logo         string                  `json:"logo"`
	SuccessURL   string                  `json:"success_url"`
	Stack        string                  `json:"stack"`
	Image        string                  `json:"image"`
	Addons       []any                   `json:"addons"`
	Buildpacks   []any                   `json:"buildpacks"`
	Environments map[string]any          `json:"environments"`
	Scripts      map[string]string       `json:"scripts"`
	Env          map[string]herokuAppEnv `json:"env"`
	Formation    map[string]struct {
		Quantity int    `json:"quantity"`
		Size     string `json:"size"`
	} `json:"formation"`
}

type herokuAppEnv struct {
	Description string `json:"description"`
	Value       string `json:"value"`
	Required    *bool  `json:"required"`
	Generator   string `json:"generator"`
}

// herokuFaults names what Heroku would not take in heroku.yml, or take for something else than is meant.
func herokuFaults(t *testing.T, text string) (list []string) {
	t.Helper()
	fault := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	var c herokuConfig
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil {
		return append(list, err.Error())
	}
	config := map[string]string{}
	for name, value := range c.Setup.Config {
		s, ok := value.(string)
		if !ok {
			fault("setup.config: %s is %v (%T): write it in quotes", name, value, value)
		}
		config[name] = s
	}
	list = append(list, herokuConfigFaults(t, config)...)
	if len(c.Build.Docker) != 1 || c.Build.Docker["web"] == "" {
		fault("build.docker: %v, want web", c.Build.Docker)
	} else if strings.Contains(c.Build.Docker["web"], "/") {
		fault("build.docker.web: %s: Heroku builds in that folder, which lacks go.mod and shared", c.Build.Docker["web"])
	}
	// One word: Heroku gives several to the entrypoint as one.
	if len(c.Run) != 1 || c.Run["web"] != "serve" {
		fault("run: %v, want the command serve for web", c.Run)
	}
	return list
}

// herokuConfigFaults looks at the variables, wherever they are set.
func herokuConfigFaults(t *testing.T, config map[string]string) (list []string) {
	t.Helper()
	fault := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	e := environment{image: "server", values: config, secrets: []string{"TOKEN"}}
	list = e.faults(t)
	if _, ok := config["PORT"]; ok {
		fault("PORT is Heroku's to set")
	}
	if e.get("CONTROL_PORT") != "PORT" {
		fault("CONTROL_PORT %s: there is one port, that of PORT", e.get("CONTROL_PORT"))
	}
	if e.get("MODE") != "http" {
		fault("MODE %s: Heroku carries HTTP only", e.get("MODE"))
	}
	if e.get("AUTO_TLS") != "false" {
		fault("AUTO_TLS %s: the router speaks plain HTTP to the server", e.get("AUTO_TLS"))
	}
	if e.get("METRICS_PORT") != "off" {
		fault("METRICS_PORT %s: no other port can be reached", e.get("METRICS_PORT"))
	}
	if e.drain() > 25*time.Second {
		fault("the drain (%s) is not 5 s below Heroku's 30 s", e.drain())
	}
	if d, err := time.ParseDuration(e.get("PING_INTERVAL")); err != nil || d > 27*time.Second {
		fault("PING_INTERVAL %s: the router allows 55 s of silence", e.get("PING_INTERVAL"))
	}
	if !covers(e.get("TRUSTED_PROXIES"), "10.1.2.3") {
		fault("TRUSTED_PROXIES lacks heroku")
	}
	return list
}

// herokuAppFaults names what Heroku would not take in app.json.
func herokuAppFaults(t *testing.T, text string) (list []string) {
	t.Helper()
	fault := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	var app herokuApp
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&app); err != nil {
		return append(list, err.Error())
	}
	if !regexp.MustCompile(`^[a-zA-Z_.-]{1,300}$`).MatchString(app.Name) {
		fault("name %q", app.Name)
	}
	if app.Stack != "container" {
		fault("stack %q: only container reads heroku.yml", app.Stack)
	}
	// Another dyno would have other clients.
	if web := app.Formation["web"]; len(app.Formation) != 1 || web.Quantity != 1 || web.Size == "" || web.Size == "eco" {
		fault("formation: %v, want one dyno for web, of a size that does not sleep", app.Formation)
	}
	if v := app.Env["TOKEN"]; v.Generator != "secret" || v.Value != "" {
		fault("env.TOKEN: want it made up by the generator secret")
	}
	config := map[string]string{}
	for name, v := range app.Env {
		if v.Generator != "" && v.Generator != "secret" {
			fault("env.%s: no generator %q", name, v.Generator)
		}
		if v.Description == "" {
			fault("env.%s: no description", name)
		}
		if name != "TOKEN" {
			config[name] = v.Value
		}
	}
	return append(list, herokuConfigFaults(t, config)...)
}

func TestHeroku(t *testing.T) {
	manifest, app := example(t, "heroku.yml.example"), example(t, "app.json.example")
	for _, fault := range herokuFaults(t, manifest) {
		t.Errorf("heroku.yml: %s", fault)
	}
	for _, fault := range herokuAppFaults(t, app) {
		t.Errorf("app.json: %s", fault)
	}

	var c herokuConfig
	var a herokuApp
	if err := yaml.Unmarshal([]byte(manifest), &c); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(app), &a); err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	for name, v := range a.Env {
		values[name] = v.Value
	}
	delete(values, "TOKEN")
	if !maps.Equal(values, c.Setup.Config) {
		t.Errorf("app.json sets %v, heroku.yml %v", values, c.Setup.Config)
	}
}

func TestHerokuFaults(t *testing.T) {
	text := example(t, "heroku.yml.example")
	for _, test := range []broken{
		{"unknown section", "setup:", "set-up:", "set-up"},
		{"unknown key", "docker:", "dockerfile:", "dockerfile"},
		{"no YAML", "run:", "run: :", "yaml"},
		{"a truth value for a string", `"false"`, "false", "write it in quotes"},
		{"a number for a string", `"off"`, "8124", "write it in quotes"},
		{"a port that Heroku does not give", "CONTROL_PORT: PORT", "CONTROL_PORT: '8123'", "there is one port"},
		{"a port of our own", "CONTROL_PORT: PORT", "CONTROL_PORT: PORT\n    PORT: '80'", "PORT is Heroku's"},
		{"TCP", "CONTROL_PORT: PORT", "CONTROL_PORT: PORT\n    MODE: http,tcp", "HTTP only"},
		{"TLS twice", `"false"`, `"true"`, "AUTO_TLS"},
		{"an unreachable port", `METRICS_PORT: "off"`, `METRICS_PORT: "8124"`, "METRICS_PORT 8124"},
		{"the drain is too long", "DRAIN_TIMEOUT: 25s", "DRAIN_TIMEOUT: 29s", "below Heroku's 30 s"},
		{"the drain with its delay", "DRAIN_TIMEOUT: 25s", "DRAIN_DELAY: 5s", "below Heroku's 30 s"},
		{"pings too rare", "DRAIN_TIMEOUT: 25s", "PING_INTERVAL: 30s", "PING_INTERVAL"},
		{"routers not trusted", "TRUSTED_PROXIES: heroku", "TRUSTED_PROXIES: fly", "TRUSTED_PROXIES"},
		{"the secret in the file", "CONTROL_PORT: PORT", "CONTROL_PORT: PORT\n    TOKEN: 0123456789abcdef", "TOKEN is a secret"},
		{"an unknown variable", "METRICS_PORT", "METRIC_PORT", "METRIC_PORT is not read"},
		{"a Dockerfile in a folder", "web: Dockerfile", "web: images/server/Dockerfile", "Heroku builds in that folder"},
		{"no web", "web: Dockerfile", "worker: Dockerfile", "build.docker"},
		{"no command", "web: serve", "", "run:"},
		{"a command with a path", "web: serve", "web: /server serve", "run:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			expect(t, herokuFaults(t, test.apply(t, text)), test.want)
		})
	}
}

func TestHerokuAppFaults(t *testing.T) {
	text := example(t, "app.json.example")
	for _, test := range []broken{
		{"unknown key", `"formation"`, `"formations"`, "formations"},
		{"unknown key of a variable", `"generator"`, `"generate"`, "generate"},
		{"no JSON", `"stack": "container",`, `"stack": "container", // the images`, "invalid character"},
		{"name", "adit-server", "adit server 1", "name"},
		{"stack", `"stack": "container"`, `"stack": "heroku-24"`, "stack"},
		{"two dynos", `"quantity": 1`, `"quantity": 2`, "formation"},
		{"a dyno that sleeps", `"basic"`, `"eco"`, "formation"},
		{"the secret in the file", `"generator": "secret"`, `"value": "0123456789abcdef"`, "env.TOKEN"},
		{"unknown generator", `"generator": "secret"`, `"generator": "uuid"`, "no generator"},
		{"not explained", `"description": "TLS ends at Heroku's router",`, "", "no description"},
		{"variables", `"value": "PORT"`, `"value": "8123"`, "there is one port"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			expect(t, herokuAppFaults(t, test.apply(t, text)), test.want)
		})
	}
}
