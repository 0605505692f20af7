package compose

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// The image of Grafana is pulled by nobody here: what it is given is held against what its documentation says of the
// files, and the queries against what is exported (TestDashboard in e2e).

// datasources is provisioning/datasources, with the keys that we use.
type datasources struct {
	APIVersion  int `yaml:"apiVersion"`
	Prune       bool
	Datasources []struct {
		Name, UID, Type, Access, URL string
		IsDefault                    bool `yaml:"isDefault"`
		Editable                     bool
		JSONData                     struct {
			HTTPMethod   string `yaml:"httpMethod"`
			TimeInterval string `yaml:"timeInterval"`
		} `yaml:"jsonData"`
	}
}

// providers is provisioning/dashboards.
type providers struct {
	APIVersion int `yaml:"apiVersion"`
	Providers  []struct {
		Name, Type, Folder    string
		DisableDeletion       bool `yaml:"disableDeletion"`
		AllowUIUpdates        bool `yaml:"allowUiUpdates"`
		UpdateIntervalSeconds int  `yaml:"updateIntervalSeconds"`
		Options               struct{ Path string }
	}
}

// dashboard is what of a dashboard is the same in all its panels.
type dashboard struct {
	UID, Title    string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type, Query, Definition any }
	}
	Panels []panel
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ H, W, X, Y int }
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []target
}

type source struct{ Type, UID string }

type target struct {
	RefID, Expr, LegendFormat string
	Datasource                source
	Instant, Range            bool
}

// strictYAML decodes a file in which nothing may be unknown.
func strictYAML(t *testing.T, file string, into any) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func TestGrafanaProvisioning(t *testing.T) {
	project := mustLoad(t, "monitoring/docker-compose.yml")
	mounted := map[string]string{} // where it is in the container, and here
	for _, v := range project.Services["grafana"].Volumes {
		mounted[v.Target] = v.Source
	}

	var from datasources
	strictYAML(t, "monitoring/grafana/datasources.yml", &from)
	if from.APIVersion != 1 || len(from.Datasources) != 1 {
		t.Fatalf("datasources: %+v", from)
	}
	prometheus := from.Datasources[0]
	port := project.Services["prometheus"].Ports[0].Target
	if want := fmt.Sprintf("http://prometheus:%d", port); prometheus.Type != "prometheus" || prometheus.Access != "proxy" || prometheus.URL != want || !prometheus.IsDefault {
		t.Errorf("datasource: %+v, want %s", prometheus, want)
	}
	scrape, err := os.ReadFile("monitoring/prometheus.yml")
	if err != nil || !strings.Contains(string(scrape), "scrape_interval: "+prometheus.JSONData.TimeInterval+"\n") {
		t.Errorf("timeInterval %s is not the scrape_interval: %v", prometheus.JSONData.TimeInterval, err)
	}
	here, _ := filepath.Abs("monitoring/grafana/datasources.yml")
	if got := mounted["/etc/grafana/provisioning/datasources/adit.yml"]; got != here {
		t.Errorf("the datasources that Grafana reads are %q", got)
	}

	var kept providers
	strictYAML(t, "monitoring/grafana/dashboards.yml", &kept)
	if kept.APIVersion != 1 || len(kept.Providers) != 1 || kept.Providers[0].Type != "file" || kept.Providers[0].Name == "" {
		t.Fatalf("providers: %+v", kept)
	}
	here, _ = filepath.Abs("monitoring/grafana/dashboards.yml")
	if got := mounted["/etc/grafana/provisioning/dashboards/adit.yml"]; got != here {
		t.Errorf("the providers that Grafana reads are %q", got)
	}
	folder := mounted[path.Clean(kept.Providers[0].Options.Path)]
	if _, err := os.Stat(filepath.Join(folder, "adit.json")); folder == "" || err != nil {
		t.Errorf("no dashboard in %s, which is %q: %v", kept.Providers[0].Options.Path, folder, err)
	}

	grafana := project.Services["grafana"]
	password := grafana.Environment["GF_SECURITY_ADMIN_PASSWORD__FILE"]
	if password == nil || *password != "/run/secrets/"+grafana.Secrets[0].Source {
		t.Errorf("the password of admin comes from %v, not %v", password, grafana.Secrets)
	}
}

