package kubernetes

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// rule says what must be so, as faults where it is not.
type rule struct {
	name  string
	check func(*manifest) []string
}

var rules = []rule{
	{"namespace", checkNamespace},
	{"selectors", checkSelectors},
	{"ports", checkPorts},
	{"probes", checkProbes},
	{"grace", checkGrace},
	{"replicas", checkReplicas},
	{"disruption", checkDisruption},
	{"pod security", checkPodSecurity},
	{"pods", checkPods},
	{"environment", checkEnvironment},
	{"secrets", checkSecrets},
	{"network", checkNetwork},
	{"exposure", checkExposure},
	{"routes", checkRoutes},
	{"monitors", checkMonitors},
}

// report collects faults.
type report []string

func (r *report) that(ok bool, format string, args ...any) bool {
	if !ok {
		*r = append(*r, fmt.Sprintf(format, args...))
	}
	return ok
}

func matches(selector *metav1.LabelSelector, set map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(set))
}

// checkNamespace: what belongs together is in one place, where pods that could do more are refused.
func checkNamespace(m *manifest) []string {
	var r report
	for _, object := range m.objects {
		if namespace, ok := object.(*core.Namespace); ok {
			r.that(namespace.Name == "adit", "namespace %s", namespace.Name)
			r.that(namespace.Labels[podsecurity.EnforceLevelLabel] == "restricted", "namespace %s does not enforce the restricted level", namespace.Name)
			continue
		}
		accessor, err := meta.Accessor(object)
		if !r.that(err == nil, "%T: %v", object, err) {
			continue
		}
		want := ""
		if strings.HasPrefix(m.name, "overlays/") {
			want = "adit"
		}
		r.that(accessor.GetNamespace() == want, "%T %s is in the namespace %q", object, accessor.GetName(), accessor.GetNamespace())
	}
	return r
}

// checkSelectors: a workload selects its own pods and no others, and whatever selects pods finds some.
func checkSelectors(m *manifest) []string {
	var r report
	for _, w := range workloads(m) {
		for _, other := range workloads(m) {
			if own := w.String() == other.String(); own {
				r.that(matches(w.selector, w.template.Labels), "%s does not select its own pods", w)
			} else {
				r.that(!matches(w.selector, other.template.Labels), "%s selects the pods of %s", w, other)
			}
		}
		for _, spread := range w.template.Spec.TopologySpreadConstraints {
			r.that(matches(spread.LabelSelector, w.template.Labels), "%s spreads pods that are not its own", w)
		}
		if affinity := w.template.Spec.Affinity; affinity != nil && affinity.PodAntiAffinity != nil {
			for _, term := range affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
				r.that(matches(term.LabelSelector, w.template.Labels), "%s keeps away from pods that are not its own", w)
			}
		}
	}
	for _, s := range all[*core.Service](m) {
		// With the component for monitoring not everything that it watches need be there.
		r.that(len(podsOf(m, s)) > 0 || s.Labels["adit"] == "metrics" && !hasImage(m, "server"), "Service %s selects no pods", s.Name)
	}
	return r
}

// podsOf returns the workloads that a Service leads to, once for each of their pods if it selects pods by name.
func podsOf(m *manifest, s *core.Service) (list []*workload) {
	if len(s.Spec.Selector) == 0 {
		return nil
	}
	for _, w := range workloads(m) {
		if w.set == nil {
			if matches(&metav1.LabelSelector{MatchLabels: s.Spec.Selector}, w.template.Labels) {
				list = append(list, w)
			}
			continue
		}
		for i := range w.replicas {
			set := labels.Merge(w.template.Labels, labels.Set{apps.StatefulSetPodNameLabel: fmt.Sprintf("%s-%d", w.name, i)})
			if matches(&metav1.LabelSelector{MatchLabels: s.Spec.Selector}, set) {
				list = append(list, w)
			}
		}
	}
	return list
}

// leadsTo tells whether a Service leads to pods of the workload.
func leadsTo(m *manifest, s *core.Service, w *workload) bool {
	return slices.ContainsFunc(podsOf(m, s), func(other *workload) bool { return other.String() == w.String() })
}

