package kubernetes

import (
	"regexp"
	"slices"
	"strings"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// route is what the kinds of routes have in common.
type route struct {
	kind, name string
	parents    []gateway.ParentReference
	hostnames  []gateway.Hostname
	backends   []gateway.BackendObjectReference
}

func (r route) String() string { return r.kind + " " + r.name }

func routes(m *manifest) (list []route) {
	for _, r := range all[*gateway.HTTPRoute](m) {
		one := route{"HTTPRoute", r.Name, r.Spec.ParentRefs, r.Spec.Hostnames, nil}
		for _, rule := range r.Spec.Rules {
			for _, b := range rule.BackendRefs {
				one.backends = append(one.backends, b.BackendObjectReference)
			}
		}
		list = append(list, one)
	}
	for _, r := range all[*gateway.TLSRoute](m) {
		one := route{"TLSRoute", r.Name, r.Spec.ParentRefs, r.Spec.Hostnames, nil}
		for _, rule := range r.Spec.Rules {
			for _, b := range rule.BackendRefs {
				one.backends = append(one.backends, b.BackendObjectReference)
			}
		}
		list = append(list, one)
	}
	for _, r := range all[*gateway.TCPRoute](m) {
		one := route{"TCPRoute", r.Name, r.Spec.ParentRefs, nil, nil}
		for _, rule := range r.Spec.Rules {
			for _, b := range rule.BackendRefs {
				one.backends = append(one.backends, b.BackendObjectReference)
			}
		}
		list = append(list, one)
	}
	return list
}

// checkRoutes: routes hang on listeners that take them, lead to ports that exist, do not cut long answers off, and what
// ends TLS is what the server thinks.
func checkRoutes(m *manifest) []string {
	var r report
	used := map[*gateway.Listener]bool{}
	for _, one := range routes(m) {
		r.that(len(one.parents) > 0, "%s hangs on no gateway", one)
		for _, parent := range one.parents {
			listener := listenerOf(m, parent)
			if !r.that(listener != nil, "%s hangs on %s, which has no such listener", one, parent.Name) {
				continue
			}
			used[listener] = true
			takes := map[gateway.ProtocolType]string{gateway.HTTPProtocolType: "HTTPRoute", gateway.HTTPSProtocolType: "HTTPRoute", gateway.TLSProtocolType: "TLSRoute", gateway.TCPProtocolType: "TCPRoute"}
			r.that(takes[listener.Protocol] == one.kind, "%s hangs on a listener for %s", one, listener.Protocol)
			for _, host := range one.hostnames {
				r.that(listener.Hostname == nil || within(string(host), string(*listener.Hostname)), "%s: %s is not within the listener's %s", one, host, *orEmpty(listener.Hostname))
			}
		}
		for _, backend := range one.backends {
			checkBackend(m, one, backend, &r)
		}
	}
	for _, g := range all[*gateway.Gateway](m) {
		for i := range g.Spec.Listeners {
			l := &g.Spec.Listeners[i]
			r.that(used[l], "no route hangs on the listener %s of the gateway %s", l.Name, g.Name)
			switch l.Protocol {
			case gateway.HTTPSProtocolType:
				if r.that(l.TLS != nil && len(l.TLS.CertificateRefs) > 0, "listener %s has no certificate", l.Name) {
					for _, ref := range l.TLS.CertificateRefs {
						_, known := documented[string(ref.Name)]
						r.that(known, "listener %s uses the Secret %s, which nobody is told to make", l.Name, ref.Name)
					}
				}
			case gateway.TLSProtocolType:
				r.that(l.TLS != nil && l.TLS.Mode != nil && *l.TLS.Mode == gateway.TLSModePassthrough, "listener %s does not pass TLS on", l.Name)
			}
		}
	}
	for _, route := range all[*gateway.HTTPRoute](m) {
		for _, rule := range route.Spec.Rules {
			if len(rule.BackendRefs) > 0 {
				r.that(rule.Timeouts != nil && never(rule.Timeouts.Request) && never(rule.Timeouts.BackendRequest), "HTTPRoute %s cuts off what takes long", route.Name)
			}
		}
	}
	return r
}

func orEmpty(h *gateway.Hostname) *gateway.Hostname {
	if h == nil {
		return new(gateway.Hostname)
	}
	return h
}

// checkBackend looks at what a route leads to.
func checkBackend(m *manifest, one route, backend gateway.BackendObjectReference, r *report) {
	s := find[*core.Service](m, string(backend.Name))
	if !r.that(s != nil && backend.Port != nil, "%s leads to the Service %s, which is not there", one, backend.Name) {
		return
	}
	i := slices.IndexFunc(s.Spec.Ports, func(p core.ServicePort) bool { return p.Port == int32(*backend.Port) })
	if !r.that(i >= 0, "%s leads to port %d, which the Service %s does not have", one, *backend.Port, s.Name) {
		return
	}
	for _, w := range podsOf(m, s) {
		server, ok := w.runs("server")
		if !ok {
			continue
		}
		switch port := w.portNumber(s.Spec.Ports[i].TargetPort); {
		case port == server.port("metrics"):
			r.that(false, "%s shows the metrics to the world", one)
		case port == server.port("control") && one.kind == "HTTPRoute":
			r.that(server.setting("AUTO_TLS") == "false", "%s: the gateway ends TLS, but the server expects it", one)
		case port == server.port("control"):
			r.that(server.setting("AUTO_TLS") == "true", "%s: nobody ends TLS", one)
		case one.kind == "HTTPRoute":
			r.that(server.setting("TRUSTED_PROXIES") != "", "%s: upstreams take the gateway for the visitor: TRUSTED_PROXIES is not set", one)
			in := accessOf(m, w, networking.PolicyTypeIngress)
			r.that(!in.allows(core.ProtocolTCP, port, true), "%s: everybody in TRUSTED_PROXIES may pretend to be the gateway", one)
		}
	}
}

// listenerOf returns the listener that a route hangs on.
func listenerOf(m *manifest, parent gateway.ParentReference) *gateway.Listener {
	g := find[*gateway.Gateway](m, string(parent.Name))
	if g == nil || parent.SectionName == nil {
		return nil
	}
	for i := range g.Spec.Listeners {
		if g.Spec.Listeners[i].Name == *parent.SectionName {
			return &g.Spec.Listeners[i]
		}
	}
	return nil
}

// within tells whether a host name is one of a listener's.
func within(host, listener string) bool {
	suffix, wildcard := strings.CutPrefix(listener, "*")
	return host == listener || wildcard && strings.HasSuffix(host, suffix)
}

// never tells whether a time limit is switched off.
func never(d *gateway.Duration) bool {
	return d != nil && regexp.MustCompile(`^0(h|m|s|ms)$`).MatchString(string(*d))
}

// checkMonitors: Prometheus finds what it is to scrape, once, and is let in.
func checkMonitors(m *manifest) []string {
	var r report
	metrics := func(w *workload, name string) {
		c, ok := w.portOwner(name)
		if r.that(ok, "%s has no port %s", w, name) {
			r.that(number(c.setting("METRICS_PORT")) == c.port(name), "%s: port %s has no metrics", w, name)
			r.that(accessOf(m, w, networking.PolicyTypeIngress).allows(core.ProtocolTCP, c.port(name), false), "%s: Prometheus may not connect to %s", w, name)
		}
	}
	for _, monitor := range all[*monitoring.ServiceMonitor](m) {
		var found []*core.Service
		for _, s := range all[*core.Service](m) {
			if matches(&monitor.Spec.Selector, s.Labels) {
				found = append(found, s)
			}
		}
		if !hasImage(m, "server") {
			continue
		}
		if !r.that(len(found) == 1, "ServiceMonitor %s finds %d Services", monitor.Name, len(found)) {
			continue
		}
		r.that(found[0].Labels[monitor.Spec.JobLabel] == "adit-server", "ServiceMonitor %s makes the job %q, which no alert knows", monitor.Name, found[0].Labels[monitor.Spec.JobLabel])
		for _, endpoint := range monitor.Spec.Endpoints {
			i := slices.IndexFunc(found[0].Spec.Ports, func(p core.ServicePort) bool { return p.Name == endpoint.Port })
			if r.that(i >= 0, "ServiceMonitor %s: the Service %s has no port %s", monitor.Name, found[0].Name, endpoint.Port) {
				for _, w := range podsOf(m, found[0]) {
					metrics(w, found[0].Spec.Ports[i].TargetPort.String())
				}
			}
		}
	}
	for _, monitor := range all[*monitoring.PodMonitor](m) {
		for _, w := range workloads(m) {
			_, runs := w.runs("client")
			chosen := matches(&monitor.Spec.Selector, w.template.Labels)
			r.that(runs == chosen, "PodMonitor %s: is %s chosen? %v. Has it a client? %v", monitor.Name, w, chosen, runs)
			for _, endpoint := range monitor.Spec.PodMetricsEndpoints {
				if chosen && r.that(endpoint.Port != nil, "PodMonitor %s names no port", monitor.Name) {
					metrics(w, *endpoint.Port)
				}
				job := slices.ContainsFunc(endpoint.RelabelConfigs, func(c monitoring.RelabelConfig) bool {
					return c.TargetLabel == "job" && c.Replacement != nil && *c.Replacement == "adit-client"
				})
				r.that(job, "PodMonitor %s makes a job that no alert knows", monitor.Name)
			}
		}
	}
	return r
}

func hasImage(m *manifest, image string) bool {
	return slices.ContainsFunc(workloads(m), func(w *workload) bool { _, ok := w.runs(image); return ok })
}

// portOwner returns the container that has a port of that name.
func (w *workload) portOwner(name string) (container, bool) {
	for _, c := range w.containers() {
		if c.port(name) != 0 {
			return c, true
		}
	}
	return container{}, false
}
