package kubernetes

import (
	"net"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// access is what the policies of a manifest let pods do in one direction.
type access struct {
	w         *workload
	direction networking.PolicyType
	policies  []*networking.NetworkPolicy
}

// accessOf returns the access of a workload's pods.
func accessOf(m *manifest, w *workload, direction networking.PolicyType) access {
	a := access{w: w, direction: direction}
	for _, p := range all[*networking.NetworkPolicy](m) {
		if matches(&p.Spec.PodSelector, w.template.Labels) && slices.Contains(p.Spec.PolicyTypes, direction) {
			a.policies = append(a.policies, p)
		}
	}
	return a
}

// opening is one thing that is allowed: a port, 0 for all, with anybody or just some.
type opening struct {
	port     int32
	protocol core.Protocol
	anybody  bool
}

// openings returns all that is allowed. In ingress the port is one of the workload's own pods.
func (a access) openings() (list []opening) {
	add := func(peers []networking.NetworkPolicyPeer, ports []networking.NetworkPolicyPort) {
		if len(ports) == 0 {
			list = append(list, opening{0, "", len(peers) == 0})
		}
		for _, p := range ports {
			o := opening{0, core.ProtocolTCP, len(peers) == 0}
			if p.Protocol != nil {
				o.protocol = *p.Protocol
			}
			if p.Port != nil {
				o.port = p.Port.IntVal
				if p.Port.Type == intstr.String {
					if o.port = a.w.portNumber(*p.Port); o.port == 0 {
						continue // a name that the pods do not have opens nothing
					}
				}
			}
			list = append(list, o)
		}
	}
	for _, p := range a.policies {
		if a.direction == networking.PolicyTypeIngress {
			for _, rule := range p.Spec.Ingress {
				add(rule.From, rule.Ports)
			}
		} else {
			for _, rule := range p.Spec.Egress {
				add(rule.To, rule.Ports)
			}
		}
	}
	return list
}

// allows tells whether at least somebody may use the port, or, with anybody, everybody.
func (a access) allows(protocol core.Protocol, port int32, anybody bool) bool {
	return slices.ContainsFunc(a.openings(), func(o opening) bool {
		return (o.port == 0 || o.port == port) && (o.protocol == "" || o.protocol == protocol) && (o.anybody || !anybody)
	})
}

// checkNetwork: the policies allow what is needed, and nothing that is plainly too much.
func checkNetwork(m *manifest) []string {
	var r report
	for _, p := range all[*networking.NetworkPolicy](m) {
		selected := slices.ContainsFunc(workloads(m), func(w *workload) bool { return matches(&p.Spec.PodSelector, w.template.Labels) })
		// With the component for monitoring not everything that it watches need be there.
		r.that(selected || strings.HasSuffix(p.Name, "-metrics"), "policy %s selects no pods", p.Name)
	}
	for _, w := range workloads(m) {
		in, out := accessOf(m, w, networking.PolicyTypeIngress), accessOf(m, w, networking.PolicyTypeEgress)
		r.that(len(in.policies) > 0, "%s: no policy says who may connect", w)
		r.that(len(out.policies) > 0, "%s: no policy says where it may connect to", w)
		for _, s := range all[*core.Service](m) {
			for _, p := range s.Spec.Ports {
				if leadsTo(m, s, w) && p.TargetPort.String() != "metrics" {
					r.that(in.allows(core.ProtocolTCP, w.portNumber(p.TargetPort), false), "%s: nobody may connect to %s, where Service %s leads", w, p.TargetPort.String(), s.Name)
				}
			}
		}
		for _, c := range w.containers() {
			if c.image == "" {
				continue
			}
			r.that(!in.allows(core.ProtocolTCP, number(c.setting("METRICS_PORT")), true), "%s: everybody may connect to the metrics of %s, which ask for no token", w, c.Name)
			if c.image == "server" {
				r.that(len(out.openings()) == 0, "%s may connect somewhere, but has nowhere to", w)
			}
			if c.image != "client" {
				continue
			}
			for _, o := range in.openings() {
				r.that(!o.anybody, "%s: everybody may connect to port %d of a client", w, o.port)
			}
			for _, protocol := range []core.Protocol{core.ProtocolUDP, core.ProtocolTCP} {
				r.that(out.allows(protocol, 53, false), "%s may not look up names by %s", w, protocol)
			}
			for _, u := range c.servers() {
				port := number(u.Port())
				if port == 0 {
					port = 443
				}
				// A policy sees the pod's port, where the Service has sent the connection.
				if s := find[*core.Service](m, u.Hostname()); s != nil {
					for _, p := range s.Spec.Ports {
						if p.Port == port && len(podsOf(m, s)) > 0 {
							port = podsOf(m, s)[0].portNumber(p.TargetPort)
						}
					}
				}
				r.that(out.allows(core.ProtocolTCP, port, false), "%s may not connect to %s", w, u.Host)
			}
			for _, host := range c.upstreams() {
				name, port, _ := net.SplitHostPort(host)
				if ip := net.ParseIP(name); ip.IsLoopback() || name == "localhost" {
					r.that(w.listens(port), "%s: nothing in the pod listens on %s", w, host)
					continue
				}
				to := slices.ContainsFunc(out.policies, func(p *networking.NetworkPolicy) bool {
					return slices.ContainsFunc(p.Spec.Egress, func(rule networking.NetworkPolicyEgressRule) bool {
						return slices.ContainsFunc(rule.To, func(peer networking.NetworkPolicyPeer) bool {
							return peer.PodSelector != nil && matches(peer.PodSelector, map[string]string{"app.kubernetes.io/name": name})
						})
					})
				})
				r.that(to, "%s may not connect to %s", w, name)
			}
		}
	}
	return r
}

// upstreams returns host:port of what a client exposes.
func (c container) upstreams() (list []string) {
	for _, text := range strings.Split(c.setting("UPSTREAMS"), ",") {
		if _, address, ok := strings.Cut(text, "://"); ok {
			list = append(list, address)
		}
	}
	return list
}

// listens tells whether a container of ours in the workload's pods has that port.
func (w *workload) listens(port string) bool {
	return slices.ContainsFunc(w.containers(), func(c container) bool {
		return c.image != "client" && c.setting("PORT") == port
	})
}

// checkExposure: the world gets at what is meant for it, and by the TLS that is meant.
func checkExposure(m *manifest) []string {
	var r report
	for _, w := range workloads(m) {
		server, ok := w.runs("server")
		if !ok {
			continue
		}
		for _, s := range all[*core.Service](m) {
			outside := s.Spec.Type == core.ServiceTypeLoadBalancer || s.Spec.Type == core.ServiceTypeNodePort
			if !leadsTo(m, s, w) || !outside {
				continue
			}
			r.that(s.Spec.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal || server.setting("PROXY_PROTOCOL") == "true", "Service %s hides the addresses of visitors", s.Name)
			for _, p := range s.Spec.Ports {
				switch w.portNumber(p.TargetPort) {
				case server.port("metrics"):
					r.that(false, "Service %s shows the metrics to the world", s.Name)
				case server.port("control"):
					r.that(server.setting("AUTO_TLS") == "true", "Service %s takes tokens from the world in clear text", s.Name)
				}
				// Azure makes it a health check by HTTP of "/", which has no answer but 404.
				r.that(p.AppProtocol == nil, "Service %s: some load balancers take appProtocol for how to check health", s.Name)
			}
		}
	}
	for _, w := range workloads(m) {
		c, ok := w.runs("client")
		if !ok {
			continue
		}
		for _, u := range c.servers() {
			r.that(u.Scheme == "wss", "%s sends its token in clear text to %s", w, u.Host)
		}
		for _, s := range dialled(m, c) {
			for _, servers := range podsOf(m, s) {
				server, ok := servers.runs("server")
				if !r.that(ok, "%s connects to %s, which is no server", w, s.Name) {
					continue
				}
				r.that(server.setting("AUTO_TLS") == c.setting("AUTO_TLS"), "%s and %s differ in AUTO_TLS", w, servers)
				for _, u := range c.servers() {
					right := slices.ContainsFunc(s.Spec.Ports, func(p core.ServicePort) bool {
						return p.Port == number(u.Port()) && servers.portNumber(p.TargetPort) == server.port("control")
					})
					r.that(u.Hostname() != s.Name || right, "%s: %s is not the control plane", w, u.Host)
				}
			}
		}
	}
	return r
}