// checkPorts: Services lead to ports that exist, ports have one meaning in a pod, and are those that the settings open.
func checkPorts(m *manifest) []string {
	var r report
	for _, s := range all[*core.Service](m) {
		r.that(len(s.Spec.Ports) > 0, "Service %s has no ports", s.Name)
		for _, p := range s.Spec.Ports {
			r.that(p.Protocol == "" || p.Protocol == core.ProtocolTCP, "Service %s: protocol %s", s.Name, p.Protocol)
			for _, w := range podsOf(m, s) {
				r.that(w.portNumber(p.TargetPort) != 0, "Service %s: port %s leads to %s, which %s does not have", s.Name, p.Name, p.TargetPort.String(), w)
			}
		}
	}
	for _, w := range workloads(m) {
		names, numbers := map[string]bool{}, map[int32]bool{}
		for _, c := range w.containers() {
			for _, p := range c.Ports {
				r.that(!names[p.Name], "%s has two ports called %s", w, p.Name)
				r.that(!numbers[p.ContainerPort], "%s has port %d twice: the containers of a pod share an address", w, p.ContainerPort)
				r.that(p.HostPort == 0, "%s takes port %d of its node", w, p.HostPort)
				names[p.Name], numbers[p.ContainerPort] = true, true
			}
			opened := map[string]string{"server": "http=PORT control=CONTROL_PORT metrics=METRICS_PORT", "client": "adit-metrics=METRICS_PORT", "fileserver": "metrics=METRICS_PORT"}[c.image]
			for _, pair := range strings.Fields(opened) {
				name, variable, _ := strings.Cut(pair, "=")
				r.that(fmt.Sprint(c.port(name)) == c.setting(variable), "%s: port %s is %d, %s is %s", w, name, c.port(name), variable, c.setting(variable))
			}
			if c.image != "server" {
				continue
			}
			for _, p := range c.Ports { // of TCP
				if slices.Contains([]string{"http", "control", "metrics"}, p.Name) {
					continue
				}
				r.that(strings.Contains(c.setting("MODE"), "tcp"), "%s has port %d, but MODE is %s", w, p.ContainerPort, c.setting("MODE"))
				r.that(slices.Contains(strings.Split(c.setting("ALLOW_PORTS"), ","), fmt.Sprint(p.ContainerPort)), "%s has port %d, but ALLOW_PORTS is %s", w, p.ContainerPort, c.setting("ALLOW_PORTS"))
			}
		}
	}
	return r
}

// portNumber returns the number of a port of the workload's pods, 0 if it has none.
func (w *workload) portNumber(port intstr.IntOrString) int32 {
	for _, c := range w.containers() {
		for _, p := range c.Ports {
			if port.Type == intstr.String && p.Name == port.StrVal || port.Type == intstr.Int && p.ContainerPort == port.IntVal {
				return p.ContainerPort
			}
		}
	}
	return 0
}

// checkProbes: alive is /healthz and ready is /readyz of the metrics port, asked by the node, which needs nothing in the image.
func checkProbes(m *manifest) []string {
	var r report
	for _, w := range workloads(m) {
		for _, c := range w.containers() {
			if c.image == "" {
				continue
			}
			probe := func(kind string, p *core.Probe, path string) {
				if !r.that(p != nil && p.HTTPGet != nil, "%s: %s has no %s probe by HTTP", w, c.Name, kind) {
					return
				}
				asked, _, _ := strings.Cut(p.HTTPGet.Path, "?")
				r.that(asked == path, "%s: the %s probe of %s asks %s", w, kind, c.Name, p.HTTPGet.Path)
				number := p.HTTPGet.Port.IntVal
				if p.HTTPGet.Port.Type == intstr.String {
					number = c.port(p.HTTPGet.Port.StrVal)
				}
				r.that(number != 0 && fmt.Sprint(number) == c.setting("METRICS_PORT"), "%s: the %s probe of %s asks port %s, METRICS_PORT is %s", w, kind, c.Name, p.HTTPGet.Port.String(), c.setting("METRICS_PORT"))
			}
			// A process that lives but has no server to talk to is not mended by a restart.
			probe("liveness", c.LivenessProbe, "/healthz")
			probe("readiness", c.ReadinessProbe, "/readyz")
			if c.StartupProbe != nil {
				r.that(!c.sidecar, "%s: the application waits for the startup probe of %s", w, c.Name)
				probe("startup", c.StartupProbe, "/healthz")
			}
		}
	}
	return r
}

