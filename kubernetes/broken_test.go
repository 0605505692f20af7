package kubernetes

import (
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// Short ways to parts of a manifest, for breaking them.
func (m *manifest) deployment(name string) *apps.Deployment { return find[*apps.Deployment](m, name) }
func (m *manifest) pod(name string) *core.PodSpec {
	if d := m.deployment(name); d != nil {
		return &d.Spec.Template.Spec
	}
	return &find[*apps.StatefulSet](m, name).Spec.Template.Spec
}
func (m *manifest) server() *core.Container  { return &m.pod("adit-server").Containers[0] }
func (m *manifest) client() *core.Container  { return &m.pod("adit-client").Containers[0] }
func (m *manifest) sidecar() *core.Container { return &m.pod("app").InitContainers[0] }
func (m *manifest) service(name string) *core.Service {
	return find[*core.Service](m, name)
}
func (m *manifest) budget(name string) *policyv1.PodDisruptionBudget {
	return find[*policyv1.PodDisruptionBudget](m, name)
}
func (m *manifest) policy(name string) *networking.NetworkPolicy {
	return find[*networking.NetworkPolicy](m, name)
}
func (m *manifest) gateway(name string) *gateway.Gateway { return find[*gateway.Gateway](m, name) }
func (m *manifest) remove(name string) {
	m.objects = slices.DeleteFunc(m.objects, func(o runtime.Object) bool { return nameOf(o) == name })
}

func setEnv(c *core.Container, name, value string) {
	unsetEnv(c, name)
	c.Env = append(c.Env, core.EnvVar{Name: name, Value: value})
}

func unsetEnv(c *core.Container, name string) {
	c.Env = slices.DeleteFunc(c.Env, func(e core.EnvVar) bool { return e.Name == name })
}

// TestRulesFind breaks manifests that are right, and looks that the rule finds it.
func TestRulesFind(t *testing.T) {
	const (
		quickstart  = "overlays/quickstart"
		monitor     = "overlays/quickstart-monitored"
		ha          = "overlays/ha"
		balanced    = "overlays/loadbalancer"
		passthrough = "overlays/gateway-passthrough"
		plain       = "overlays/gateway-plain"
		tcp         = "overlays/tcp"
		outside     = "overlays/client"
	)
	yes, no := true, false
	tests := []struct {
		rule, manifest string
		breaks         func(m *manifest)
		want           string
	}{
		{"namespace", quickstart, func(m *manifest) { m.service("adit").Namespace = "default" }, `adit is in the namespace "default"`},
		{"namespace", quickstart, func(m *manifest) {
			find[*core.Namespace](m, "adit").Labels["pod-security.kubernetes.io/enforce"] = "baseline"
		}, "does not enforce the restricted level"},

		{"selectors", quickstart, func(m *manifest) {
			m.service("adit").Spec.Selector = map[string]string{"app.kubernetes.io/name": "adit"}
		}, "Service adit selects no pods"},
		{"selectors", quickstart, func(m *manifest) {
			m.deployment("app").Spec.Selector.MatchLabels = map[string]string{"app.kubernetes.io/name": "other"}
		}, "Deployment app does not select its own pods"},
		{"selectors", ha, func(m *manifest) {
			m.deployment("adit-client").Spec.Selector.MatchLabels = map[string]string{"app.kubernetes.io/part-of": "adit"}
		}, "Deployment adit-client selects the pods of StatefulSet adit-server"},
		{"selectors", outside, func(m *manifest) {
			m.pod("adit-client").TopologySpreadConstraints[0].LabelSelector.MatchLabels = map[string]string{"a": "b"}
		}, "spreads pods that are not its own"},
		{"selectors", ha, func(m *manifest) {
			m.pod("adit-server").Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector.MatchLabels = map[string]string{"a": "b"}
		}, "keeps away from pods that are not its own"},
		{"selectors", ha, func(m *manifest) {
			m.service("adit-control-1").Spec.Selector[apps.StatefulSetPodNameLabel] = "adit-server-2"
		}, "Service adit-control-1 selects no pods"},

		{"ports", quickstart, func(m *manifest) { m.service("adit").Spec.Ports[0].TargetPort = intstr.FromString("web") }, "port http leads to web, which Deployment adit-server does not have"},
		{"ports", quickstart, func(m *manifest) { m.service("adit").Spec.Ports[0].TargetPort = intstr.FromInt32(8080) }, "leads to 8080"},
		{"ports", quickstart, func(m *manifest) { m.service("adit").Spec.Ports[0].Protocol = core.ProtocolUDP }, "protocol UDP"},
		{"ports", quickstart, func(m *manifest) { m.service("adit").Spec.Ports = nil }, "Service adit has no ports"},
		{"ports", quickstart, func(m *manifest) { m.server().Ports[0].ContainerPort = 8080 }, "port http is 8080, PORT is 8000"},
		{"ports", quickstart, func(m *manifest) { setEnv(m.server(), "CONTROL_PORT", "9123") }, "port control is 8123, CONTROL_PORT is 9123"},
		{"ports", quickstart, func(m *manifest) { m.server().Ports[1].Name = "http" }, "has two ports called http"},
		{"ports", quickstart, func(m *manifest) { m.pod("app").Containers[0].Ports[0].ContainerPort = 8125 }, "has port 8125 twice"},
		{"ports", quickstart, func(m *manifest) { m.server().Ports[0].HostPort = 80 }, "takes port 80 of its node"},
		{"ports", tcp, func(m *manifest) { setEnv(m.server(), "MODE", "http") }, "has port 5432, but MODE is http"},
		{"ports", tcp, func(m *manifest) { setEnv(m.server(), "ALLOW_PORTS", "5433") }, "has port 5432, but ALLOW_PORTS is 5433"},

		{"probes", quickstart, func(m *manifest) { m.server().LivenessProbe = nil }, "server has no liveness probe"},
		{"probes", quickstart, func(m *manifest) { m.server().LivenessProbe.HTTPGet.Path = "/readyz" }, "the liveness probe of server asks /readyz"},
		{"probes", quickstart, func(m *manifest) { m.server().ReadinessProbe.HTTPGet.Port = intstr.FromString("probe") }, "the readiness probe of server asks port probe"},
		{"probes", quickstart, func(m *manifest) { m.server().ReadinessProbe.HTTPGet.Port = intstr.FromString("http") }, "the readiness probe of server asks port http"},
		{"probes", quickstart, func(m *manifest) { m.sidecar().ReadinessProbe.HTTPGet.Port = intstr.FromInt32(8126) }, "asks port 8126, METRICS_PORT is 8125"},
		{"probes", quickstart, func(m *manifest) {
			m.server().LivenessProbe.ProbeHandler = core.ProbeHandler{Exec: &core.ExecAction{Command: []string{"true"}}}
		}, "no liveness probe by HTTP"},
		{"probes", quickstart, func(m *manifest) { m.sidecar().StartupProbe = m.sidecar().LivenessProbe.DeepCopy() }, "the application waits for the startup probe of adit-client"},

		{"grace", quickstart, func(m *manifest) {
			m.pod("adit-server").TerminationGracePeriodSeconds = nil
			setEnv(m.server(), "DRAIN_DELAY", "2s")
		}, "Deployment adit-server has 30s to end, but may take 30s"},
		{"grace", quickstart, func(m *manifest) { m.server().Lifecycle.PreStop.Sleep.Seconds = 15 }, "has 40s to end, but may take 40s"},
		{"grace", quickstart, func(m *manifest) { setEnv(m.server(), "DRAIN_DELAY", "12s") }, "has 40s to end, but may take 40s"},
		{"grace", quickstart, func(m *manifest) { unsetEnv(m.sidecar(), "DRAIN_TIMEOUT") }, "Deployment app has 30s to end, but may take 40s"},
		{"grace", quickstart, func(m *manifest) { m.server().Lifecycle = nil }, "preStop is missing"},
		{"grace", quickstart, func(m *manifest) {
			m.server().Lifecycle.PreStop = &core.LifecycleHandler{Exec: &core.ExecAction{Command: []string{"sleep", "3"}}}
		}, "the preStop of server is not a sleep"},

		{"replicas", quickstart, func(m *manifest) { *m.deployment("adit-server").Spec.Replicas = 2 }, "which no client can connect to one by one"},
		{"replicas", quickstart, func(m *manifest) { m.deployment("adit-server").Spec.Strategy = apps.DeploymentStrategy{} }, "the strategy is not chosen"},
		{"replicas", quickstart, func(m *manifest) {
			*m.deployment("app").Spec.Strategy.RollingUpdate.MaxUnavailable = intstr.FromInt32(1)
		}, "takes the old pod away before there is a new one"},
		{"replicas", quickstart, func(m *manifest) { setEnv(m.sidecar(), "CLIENT_ID", "app") }, "the replicas share a CLIENT_ID"},
		{"replicas", ha, func(m *manifest) { *find[*apps.StatefulSet](m, "adit-server").Spec.Replicas = 3 }, "Deployment adit-client connects to 2 of 3 servers"},
		{"replicas", ha, func(m *manifest) { setEnv(m.client(), "URL", "wss://adit-control:8123") }, "connects to 0 of 2 servers"},
		{"replicas", ha, func(m *manifest) { m.remove("adit-client") }, "no client shows how to connect"},
		{"replicas", ha, func(m *manifest) { m.server().ReadinessProbe.HTTPGet.Path = "/readyz" }, "gets visitors before its clients"},
		{"replicas", ha, func(m *manifest) { m.service("adit-control-0").Spec.PublishNotReadyAddresses = false }, "adit-control-0 keeps clients from a server that waits for them"},
		{"replicas", ha, func(m *manifest) { find[*apps.StatefulSet](m, "adit-server").Spec.PodManagementPolicy = "" }, "the second server is not started"},
		{"replicas", ha, func(m *manifest) { m.pod("adit-server").Affinity = nil }, "may have all its pods on one node"},
		{"replicas", ha, func(m *manifest) { m.service("adit-control").Spec.ClusterIP = "" }, "has no headless Service"},

		{"disruption", quickstart, func(m *manifest) {
			one := intstr.FromInt32(1)
			m.budget("adit-server").Spec.MaxUnavailable, m.budget("adit-server").Spec.MinAvailable = nil, &one
		}, "budget adit-server never lets a pod of Deployment adit-server go"},
		{"disruption", quickstart, func(m *manifest) { *m.budget("app").Spec.MaxUnavailable = intstr.FromInt32(0) }, "its node cannot be drained"},
		{"disruption", quickstart, func(m *manifest) { *m.budget("app").Spec.MaxUnavailable = intstr.FromString("100%") }, "lets all pods of Deployment app go at once"},
		{"disruption", quickstart, func(m *manifest) { m.budget("app").Spec.UnhealthyPodEvictionPolicy = nil }, "keeps pods that do not work from being evicted"},
		{"disruption", quickstart, func(m *manifest) { m.budget("app").Spec.Selector.MatchLabels = map[string]string{"a": "b"} }, "Deployment app has 0 budgets"},
		{"disruption", quickstart, func(m *manifest) { m.budget("app").Spec.Selector = &metav1.LabelSelector{} }, "Deployment adit-server has 2 budgets"},
		{"disruption", quickstart, func(m *manifest) {
			b := m.budget("app").DeepCopy()
			b.Spec.Selector.MatchLabels = map[string]string{"a": "b"}
			m.budget("app").Spec.Selector, m.objects = &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": "app"}}, append(m.objects, b, b.DeepCopy())
		}, "a budget selects no pods"},
		{"disruption", quickstart, func(m *manifest) { m.budget("app").Spec.MaxUnavailable = nil }, "says neither or both"},

		{"pod security", quickstart, func(m *manifest) { m.pod("adit-server").SecurityContext.RunAsNonRoot = &no }, "runAsNonRoot"},
		{"pod security", quickstart, func(m *manifest) { m.pod("adit-server").SecurityContext.SeccompProfile = nil }, "seccompProfile"},
		{"pod security", quickstart, func(m *manifest) { m.sidecar().SecurityContext.Capabilities = nil }, `unrestricted capabilities (container "adit-client"`},
		{"pod security", quickstart, func(m *manifest) { m.server().SecurityContext.AllowPrivilegeEscalation = &yes }, "allowPrivilegeEscalation"},
		{"pod security", quickstart, func(m *manifest) { m.pod("app").HostNetwork = true }, "host namespaces"},
		{"pod security", quickstart, func(m *manifest) {
			m.pod("app").Volumes = append(m.pod("app").Volumes, core.Volume{Name: "a", VolumeSource: core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: "/"}}})
		}, "hostPath"},

		{"pods", quickstart, func(m *manifest) { m.pod("app").EnableServiceLinks = nil }, "enableServiceLinks is on"},
		{"pods", quickstart, func(m *manifest) { m.pod("app").AutomountServiceAccountToken = &yes }, "mounts a token of the API server"},
		{"pods", quickstart, func(m *manifest) { *m.pod("app").SecurityContext.RunAsUser = 1000 }, "does not run as 65532"},
		{"pods", quickstart, func(m *manifest) { m.server().SecurityContext.ReadOnlyRootFilesystem = nil }, "server can write to its root"},
		{"pods", quickstart, func(m *manifest) { m.server().SecurityContext.RunAsUser = new(int64) }, "server has a user of its own"},
		{"pods", quickstart, func(m *manifest) { m.server().Resources.Limits = nil }, "no limit on its memory"},
		{"pods", quickstart, func(m *manifest) { delete(m.sidecar().Resources.Requests, "cpu") }, "adit-client has no requests"},
		{"pods", quickstart, func(m *manifest) { m.server().Image = "registry.example.com:5000/adit-server" }, "can be another one tomorrow"},
		{"pods", quickstart, func(m *manifest) { m.server().Image = "adit-server:latest" }, "can be another one tomorrow"},
		{"pods", quickstart, func(m *manifest) { m.server().Command = []string{"/bin/sh"} }, "server is not started by its image"},
		{"pods", quickstart, func(m *manifest) { m.sidecar().RestartPolicy = nil }, "the pod waits for ever for adit-client to end"},

		{"environment", quickstart, func(m *manifest) { setEnv(m.server(), "DRAIN_TIME", "25s") }, "sets DRAIN_TIME, which the image server does not read"},
		{"environment", quickstart, func(m *manifest) { setEnv(m.sidecar(), "MODE", "http") }, "sets MODE, which the image client does not read"},
		{"environment", quickstart, func(m *manifest) { setEnv(m.server(), "MODE", "https") }, `unknown mode "https"`},
		{"environment", quickstart, func(m *manifest) { setEnv(m.sidecar(), "UPSTREAMS", "ftp://127.0.0.1") }, "UPSTREAMS"},
		{"environment", quickstart, func(m *manifest) { unsetEnv(m.server(), "TOKEN_FILE") }, "TOKEN: is required"},
		{"environment", quickstart, func(m *manifest) { m.server().Env = append(m.server().Env, m.server().Env[0]) }, "sets TOKEN_FILE twice"},

		{"secrets", quickstart, func(m *manifest) { m.pod("app").Volumes[0].Secret.SecretName = "token" }, "uses the Secret token, which nobody is told to make"},
		{"secrets", quickstart, func(m *manifest) { m.pod("app").Volumes[0].Secret.Items[0].Key = "TOKEN" }, "uses the key TOKEN, which the Secret adit does not have"},
		{"secrets", outside, func(m *manifest) { m.client().Env[tokenOf(m.client())].ValueFrom.SecretKeyRef.Key = "secret" }, "uses the key secret"},
		{"secrets", outside, func(m *manifest) { m.client().Env[tokenOf(m.client())].ValueFrom.SecretKeyRef.Optional = &yes }, "starts without TOKEN"},
		{"secrets", outside, func(m *manifest) {
			m.client().Env[tokenOf(m.client())].ValueFrom = &core.EnvVarSource{ConfigMapKeyRef: &core.ConfigMapKeySelector{Key: "token"}}
		}, "TOKEN is not from a Secret"},
		{"secrets", outside, func(m *manifest) { setEnv(m.client(), "TOKEN", "this-is-the-token") }, "has the token in the manifest"},
		{"secrets", quickstart, func(m *manifest) { setEnv(m.server(), "LOG_LEVEL", "0123456789abcdef0123456789abcdef") }, "LOG_LEVEL looks like a secret"},
		{"secrets", quickstart, func(m *manifest) { m.pod("app").Volumes[0].Secret.Optional = &yes }, "starts without the Secret adit"},
		{"secrets", quickstart, func(m *manifest) { *m.pod("app").Volumes[0].Secret.DefaultMode = 440 }, "not just readable"},
		{"secrets", quickstart, func(m *manifest) { m.pod("app").SecurityContext.FSGroup = nil }, "cannot read the Secret adit"},
		{"secrets", quickstart, func(m *manifest) {
			m.sidecar().VolumeMounts[0].SubPath, m.sidecar().VolumeMounts[0].MountPath = "token", "/run/secrets/adit/token"
		}, "mounted with subPath never changes"},
		{"secrets", quickstart, func(m *manifest) { m.sidecar().VolumeMounts[0].ReadOnly = false }, "can write to /run/secrets/adit"},
		{"secrets", quickstart, func(m *manifest) { m.sidecar().VolumeMounts[0].MountPath = "/run/secrets" }, "TOKEN_FILE is /run/secrets/adit/token, where no Secret is mounted"},
		{"secrets", quickstart, func(m *manifest) {
			find[*core.Secret](m, "adit").Data = map[string][]byte{"token": []byte("another")}
		}, "has a value that is not from the user's file"},
		{"secrets", quickstart, func(m *manifest) { find[*core.Secret](m, "adit").StringData = map[string]string{"token": "a"} }, "has a value in the manifest"},
		{"secrets", quickstart, func(m *manifest) { find[*core.Secret](m, "adit").Data = nil }, "Secret adit is empty"},
		{"secrets", quickstart, func(m *manifest) {
			all[*core.ConfigMap](m)[0].Data["key.pem"] = "-----BEGIN PRIVATE KEY-----"
		}, "key.pem looks like a secret"},

		{"network", quickstart, func(m *manifest) { m.remove("adit-server"); m.objects = append(m.objects, serverAlone(t)) }, "no policy says who may connect"},
		{"network", quickstart, func(m *manifest) { m.policy("app").Spec.PolicyTypes = m.policy("app").Spec.PolicyTypes[:1] }, "Deployment app: no policy says where it may connect to"},
		{"network", quickstart, func(m *manifest) { m.policy("app").Spec.PodSelector.MatchLabels = map[string]string{"a": "b"} }, "policy app selects no pods"},
		{"network", quickstart, func(m *manifest) {
			m.policy("adit-server").Spec.Ingress = m.policy("adit-server").Spec.Ingress[1:]
		}, "nobody may connect to http, where Service adit leads"},
		{"network", quickstart, func(m *manifest) {
			*m.policy("adit-server").Spec.Ingress[1].Ports[0].Port = intstr.FromString("controls")
		}, "nobody may connect to control"},
		{"network", tcp, func(m *manifest) {
			*m.policy("adit-server").Spec.Ingress[2].Ports[0].Port = intstr.FromInt32(5433)
		}, "nobody may connect to postgres"},
		{"network", quickstart, func(m *manifest) { m.policy("adit-server").Spec.Ingress[0].Ports = nil }, "everybody may connect to the metrics of server"},
		{"network", quickstart, func(m *manifest) {
			m.policy("adit-server").Spec.Egress = []networking.NetworkPolicyEgressRule{{}}
		}, "Deployment adit-server may connect somewhere"},
		{"network", quickstart, func(m *manifest) {
			port := intstr.FromInt32(80)
			m.policy("app").Spec.Ingress = []networking.NetworkPolicyIngressRule{{Ports: []networking.NetworkPolicyPort{{Port: &port}}}}
		}, "everybody may connect to port 80 of a client"},
		{"network", quickstart, func(m *manifest) { m.policy("app").Spec.Egress = m.policy("app").Spec.Egress[1:] }, "may not look up names by UDP"},
		{"network", quickstart, func(m *manifest) { m.policy("app").Spec.Egress = m.policy("app").Spec.Egress[:1] }, "may not connect to adit-control:8123"},
		{"network", outside, func(m *manifest) { setEnv(m.client(), "URL", "wss://tunnel.example.com:9000") }, "may not connect to tunnel.example.com:9000"},
		{"network", outside, func(m *manifest) { setEnv(m.client(), "UPSTREAMS", "http://web:80") }, "may not connect to web"},
		{"network", quickstart, func(m *manifest) { setEnv(m.sidecar(), "UPSTREAMS", "http://127.0.0.1:3000") }, "nothing in the pod listens on 127.0.0.1:3000"},

		{"exposure", balanced, func(m *manifest) { m.service("adit").Spec.ExternalTrafficPolicy = "" }, "hides the addresses of visitors"},
		{"exposure", balanced, func(m *manifest) {
			m.service("adit").Spec.Ports[0].TargetPort = intstr.FromString("metrics")
		}, "shows the metrics to the world"},
		{"exposure", balanced, func(m *manifest) { setEnv(m.server(), "AUTO_TLS", "false") }, "takes tokens from the world in clear text"},
		{"exposure", balanced, func(m *manifest) { s := "http"; m.service("adit").Spec.Ports[0].AppProtocol = &s }, "some load balancers take appProtocol"},
		{"exposure", quickstart, func(m *manifest) { setEnv(m.sidecar(), "URL", "ws://adit-control:8123") }, "sends its token in clear text"},
		{"exposure", quickstart, func(m *manifest) { setEnv(m.sidecar(), "AUTO_TLS", "false") }, "differ in AUTO_TLS"},
		{"exposure", quickstart, func(m *manifest) { setEnv(m.sidecar(), "URL", "wss://adit:80") }, "adit:80 is not the control plane"},
		{"exposure", quickstart, func(m *manifest) { setEnv(m.sidecar(), "URL", "wss://adit-control:443") }, "adit-control:443 is not the control plane"},
		{"exposure", quickstart, func(m *manifest) {
			m.service("adit-control").Spec.Selector = map[string]string{"app.kubernetes.io/name": "app"}
		}, "connects to adit-control, which is no server"},

		{"routes", plain, func(m *manifest) {
			find[*gateway.HTTPRoute](m, "adit").Spec.ParentRefs = nil
		}, "HTTPRoute adit hangs on no gateway"},
		{"routes", plain, func(m *manifest) {
			*find[*gateway.HTTPRoute](m, "adit").Spec.ParentRefs[0].SectionName = "web"
		}, "which has no such listener"},
		{"routes", plain, func(m *manifest) { m.gateway("adit").Spec.Listeners[1].Protocol = gateway.TLSProtocolType }, "HTTPRoute adit hangs on a listener for TLS"},
		{"routes", plain, func(m *manifest) {
			find[*gateway.HTTPRoute](m, "adit").Spec.Hostnames[0] = "*.example.org"
		}, "*.example.org is not within the listener's *.example.com"},
		{"routes", plain, func(m *manifest) { m.gateway("adit").Spec.Listeners[1].TLS = nil }, "listener https has no certificate"},
		{"routes", plain, func(m *manifest) { m.gateway("adit").Spec.Listeners[1].TLS.CertificateRefs[0].Name = "tls" }, "uses the Secret tls, which nobody is told to make"},
		{"routes", passthrough, func(m *manifest) { m.gateway("adit").Spec.Listeners[2].TLS.Mode = nil }, "listener control does not pass TLS on"},
		{"routes", passthrough, func(m *manifest) { m.remove("adit-control") }, "no route hangs on the listener control"},
		{"routes", plain, func(m *manifest) { find[*gateway.HTTPRoute](m, "adit").Spec.Rules[0].Timeouts = nil }, "cuts off what takes long"},
		{"routes", plain, func(m *manifest) {
			*find[*gateway.HTTPRoute](m, "adit-control").Spec.Rules[0].Timeouts.Request = "60s"
		}, "HTTPRoute adit-control cuts off what takes long"},
		{"routes", plain, func(m *manifest) {
			find[*gateway.HTTPRoute](m, "adit").Spec.Rules[0].BackendRefs[0].Name = "server"
		}, "leads to the Service server, which is not there"},
		{"routes", tcp, func(m *manifest) {
			*find[*gateway.TCPRoute](m, "adit-tcp").Spec.Rules[0].BackendRefs[0].Port = 5433
		}, "leads to port 5433, which the Service adit-tcp does not have"},
		{"routes", plain, func(m *manifest) { setEnv(m.server(), "AUTO_TLS", "true") }, "the gateway ends TLS, but the server expects it"},
		{"routes", passthrough, func(m *manifest) { setEnv(m.server(), "AUTO_TLS", "false") }, "TLSRoute adit-control: nobody ends TLS"},
		{"routes", plain, func(m *manifest) { unsetEnv(m.server(), "TRUSTED_PROXIES") }, "TRUSTED_PROXIES is not set"},
		{"routes", plain, func(m *manifest) { m.policy("adit-server").Spec.Ingress[0].From = nil }, "may pretend to be the gateway"},
		{"routes", plain, func(m *manifest) {
			m.service("adit").Spec.Ports[0].TargetPort = intstr.FromString("metrics")
		}, "HTTPRoute adit shows the metrics to the world"},

		{"monitors", monitor, func(m *manifest) {
			find[*monitoring.ServiceMonitor](m, "adit-server").Spec.Selector.MatchLabels = map[string]string{"app.kubernetes.io/name": "adit-server"}
		}, "ServiceMonitor adit-server finds 3 Services"},
		{"monitors", monitor, func(m *manifest) {
			find[*monitoring.ServiceMonitor](m, "adit-server").Spec.Endpoints[0].Port = "http"
		}, "has no port http"},
		{"monitors", monitor, func(m *manifest) { find[*monitoring.ServiceMonitor](m, "adit-server").Spec.JobLabel = "" }, "which no alert knows"},
		{"monitors", monitor, func(m *manifest) {
			m.service("adit-metrics").Spec.Ports[0].TargetPort = intstr.FromString("control")
		}, "port control has no metrics"},
		{"monitors", monitor, func(m *manifest) { m.remove("adit-server-metrics") }, "Prometheus may not connect to metrics"},
		{"monitors", monitor, func(m *manifest) { m.remove("adit-client-metrics") }, "Prometheus may not connect to adit-metrics"},
		{"monitors", monitor, func(m *manifest) {
			find[*monitoring.PodMonitor](m, "adit-client").Spec.Selector.MatchLabels = map[string]string{"adit": "server"}
		}, "Has it a client? true"},
		{"monitors", monitor, func(m *manifest) {
			*find[*monitoring.PodMonitor](m, "adit-client").Spec.PodMetricsEndpoints[0].Port = "metrics-port"
		}, "has no port metrics-port"},
		{"monitors", monitor, func(m *manifest) {
			find[*monitoring.PodMonitor](m, "adit-client").Spec.PodMetricsEndpoints[0].RelabelConfigs = nil
		}, "makes a job that no alert knows"},
	}
	for _, rule := range rules {
		tested := false
		for _, tt := range tests {
			tested = tested || tt.rule == rule.name
		}
		if !tested {
			t.Errorf("nothing shows that the rule %s can find a fault", rule.name)
		}
	}
	for _, tt := range tests {
		t.Run(tt.rule+"/"+tt.want, func(t *testing.T) {
			memory := tree(t)
			overlay, watched := strings.CutSuffix(tt.manifest, "-monitored")
			if watched {
				monitored(t, memory, overlay)
			}
			m := mustRender(t, memory, tt.manifest)
			i := slices.IndexFunc(rules, func(r rule) bool { return r.name == tt.rule })
			if faults := rules[i].check(m); len(faults) > 0 {
				t.Fatalf("at fault before it is broken: %s", faults)
			}
			tt.breaks(m)
			faults := strings.Join(rules[i].check(m), "\n")
			if !strings.Contains(faults, tt.want) {
				t.Errorf("found %q, want %s", faults, tt.want)
			}
		})
	}
}

// tokenOf returns which variable is TOKEN.
func tokenOf(c *core.Container) int {
	return slices.IndexFunc(c.Env, func(e core.EnvVar) bool { return e.Name == "TOKEN" })
}

// serverAlone returns the server's Deployment.
func serverAlone(t *testing.T) *apps.Deployment {
	return mustRender(t, tree(t), "overlays/quickstart").deployment("adit-server")
}
