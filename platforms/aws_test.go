package platforms

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode"
)

// register gives a task definition to the command that the README names, whose botocore checks it by AWS' own model of
// the API, and returns what would be sent to AWS.
func register(t *testing.T, definition string) (sent any, err error) {
	t.Helper()
	if _, err := exec.LookPath("aws"); err != nil {
		t.Skip("aws is absent (Debian: apt-get install awscli)")
	}
	requests := make(chan any, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".RegisterTaskDefinition") {
			http.Error(w, "not that request", http.StatusBadRequest)
			return
		}
		requests <- body
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_, _ = io.WriteString(w, `{"taskDefinition":{"revision":1}}`)
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "task.json")
	if err := os.WriteFile(file, []byte(definition), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "aws", "ecs", "register-task-definition", "--cli-input-json", "file://"+file,
		"--endpoint-url", srv.URL, "--region", "eu-central-1", "--output", "json")
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE="+os.DevNull, "AWS_MAX_ATTEMPTS=1", "AWS_PAGER=", "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.New(string(out))
	}
	return <-requests, nil
}

func TestECSIsTakenByAWS(t *testing.T) {
	for _, file := range []string{serverTask, sidecarTask, edgeTask} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			text := example(t, file)
			sent, err := register(t, text)
			if err != nil {
				t.Fatal(err)
			}
			var want any
			if err := json.Unmarshal([]byte(text), &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(sent, want) {
				t.Errorf("sent %v, the file has %v", sent, want)
			}
		})
	}
	t.Run("broken", func(t *testing.T) {
		t.Parallel()
		text := example(t, serverTask)
		for _, change := range [][2]string{
			{`"stopTimeout"`, `"stop_timeout"`}, {`"cpu": "256"`, `"cpu": 256`}, {`"containerPort": 8000`, `"containerPort": "8000"`},
			{`"networkMode"`, `"network"`},
		} {
			text = broken{old: change[0], new: change[1]}.apply(t, text)
		}
		_, err := register(t, text)
		if err == nil {
			t.Fatal("aws takes it")
		}
		for _, want := range []string{"stop_timeout", "parameter cpu", "containerPort", `"network"`} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("aws does not complain of %s:\n%v", want, err)
			}
		}
	})
}

// cfnLint checks task definitions by the CloudFormation schema of AWS::ECS::TaskDefinition, which knows the values that
// are allowed where botocore knows only types, and returns what it says of each.
func cfnLint(t *testing.T, definitions map[string]string) map[string]string {
	t.Helper()
	program, err := exec.LookPath("cfn-lint")
	if err != nil {
		t.Skip("cfn-lint is absent (pip install cfn-lint)")
	}
	resources := map[string]any{}
	for name, text := range definitions {
		var task any
		if err := json.Unmarshal([]byte(text), &task); err != nil {
			t.Fatal(err)
		}
		resources[name] = map[string]any{"Type": "AWS::ECS::TaskDefinition", "Properties": inCloudFormation(task, "")}
	}
	template, err := json.Marshal(map[string]any{"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "template.json")
	if err := os.WriteFile(file, template, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program, "--format", "json", "--regions", "eu-central-1", "--template", file).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var matches []struct {
		Level, Message string
		Location       struct{ Path []any }
	}
	if err := json.Unmarshal(out, &matches); err != nil {
		t.Fatalf("cfn-lint: %v: %s %s", err, out, stderr(exit))
	}
	said := map[string]string{}
	for _, m := range matches {
		name := "template"
		if len(m.Location.Path) > 1 {
			name, _ = m.Location.Path[1].(string)
		}
		said[name] += m.Level + ": " + m.Message + "\n"
	}
	return said
}

func stderr(exit *exec.ExitError) string {
	if exit == nil {
		return ""
	}
	return string(exit.Stderr)
}

// inCloudFormation returns a task definition as CloudFormation spells it: keys begin with a capital letter, but those of
// the options of a log driver.
func inCloudFormation(value any, below string) any {
	switch v := value.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, item := range v {
			name := key
			if below != "options" {
				name = string(unicode.ToUpper(rune(key[0]))) + key[1:]
			}
			out[name] = inCloudFormation(item, key)
		}
		return out
	case []any:
		for i := range v {
			v[i] = inCloudFormation(v[i], below)
		}
	}
	return value
}

func TestECSIsTakenByCloudFormation(t *testing.T) {
	t.Parallel()
	good := map[string]string{"Server": example(t, serverTask), "Sidecar": example(t, sidecarTask), "Edge": example(t, edgeTask)}
	for name, said := range cfnLint(t, good) {
		t.Errorf("%s: %s", name, said)
	}
	bad := map[string]broken{
		"Cpu":          {old: `"cpu": "256"`, new: `"cpu": "300"`},
		"Pair":         {old: `"memory": "512"`, new: `"memory": "256"`},
		"Network":      {old: `"awsvpc"`, new: `"vpc"`},
		"Architecture": {old: `"ARM64"`, new: `"arm64"`},
		"Key":          {old: `"stopTimeout"`, new: `"stopTimeouts"`},
		"Driver":       {old: `"awslogs",`, new: `"cloudwatch",`},
	}
	changed := map[string]string{}
	for name, change := range bad {
		changed[name] = change.apply(t, example(t, serverTask))
	}
	said := cfnLint(t, changed)
	for name := range bad {
		if said[name] == "" {
			t.Errorf("cfn-lint takes the broken %s; it said %v", name, said)
		}
	}
}