// checkGrace: the time that a pod has to end is longer than it may take. Native sidecars end after the others.
func checkGrace(m *manifest) []string {
	var r report
	for _, w := range workloads(m) {
		var first, then time.Duration
		for _, c := range w.containers() {
			var takes time.Duration
			if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
				if r.that(c.Lifecycle.PreStop.Sleep != nil, "%s: the preStop of %s is not a sleep: there is no shell in the image", w, c.Name) {
					takes += time.Duration(c.Lifecycle.PreStop.Sleep.Seconds) * time.Second
				}
			}
			if c.image == "server" {
				r.that(takes > 0, "%s accepts nothing more while Services still lead to it: preStop is missing", w)
			}
			for _, variable := range []string{"DRAIN_DELAY", "DRAIN_TIMEOUT"} {
				if value := c.setting(variable); value != "" {
					d, err := time.ParseDuration(value)
					r.that(err == nil, "%s: %s: %v", w, variable, err)
					takes += d
				}
			}
			if c.sidecar {
				then = max(then, takes)
			} else {
				first = max(first, takes)
			}
		}
		grace := 30 * time.Second
		if seconds := w.template.Spec.TerminationGracePeriodSeconds; seconds != nil {
			grace = time.Duration(*seconds) * time.Second
		}
		r.that(grace > first+then, "%s has %v to end, but may take %v", w, grace, first+then)
	}
	return r
}

// checkReplicas: routes are in the memory of each server, so that clients must connect to all that there are.
func checkReplicas(m *manifest) []string {
	var r report
	for _, w := range workloads(m) {
		if d := w.deployment; d != nil {
			rolling := d.Spec.Strategy.RollingUpdate
			if r.that(d.Spec.Strategy.Type == apps.RollingUpdateDeploymentStrategyType && rolling != nil && rolling.MaxUnavailable != nil && rolling.MaxSurge != nil, "%s: the strategy is not chosen", w) {
				r.that(rolling.MaxUnavailable.IntValue() == 0 && rolling.MaxSurge.IntValue() > 0, "%s takes the old pod away before there is a new one", w)
			}
		}
		if c, ok := w.runs("server"); ok {
			r.that(w.deployment == nil || w.replicas == 1, "%s has %d replicas, which no client can connect to one by one", w, w.replicas)
			if w.replicas > 1 {
				ready := ""
				if c.ReadinessProbe != nil && c.ReadinessProbe.HTTPGet != nil {
					ready = c.ReadinessProbe.HTTPGet.Path
				}
				r.that(strings.HasPrefix(ready, "/readyz?clients="), "%s gets visitors before its clients", w)
				r.that(w.set == nil || w.set.Spec.PodManagementPolicy == apps.ParallelPodManagement, "%s: the second server is not started before the first has clients", w)
				affinity := w.template.Spec.Affinity
				r.that(affinity != nil && affinity.PodAntiAffinity != nil, "%s may have all its pods on one node", w)
				checkAllServers(m, w, &r)
			}
		}
		if c, ok := w.runs("client"); ok && w.replicas > 1 {
			r.that(c.setting("CLIENT_ID") == "", "%s: the replicas share a CLIENT_ID", w)
		}
		if w.set != nil {
			s := find[*core.Service](m, w.set.Spec.ServiceName)
			r.that(s != nil && s.Spec.ClusterIP == core.ClusterIPNone, "%s has no headless Service", w)
		}
	}
	return r
}

// checkAllServers: the clients of a manifest connect to each pod of the servers, also to one that waits for them.
func checkAllServers(m *manifest, servers *workload, r *report) {
	clients := 0
	for _, w := range workloads(m) {
		c, ok := w.runs("client")
		if !ok {
			continue
		}
		clients++
		reached := map[string]bool{}
		for _, s := range dialled(m, c) {
			if s.Spec.Selector[apps.StatefulSetPodNameLabel] == "" {
				continue
			}
			reached[s.Spec.Selector[apps.StatefulSetPodNameLabel]] = true
			r.that(s.Spec.PublishNotReadyAddresses, "Service %s keeps clients from a server that waits for them", s.Name)
		}
		r.that(len(reached) == int(servers.replicas), "%s connects to %d of %d servers", w, len(reached), servers.replicas)
	}
	r.that(clients > 0, "there are several servers, but no client shows how to connect to them")
}

// servers returns the URLs of a client.
func (c container) servers() (list []*url.URL) {
	for _, text := range strings.Split(c.setting("URL"), ",") {
		if u, err := url.Parse(text); err == nil && u.Host != "" {
			list = append(list, u)
		}
	}
	return list
}

