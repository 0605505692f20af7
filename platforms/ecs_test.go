package platforms

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ecsTask is what the rules below look at; botocore and cfn-lint look for keys that do not exist.
type ecsTask struct {
	Family                  string         `json:"family"`
	RequiresCompatibilities []string       `json:"requiresCompatibilities"`
	NetworkMode             string         `json:"networkMode"`
	CPU                     any            `json:"cpu"`
	Memory                  any            `json:"memory"`
	ExecutionRoleArn        string         `json:"executionRoleArn"`
	Containers              []ecsContainer `json:"containerDefinitions"`
	RuntimePlatform         struct {
		OS  string `json:"operatingSystemFamily"`
		CPU string `json:"cpuArchitecture"`
	} `json:"runtimePlatform"`
	Volumes []ecsVolume `json:"volumes"`
}

type ecsVolume struct {
	Name string `json:"name"`
	Host struct {
		SourcePath string `json:"sourcePath"`
	} `json:"host"`
}

type ecsPort struct {
	ContainerPort int `json:"containerPort"`
	HostPort      int `json:"hostPort"`
}

type ecsMount struct {
	SourceVolume  string `json:"sourceVolume"`
	ContainerPath string `json:"containerPath"`
	ReadOnly      bool   `json:"readOnly"`
}