// objections returns what a reader of the dashboard, or Grafana, would have against it.
func (d dashboard) objections() (all []string) {
	object := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if d.UID != "adit" || d.Title == "" || d.SchemaVersion < 36 {
		object("uid %q, title %q, schema %d", d.UID, d.Title, d.SchemaVersion)
	}
	variables := []string{"__rate_interval"} // Grafana's own
	for _, v := range d.Templating.List {
		variables = append(variables, fmt.Sprint(v.Name))
	}
	var ids []int
	var titles []string
	for i, p := range d.Panels {
		if slices.Contains(ids, p.ID) || slices.Contains(titles, p.Title) || p.Title == "" {
			object("panel %d %q: its id or title is another's, or none", p.ID, p.Title)
		}
		ids, titles = append(ids, p.ID), append(titles, p.Title)
		a := p.GridPos
		if a.W < 1 || a.H < 1 || a.X < 0 || a.X+a.W > 24 {
			object("%s: outside of the 24 columns: %+v", p.Title, a)
		}
		for _, other := range d.Panels[:i] {
			if b := other.GridPos; a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				object("%s covers %s", p.Title, other.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 || !slices.Contains([]string{"stat", "timeseries", "table"}, p.Type) {
			object("%s: a %s with unit %q and %d queries", p.Title, p.Type, p.FieldConfig.Defaults.Unit, len(p.Targets))
		}
		for _, q := range p.Targets {
			if q.Datasource != (source{"prometheus", "${datasource}"}) || q.Instant == q.Range || q.RefID == "" {
				object("%s: %+v", p.Title, q)
			}
			for _, used := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
				if !slices.Contains(variables, used[1]) {
					object("%s: there is no variable %s", p.Title, used[1])
				}
			}
			// A legend that names a label which the aggregation drops is empty.
			for _, label := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(q.LegendFormat, -1) {
				if by := regexp.MustCompile(`^\w+ by \(([^)]*)\)`).FindStringSubmatch(q.Expr); by != nil && !slices.Contains(strings.Split(by[1], ", "), label[1]) {
					object("%s: the legend's %s is not among by (%s)", p.Title, label[1], by[1])
				}
			}
		}
	}
	return all
}

func TestDashboard(t *testing.T) {
	content, err := os.ReadFile("monitoring/grafana/dashboards/adit.json")
	if err != nil {
		t.Fatal(err)
	}
	decode := func(t *testing.T, content []byte) (d dashboard) {
		t.Helper()
		if err := json.Unmarshal(content, &d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, objection := range decode(t, content).objections() {
		t.Error(objection)
	}
	// An id would be another dashboard's in the Grafana that imports it.
	if regexp.MustCompile(`(?m)^  "id":`).Match(content) {
		t.Error("the dashboard has an id of its own")
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"variable", `$host`, `$hosts`, "no variable hosts"},
		{"width", `"w": 3`, `"w": 30`, "outside of the 24 columns"},
		{"overlap", `"x": 3,`, `"x": 2,`, "covers"},
		{"unit", `"unit": "reqps"`, `"unit": ""`, `unit ""`},
		{"legend", `"legendFormat": "{{port}}"`, `"legendFormat": "{{ports}}"`, "the legend's ports"},
		{"datasource", `${datasource}`, `prometheus`, "UID:prometheus"},
		{"twice", `"id": 3,`, `"id": 4,`, "is another's"},
	} {
		t.Run("objects to "+c.name, func(t *testing.T) {
			if !bytes.Contains(content, []byte(c.old)) {
				t.Fatalf("no %s in it", c.old)
			}
			found := decode(t, bytes.ReplaceAll(content, []byte(c.old), []byte(c.new))).objections()
			if !strings.Contains(strings.Join(found, "\n"), c.want) {
				t.Errorf("nothing like %q in %q", c.want, found)
			}
		})
	}
}