// dialled returns the Services of the manifest that a client connects to.
func dialled(m *manifest, c container) (list []*core.Service) {
	for _, u := range c.servers() {
		if s := find[*core.Service](m, u.Hostname()); s != nil {
			list = append(list, s)
		}
	}
	return list
}

// checkDisruption: every workload has one budget, by which its nodes can be drained.
func checkDisruption(m *manifest) []string {
	var r report
	budgets := all[*policyv1.PodDisruptionBudget](m)
	for _, b := range budgets {
		r.that((b.Spec.MaxUnavailable == nil) != (b.Spec.MinAvailable == nil), "budget %s says neither or both of minAvailable and maxUnavailable", b.Name)
		r.that(b.Spec.UnhealthyPodEvictionPolicy != nil && *b.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow, "budget %s keeps pods that do not work from being evicted", b.Name)
	}
	used := 0
	for _, w := range workloads(m) {
		ours := slices.DeleteFunc(slices.Clone(budgets), func(b *policyv1.PodDisruptionBudget) bool {
			return !matches(b.Spec.Selector, w.template.Labels)
		})
		used += len(ours)
		// The eviction of a pod with two budgets is refused.
		if !r.that(len(ours) == 1, "%s has %d budgets", w, len(ours)) {
			continue
		}
		b, may := ours[0], 0
		if most := b.Spec.MaxUnavailable; most != nil {
			may, _ = intstr.GetScaledValueFromIntOrPercent(most, int(w.replicas), true)
		} else if least := b.Spec.MinAvailable; least != nil {
			need, _ := intstr.GetScaledValueFromIntOrPercent(least, int(w.replicas), true)
			may = int(w.replicas) - need
		}
		r.that(may > 0, "budget %s never lets a pod of %s go: its node cannot be drained", b.Name, w)
		r.that(may < int(w.replicas) || w.replicas == 1, "budget %s lets all pods of %s go at once", b.Name, w)
	}
	r.that(used >= len(budgets), "a budget selects no pods")
	return r
}

var evaluator = func() policy.Evaluator {
	e, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic(err)
	}
	return e
}()

// checkPodSecurity: the pods are admitted where the restricted level is enforced, by the code that does so.
func checkPodSecurity(m *manifest) []string {
	var r report
	restricted := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
	for _, w := range workloads(m) {
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &w.template.ObjectMeta, &w.template.Spec))
		r.that(result.Allowed, "%s is not admitted: %s", w, result.ForbiddenDetail())
	}
	return r
}

// checkPods: what the restricted level leaves open.
func checkPods(m *manifest) []string {
	var r report
	for _, w := range workloads(m) {
		spec := &w.template.Spec
		r.that(spec.EnableServiceLinks != nil && !*spec.EnableServiceLinks, "%s: enableServiceLinks is on: a Service called control would set CONTROL_PORT", w)
		r.that(spec.AutomountServiceAccountToken != nil && !*spec.AutomountServiceAccountToken, "%s mounts a token of the API server", w)
		r.that(is(spec.SecurityContext, 65532), "%s does not run as 65532", w)
		for _, c := range w.containers() {
			context := c.SecurityContext
			r.that(context != nil && context.ReadOnlyRootFilesystem != nil && *context.ReadOnlyRootFilesystem, "%s: %s can write to its root", w, c.Name)
			r.that(context == nil || context.RunAsUser == nil && context.RunAsGroup == nil, "%s: %s has a user of its own", w, c.Name)
			cpu, memory, limit := c.Resources.Requests.Cpu(), c.Resources.Requests.Memory(), c.Resources.Limits.Memory()
			r.that(!cpu.IsZero() && !memory.IsZero() && !limit.IsZero() && limit.Cmp(*memory) >= 0, "%s: %s has no requests, or no limit on its memory", w, c.Name)
			_, tag, _ := strings.Cut(path.Base(c.Image), ":")
			r.that(tag != "" && tag != "latest", "%s: the image %s can be another one tomorrow", w, c.Image)
			r.that(c.Command == nil && c.Args == nil, "%s: %s is not started by its image", w, c.Name)
		}
		for _, c := range spec.InitContainers {
			r.that(c.RestartPolicy != nil && *c.RestartPolicy == core.ContainerRestartPolicyAlways, "%s: the pod waits for ever for %s to end", w, c.Name)
		}
	}
	return r
}