type ecsContainer struct {
	Name            string `json:"name"`
	Image           string `json:"image"`
	Essential       bool   `json:"essential"`
	Memory          int    `json:"memory"`
	User            string `json:"user"`
	Privileged      bool   `json:"privileged"`
	ReadonlyRoot    bool   `json:"readonlyRootFilesystem"`
	StopTimeout     int    `json:"stopTimeout"`
	LinuxParameters struct {
		Capabilities struct {
			Add  []string `json:"add"`
			Drop []string `json:"drop"`
		} `json:"capabilities"`
	} `json:"linuxParameters"`
	DockerSecurityOptions []string  `json:"dockerSecurityOptions"`
	PortMappings          []ecsPort `json:"portMappings"`
	Environment           []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"environment"`
	Secrets []struct {
		Name      string `json:"name"`
		ValueFrom string `json:"valueFrom"`
	} `json:"secrets"`
	HealthCheck *struct {
		Command []string `json:"command"`
	} `json:"healthCheck"`
	MountPoints      []ecsMount `json:"mountPoints"`
	LogConfiguration struct {
		LogDriver string            `json:"logDriver"`
		Options   map[string]string `json:"options"`
	} `json:"logConfiguration"`
	DependsOn []struct {
		ContainerName string `json:"containerName"`
	} `json:"dependsOn"`
}

// fargateMemory is what may go with a cpu value: MiB from, to, in steps of
// (https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html).
var fargateMemory = map[string][3]int{
	"256": {512, 2048, 512}, // but 1536
	"512": {1024, 4096, 1024}, "1024": {2048, 8192, 1024}, "2048": {4096, 16384, 1024}, "4096": {8192, 30720, 1024},
	"8192": {16384, 61440, 4096}, "16384": {32768, 122880, 8192},
}

var (
	secretARN = regexp.MustCompile(`^arn:aws:(secretsmanager:[a-z0-9-]+:\d{12}:secret:[\w/+=.@-]+-[A-Za-z0-9]{6}(:[^:]*:[^:]*:[^:]*)?|ssm:[a-z0-9-]+:\d{12}:parameter/[\w/.-]+)$`)
	roleARN   = regexp.MustCompile(`^arn:aws:iam::\d{12}:role/[\w/+=,.@-]+$`)
	ownImage  = regexp.MustCompile(`/adit-(server|client):[^:/]+$`)
)

// ecsFaults names what Amazon ECS would refuse or, worse, take in silence.
func ecsFaults(t *testing.T, text string) (list []string) {
	t.Helper()
	fault := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	var task ecsTask
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		return append(list, err.Error())
	}
	fargate, external := slices.Equal(task.RequiresCompatibilities, []string{"FARGATE"}), slices.Equal(task.RequiresCompatibilities, []string{"EXTERNAL"})
	switch {
	case fargate:
		list = append(list, fargateFaults(task)...)
	case external:
		if task.NetworkMode != "host" && task.NetworkMode != "bridge" && task.NetworkMode != "none" {
			fault("networkMode %q: EXTERNAL has host, bridge and none", task.NetworkMode)
		}
	default:
		fault("requiresCompatibilities %q", task.RequiresCompatibilities)
	}
	if task.RuntimePlatform.OS != "LINUX" || task.RuntimePlatform.CPU != "ARM64" && task.RuntimePlatform.CPU != "X86_64" {
		fault("runtimePlatform %v: the default is X86_64, whatever the image is for", task.RuntimePlatform)
	}
	ours := 0
	for _, c := range task.Containers {
		at := "container " + c.Name + ": "
		if c.LogConfiguration.LogDriver == "awslogs" || len(c.Secrets) > 0 {
			if !roleARN.MatchString(task.ExecutionRoleArn) {
				fault("%ssecrets and awslogs need an executionRoleArn, which is %q", at, task.ExecutionRoleArn)
			}
		}
		if external && c.Memory == 0 {
			fault("%sEXTERNAL needs a memory for each container", at)
		}
		if c.Privileged {
			fault("%sprivileged", at)
		}
		if c.StopTimeout > 120 {
			fault("%sstopTimeout %d is above 120", at, c.StopTimeout)
		}
		for _, p := range c.PortMappings {
			if p.HostPort != 0 && p.HostPort != p.ContainerPort && task.NetworkMode != "bridge" {
				fault("%shostPort %d is not containerPort %d", at, p.HostPort, p.ContainerPort)
			}
		}
		list = append(list, ecsLogFaults(at, c)...)
		for _, s := range c.Secrets {
			if !secretARN.MatchString(s.ValueFrom) {
				fault("%ssecrets: %s is not a full ARN: %s", at, s.Name, s.ValueFrom)
			}
		}
		for _, d := range c.DependsOn {
			if !slices.ContainsFunc(task.Containers, func(c ecsContainer) bool { return c.Name == d.ContainerName }) {
				fault("%sdependsOn: there is no %s", at, d.ContainerName)
			}
		}
		for _, m := range c.MountPoints {
			i := slices.IndexFunc(task.Volumes, func(v ecsVolume) bool { return v.Name == m.SourceVolume })
			switch {
			case i < 0:
				fault("%smountPoints: there is no volume %s", at, m.SourceVolume)
			case !m.ReadOnly:
				fault("%smountPoints: %s is writable", at, m.ContainerPath)
			case fargate && task.Volumes[i].Host.SourcePath != "":
				fault("%svolumes: FARGATE has no host.sourcePath", at)
			}
		}
		if m := ownImage.FindStringSubmatch(c.Image); m != nil {
			ours++
			list = append(list, ecsImageFaults(t, at, m[1], c, task)...)
		}
	}
	if ours != 1 {
		fault("%d containers have an image of ours with a tag", ours)
	}
	return list
}

func fargateFaults(task ecsTask) (list []string) {
	fault := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if task.NetworkMode != "awsvpc" {
		fault("networkMode %q: FARGATE has awsvpc", task.NetworkMode)
	}
	cpu, ok := task.CPU.(string)
	memory, ok2 := task.Memory.(string)
	if !ok || !ok2 {
		fault("cpu %v and memory %v must be strings", task.CPU, task.Memory)
		return list
	}
	r, ok := fargateMemory[cpu]
	mib, err := strconv.Atoi(memory)
	if !ok || err != nil || mib < r[0] || mib > r[1] || mib%r[2] != 0 || cpu == "256" && mib == 1536 {
		fault("cpu %s with memory %s is no pair that FARGATE has", cpu, memory)
	}
	for _, c := range task.Containers {
		if len(c.LinuxParameters.Capabilities.Add) > 0 || len(c.DockerSecurityOptions) > 0 {
			fault("container %s: FARGATE adds no capabilities and has no dockerSecurityOptions", c.Name)
		}
		if !slices.Contains([]string{"awslogs", "splunk", "awsfirelens"}, c.LogConfiguration.LogDriver) {
			fault("container %s: FARGATE has no logDriver %q", c.Name, c.LogConfiguration.LogDriver)
		}
	}
	return list
}

func ecsLogFaults(at string, c ecsContainer) (list []string) {
	if c.LogConfiguration.LogDriver != "awslogs" {
		return append(list, fmt.Sprintf("%slogDriver %q", at, c.LogConfiguration.LogDriver))
	}
	for _, option := range []string{"awslogs-group", "awslogs-region", "awslogs-stream-prefix"} {
		if c.LogConfiguration.Options[option] == "" {
			list = append(list, at+"logConfiguration lacks "+option)
		}
	}
	if c.LogConfiguration.Options["mode"] != "non-blocking" {
		list = append(list, at+"mode is not non-blocking: the container stands still when logs cannot be sent")
	}
	return list
}

// ecsImageFaults looks at a container of ours.
func ecsImageFaults(t *testing.T, at, image string, c ecsContainer, task ecsTask) (list []string) {
	t.Helper()
	fault := func(format string, args ...any) { list = append(list, at+fmt.Sprintf(format, args...)) }
	e := environment{image: image, values: map[string]string{}}
	for _, v := range c.Environment {
		if _, ok := e.values[v.Name]; ok {
			fault("environment: %s is there twice", v.Name)
		}
		e.values[v.Name] = v.Value
		if !strings.HasSuffix(v.Name, "_FILE") {
			continue
		}
		if !slices.ContainsFunc(c.MountPoints, func(m ecsMount) bool { return path.Dir(v.Value) == m.ContainerPath }) {
			fault("environment: %s=%s is not directly in a mounted folder", v.Name, v.Value)
		}
	}
	for _, s := range c.Secrets {
		e.secrets = append(e.secrets, s.Name)
	}
	for _, f := range e.faults(t) {
		fault("%s", f)
	}
	if !c.Essential {
		fault("not essential: nobody would notice that it is gone")
	}
	if c.User != "65532:65532" || !c.ReadonlyRoot || !slices.Equal(c.LinuxParameters.Capabilities.Drop, []string{"ALL"}) {
		fault("not hardened: user %q, readonlyRootFilesystem %t, capabilities dropped %q", c.User, c.ReadonlyRoot, c.LinuxParameters.Capabilities.Drop)
	}
	if c.HealthCheck == nil || !slices.Equal(c.HealthCheck.Command, []string{"CMD", "/" + image, "healthcheck"}) {
		fault("healthCheck is not CMD /%s healthcheck: ECS ignores that of the image, which has no shell for CMD-SHELL", image)
	}
	if stop := time.Duration(c.StopTimeout) * time.Second; stop < e.drain()+5*time.Second {
		fault("stopTimeout %s is not 5 s above the drain (%s)", stop, e.drain())
	}
	switch {
	case image == "server":
		for _, name := range []string{"PORT", "CONTROL_PORT"} {
			port, _ := strconv.Atoi(e.get(name))
			if !slices.ContainsFunc(c.PortMappings, func(p ecsPort) bool { return p.ContainerPort == port }) {
				fault("%s %s is not mapped", name, e.get(name))
			}
		}
	case slices.Equal(task.RequiresCompatibilities, []string{"EXTERNAL"}) && e.values["LICENSE_FILE"] == "":
		fault("no LICENSE_FILE: a licence from secrets is read at the start only, and a device in the field is to get a new one without")
	case task.NetworkMode == "host" && e.get("METRICS_ADDR") != "127.0.0.1":
		fault("METRICS_ADDR %q: in networkMode host all interfaces are the device's", e.get("METRICS_ADDR"))
	}
	if len(task.Containers) > 1 && len(c.DependsOn) == 0 {
		fault("no dependsOn: without it ECS stops the app while its client still has requests for it")
	}
	return list
}

const (
	serverTask  = "ecs-task.json.example"
	sidecarTask = "ecs-sidecar-task.json.example"
	edgeTask    = "ecs-anywhere-task.json.example"
)

func TestECS(t *testing.T) {
	for _, file := range []string{serverTask, sidecarTask, edgeTask} {
		for _, fault := range ecsFaults(t, example(t, file)) {
			t.Errorf("%s: %s", file, fault)
		}
	}
}

func TestECSFaults(t *testing.T) {
	for _, test := range []struct {
		file string
		broken
	}{
		{serverTask, broken{"no JSON", `"essential": true,`, `"essential": true, // always`, "invalid character"}},
		{serverTask, broken{"no launch type", `["FARGATE"]`, `[]`, "requiresCompatibilities"}},
		{serverTask, broken{"Fargate with bridge", `"awsvpc"`, `"bridge"`, "FARGATE has awsvpc"}},
		{serverTask, broken{"a number for a string", `"cpu": "256"`, `"cpu": 256`, "must be strings"}},
		{serverTask, broken{"no pair", `"memory": "512"`, `"memory": "256"`, "no pair"}},
		{serverTask, broken{"a gap between pairs", `"memory": "512"`, `"memory": "1536"`, "no pair"}},
		{serverTask, broken{"too much memory", `"memory": "512"`, `"memory": "4096"`, "no pair"}},
		{serverTask, broken{"an unknown cpu", `"cpu": "256"`, `"cpu": "300"`, "no pair"}},
		{serverTask, broken{"units in words", `"memory": "512"`, `"memory": "0.5 GB"`, "no pair"}},
		{serverTask, broken{"the wrong architecture by default", `"cpuArchitecture": "ARM64"`, `"cpuArchitecture": ""`, "runtimePlatform"}},
		{serverTask, broken{"no execution role", `"executionRoleArn": "arn:aws:iam::111122223333:role/adit-execution",`, "", "executionRoleArn"}},
		{serverTask, broken{"the name of a role", `arn:aws:iam::111122223333:role/adit-execution`, "adit-execution", "executionRoleArn"}},
		{serverTask, broken{"a capability added", `"drop": ["ALL"]`, `"drop": ["ALL"], "add": ["NET_ADMIN"]`, "adds no capabilities"}},
		{serverTask, broken{"Docker's security options", `"essential": true,`, `"essential": true, "dockerSecurityOptions": ["no-new-privileges"],`, "no dockerSecurityOptions"}},
		{serverTask, broken{"a log driver of Docker's", `"awslogs",`, `"json-file",`, "no logDriver"}},
		{serverTask, broken{"no stream prefix", `"awslogs-stream-prefix": "server",`, "", "awslogs-stream-prefix"}},
		{serverTask, broken{"no log group", `"awslogs-group": "/ecs/adit",`, "", "awslogs-group"}},
		{serverTask, broken{"logs that block", `"non-blocking"`, `"blocking"`, "non-blocking"}},
		{serverTask, broken{"the drain cut off", `"stopTimeout": 75`, `"stopTimeout": 60`, "above the drain (1m0s)"}},
		{serverTask, broken{"a delay before the drain", `"name": "DRAIN_TIMEOUT"`, `"name": "DRAIN_DELAY", "value": "30s"}, {"name": "DRAIN_TIMEOUT"`, "above the drain (1m30s)"}},
		{serverTask, broken{"the default stop timeout", `"stopTimeout": 75,`, ``, "above the drain"}},
		{serverTask, broken{"more than Fargate has", `"stopTimeout": 75`, `"stopTimeout": 121`, "above 120"}},
		{serverTask, broken{"another host port", `"containerPort": 8000,`, `"containerPort": 8000, "hostPort": 80,`, "hostPort 80"}},
		{serverTask, broken{"a port forgotten", `"containerPort": 8123`, `"containerPort": 8124`, "CONTROL_PORT 8123 is not mapped"}},
		{serverTask, broken{"no health check", `"healthCheck"`, `"healthChecks"`, "healthCheck is not"}},
		{serverTask, broken{"a health check by a shell", `["CMD", "/server", "healthcheck"]`, `["CMD-SHELL", "/server healthcheck"]`, "healthCheck is not"}},
		{serverTask, broken{"a health check without CMD", `["CMD", "/server", "healthcheck"]`, `["/server", "healthcheck"]`, "healthCheck is not"}},
		{serverTask, broken{"a secret in the environment", `"name": "MODE",`, `"name": "TOKEN",`, "TOKEN is a secret"}},
		{serverTask, broken{"no secret", `"name": "TOKEN",`, `"name": "TLS_KEY",`, "TOKEN is not set"}},
		{serverTask, broken{"a setting as a secret", `"name": "TOKEN",`, `"name": "MODE",`, "MODE is no secret"}},
		{serverTask, broken{"a secret by its name", `arn:aws:secretsmanager:eu-central-1:111122223333:secret:adit/token-AbCdEf`, "adit/token", "not a full ARN"}},
		{serverTask, broken{"a secret without its suffix", `token-AbCdEf`, "token", "not a full ARN"}},
		{serverTask, broken{"an unknown variable", `"MODE"`, `"DRAIN_WAIT"`, "DRAIN_WAIT is not read"}},
		{serverTask, broken{"a value that is refused", `"60s"`, `"60"`, "does not start"}},
		{serverTask, broken{"a variable twice", `"AUTO_TLS"`, `"MODE"`, "is there twice"}},
		{serverTask, broken{"not essential", `"essential": true`, `"essential": false`, "not essential"}},
		{serverTask, broken{"root", `"65532:65532"`, `"0"`, "not hardened"}},
		{serverTask, broken{"a writable root", `"readonlyRootFilesystem": true`, `"readonlyRootFilesystem": false`, "not hardened"}},
		{serverTask, broken{"all capabilities", `"drop": ["ALL"]`, `"drop": ["NET_RAW"]`, "not hardened"}},
		{serverTask, broken{"no tag", `adit-server:0.1.0`, `adit-server`, "image of ours"}},
		{sidecarTask, broken{"an app that is stopped first", `"dependsOn"`, `"dependsUpon"`, "no dependsOn"}},
		{sidecarTask, broken{"an unknown container", `"containerName": "app"`, `"containerName": "web"`, "there is no web"}},
		{sidecarTask, broken{"an app without a log prefix", `"awslogs-stream-prefix": "app",`, "", "container app: logConfiguration lacks"}},
		{edgeTask, broken{"awsvpc on a device", `"networkMode": "host"`, `"networkMode": "awsvpc"`, "EXTERNAL has host"}},
		{edgeTask, broken{"no network mode", `"networkMode": "host",`, ``, "EXTERNAL has host"}},
		{edgeTask, broken{"no memory", `"memory": 128,`, ``, "EXTERNAL needs a memory"}},
		{edgeTask, broken{"privileged", `"memory": 128,`, `"memory": 128, "privileged": true,`, "privileged"}},
		{edgeTask, broken{"metrics for the neighbours", `"METRICS_ADDR"`, `"CLIENT_ID"`, "METRICS_ADDR"}},
		{edgeTask, broken{"a writable mount", `"readOnly": true`, `"readOnly": false`, "is writable"}},
		{edgeTask, broken{"no such volume", `"sourceVolume": "adit"`, `"sourceVolume": "etc"`, "no volume etc"}},
		{edgeTask, broken{"a file that is not there", `"METRICS_ADDR",
          "value": "127.0.0.1"`, `"TLS_CA_FILE",
          "value": "/etc/ssl/ca.pem"`, "TLS_CA_FILE=/etc/ssl/ca.pem is not directly in a mounted folder"}},
		{edgeTask, broken{"a host path on Fargate", `["EXTERNAL"]`, `["FARGATE"]`, "no host.sourcePath"}},
		{edgeTask, broken{"a licence for ever", `"LICENSE_FILE"`, `"TLS_CA_FILE"`, "no LICENSE_FILE"}},
		{edgeTask, broken{"a licence that is not mounted", "/etc/adit/license", "/srv/license", "not directly in a mounted folder"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			expect(t, ecsFaults(t, test.apply(t, example(t, test.file))), test.want)
		})
	}
}