func is(context *core.PodSecurityContext, id int64) bool {
	return context != nil && context.RunAsUser != nil && *context.RunAsUser == id && context.RunAsGroup != nil && *context.RunAsGroup == id
}

// documented are the Secrets that the README tells to make, and their keys.
var documented = map[string][]string{"adit": {"token"}, "adit-tls": {core.TLSCertKey, core.TLSPrivateKeyKey}}

// checkSecrets: every Secret that is used is one that the user is told to make, and none is in a manifest.
func checkSecrets(m *manifest) []string {
	var r report
	known := func(by any, secret, key string) {
		keys, ok := documented[secret]
		r.that(ok, "%v uses the Secret %s, which nobody is told to make", by, secret)
		r.that(!ok || slices.Contains(keys, key), "%v uses the key %s, which the Secret %s does not have", by, key, secret)
	}
	for _, s := range all[*core.Secret](m) {
		r.that(len(s.Data) > 0, "Secret %s is empty", s.Name)
		for key, value := range s.Data {
			known("a generator", s.Name, key)
			r.that(strings.TrimSpace(string(value)) == token, "the Secret %s has a value that is not from the user's file", s.Name)
		}
		r.that(len(s.StringData) == 0, "the Secret %s has a value in the manifest", s.Name)
	}
	for _, w := range workloads(m) {
		volumes := map[string]*core.SecretVolumeSource{}
		for _, v := range w.template.Spec.Volumes {
			if v.Secret == nil {
				continue
			}
			volumes[v.Name] = v.Secret
			r.that(v.Secret.Optional == nil || !*v.Secret.Optional, "%s starts without the Secret %s", w, v.Secret.SecretName)
			r.that(v.Secret.DefaultMode != nil && *v.Secret.DefaultMode == 0o440, "%s: the Secret %s is not just readable for the user and the group", w, v.Secret.SecretName)
			group := w.template.Spec.SecurityContext
			r.that(group != nil && group.FSGroup != nil && *group.FSGroup == 65532, "%s cannot read the Secret %s: fsGroup is not 65532", w, v.Secret.SecretName)
			for _, item := range v.Secret.Items {
				known(w, v.Secret.SecretName, item.Key)
			}
		}
		for _, c := range w.containers() {
			files := map[string]bool{}
			for _, mount := range c.VolumeMounts {
				secret := volumes[mount.Name]
				if secret == nil {
					continue
				}
				r.that(mount.SubPath == "" && mount.SubPathExpr == "", "%s: a Secret mounted with subPath never changes", w)
				r.that(mount.ReadOnly, "%s can write to %s", w, mount.MountPath)
				for _, item := range secret.Items {
					files[path.Join(mount.MountPath, item.Path)] = true
				}
			}
			for _, e := range c.Env {
				if strings.HasSuffix(e.Name, "_FILE") {
					r.that(files[e.Value], "%s: %s is %s, where no Secret is mounted", w, e.Name, e.Value)
				}
				r.that(e.Name != "TOKEN" || e.Value == "", "%s has the token in the manifest", w)
				r.that(!secretLike.MatchString(e.Value), "%s: %s looks like a secret", w, e.Name)
				if e.ValueFrom != nil && r.that(e.ValueFrom.SecretKeyRef != nil, "%s: %s is not from a Secret", w, e.Name) {
					ref := e.ValueFrom.SecretKeyRef
					known(w, ref.Name, ref.Key)
					r.that(ref.Optional == nil || !*ref.Optional, "%s starts without %s", w, e.Name)
				}
			}
		}
	}
	for _, c := range all[*core.ConfigMap](m) {
		for key, value := range c.Data {
			r.that(!secretLike.MatchString(value), "ConfigMap %s: %s looks like a secret", c.Name, key)
		}
	}
	return r
}

// secretLike finds what openssl rand prints, keys in PEM form and tokens with a known beginning.
var secretLike = regexp.MustCompile(`\b[0-9a-fA-F]{32,}\b|[A-Za-z0-9+/]{40,}={0,2}|PRIVATE KEY|\beyJ[A-Za-z0-9_-]{10,}`)

// number reads a port.
func number(text string) int32 {
	n, _ := strconv.ParseUint(text, 10, 16)
	return int32(n)
}
