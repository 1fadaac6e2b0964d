package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
)

var (
	dnsName  = regexp.MustCompile(`^([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.?$`)
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

type problems []error

func (p *problems) add(format string, args ...any) {
	*p = append(*p, fmt.Errorf("spec: "+format, args...))
}

// validate returns everything that is wrong.
func (c *ClusterConfig) validate() error {
	var p problems
	s := c.Spec
	s.API.validate(&p)
	s.Storage.validate(&p)
	s.Network.validate(&p)
	for i, profile := range s.WorkerProfiles {
		profile.validate(&p, fmt.Sprintf("workerProfiles[%d]", i))
	}
	if policy := s.Images.DefaultPullPolicy; !slices.Contains([]string{"Always", "IfNotPresent", "Never"}, policy) {
		p.add(`default_pull_policy: Unsupported value: %q: supported values: "Always", "IfNotPresent", "Never"`, policy)
	}
	for name, image := range map[string]*ImageSpec{"pause": s.Images.Pause, "coredns": s.Images.CoreDNS, "kubeproxy": s.Images.KubeProxy} {
		if image.Image == "" || image.Version == "" || strings.TrimSpace(image.Image) != image.Image {
			p.add("images.%s: Invalid value: image and version are required", name)
		}
	}
	if s.Network.NodeLocalLoadBalancing.Enabled && s.API.ExternalAddress != "" {
		p.add("network.nodeLocalLoadBalancing.enabled: Forbidden: node-local load balancing cannot be used in conjunction with an external Kubernetes API server address")
	}
	p.port("konnectivity: adminPort", int(s.Konnectivity.AdminPort))
	p.port("konnectivity: agentPort", int(s.Konnectivity.AgentPort))
	for _, gate := range s.FeatureGates {
		if gate.Name == "" {
			p.add("featureGates: feature gate must have name")
		}
	}
	return errors.Join(p...)
}

func (p *problems) port(name string, port int) {
	if port < 1 || port > 65535 {
		p.add("%s: Invalid value: %d: must be between 1 and 65535, inclusive", name, port)
	}
}

func isAny(address string) bool { return address == "0.0.0.0" || address == "::" }

func (a *APISpec) validate(p *problems) {
	if net.ParseIP(a.Address) == nil {
		p.add("api: address: Invalid value: %q: invalid IP address", a.Address)
	}
	if isAny(a.Address) {
		p.add("api: address: Invalid value: %q: invalid INADDR_ANY", a.Address)
	}
	name := func(field, value string) {
		if net.ParseIP(value) == nil && !dnsName.MatchString(value) {
			p.add("api: %s: Invalid value: %q: invalid IP address / DNS name", field, value)
		}
	}
	if a.ExternalAddress != "" {
		host := a.ExternalAddress
		if h, _, ok := splitHostPort(host); ok {
			host = h
		}
		name("externalAddress", host)
		if isAny(host) {
			p.add("api: externalAddress: Invalid value: %q: invalid INADDR_ANY", host)
		}
	}
	p.port("api: k0sApiPort", a.K0sAPIPort)
	p.port("api: port", a.Port)
	for i, san := range a.SANs {
		name(fmt.Sprintf("sans[%d]", i), san)
	}
}

func (s *StorageSpec) validate(p *problems) {
	if s.Type != "etcd" && s.Type != "kine" {
		p.add(`storage: type: Unsupported value: %q: supported values: "etcd", "kine"`, s.Type)
	}
	if s.Etcd != nil && s.Etcd.ExternalCluster != nil && len(s.Etcd.ExternalCluster.Endpoints) == 0 {
		p.add("storage: spec.storage.etcd.externalCluster.endpoints cannot be null or empty")
	}
}

func (n *NetworkSpec) validate(p *problems) {
	if !slices.Contains([]string{"kuberouter", "calico", "custom"}, n.Provider) {
		p.add(`network: provider: Unsupported value: %q: supported values: "kuberouter", "calico", "custom"`, n.Provider)
	}
	cidr := func(field, value string, v6 bool) {
		ip, _, err := net.ParseCIDR(value)
		switch {
		case err != nil:
			p.add("network: %s: Invalid value: %q: invalid CIDR address", field, value)
		case v6 && ip.To4() != nil:
			p.add("network: %s: Invalid value: %q: must be an IPv6 CIDR, not IPv4", field, value)
		}
	}
	cidr("podCIDR", n.PodCIDR, false)
	cidr("serviceCIDR", n.ServiceCIDR, false)
	if n.DualStack.Enabled {
		cidr("dualStack.IPv6podCIDR", n.DualStack.IPv6PodCIDR, true)
		cidr("dualStack.IPv6serviceCIDR", n.DualStack.IPv6ServiceCIDR, true)
	}
	if !dnsName.MatchString(n.ClusterDomain) {
		p.add("network: clusterDomain: Invalid value: %q: invalid DNS name", n.ClusterDomain)
	}
	if k := n.KubeProxy; !k.Disabled && !slices.Contains([]string{"iptables", "ipvs", "userspace", "nftables"}, k.Mode) {
		p.add("network: unsupported mode %s for kubeProxy config", k.Mode)
	}
	if !slices.Contains([]string{"", "EnvoyProxy", "Traefik"}, n.NodeLocalLoadBalancing.Type) {
		p.add(`network: nodeLocalLoadBalancing.type: Unsupported value: %q: supported values: "EnvoyProxy", "Traefik"`, n.NodeLocalLoadBalancing.Type)
	}
	if c := n.ControlPlaneLoadBalancing; c != nil && c.Enabled {
		if c.Type != "" && c.Type != "Keepalived" {
			p.add("controlPlaneLoadBalancing: unsupported CPLB type: %s. Only allowed value: Keepalived", c.Type)
		}
		c.Keepalived.validate(p)
	}
}

func (k *KeepalivedSpec) validate(p *problems) {
	if k == nil {
		return
	}
	for _, v := range k.VRRPInstances {
		if v.AuthPass == "" {
			p.add("controlPlaneLoadBalancing: AuthPass must be defined")
		}
		if len(v.AuthPass) > 8 {
			p.add("controlPlaneLoadBalancing: AuthPass must be 8 characters or less")
		}
		if v.VirtualRouterID < 0 || v.VirtualRouterID > 255 {
			p.add("controlPlaneLoadBalancing: VirtualRouterID must be in the range of 1-255")
		}
		if len(v.VirtualIPs) == 0 {
			p.add("controlPlaneLoadBalancing: VirtualIPs must be defined")
		}
		for _, vip := range v.VirtualIPs {
			if _, _, err := net.ParseCIDR(vip); err != nil {
				p.add("controlPlaneLoadBalancing: VirtualIPs must be a CIDR. Got: %s", vip)
			}
		}
	}
}

// validate: the real one runs kubelet's own validation on the host it is called on, so a profile that is
// fine on one host may not be on another. Here only what that says about cgroup v1 is known.
func (w *WorkerProfile) validate(p *problems, path string) {
	if !dnsLabel.MatchString(w.Name) {
		p.add("%s.name: Invalid value: %q: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character", path, w.Name)
	}
	if len(w.Values) == 0 {
		return
	}
	var values map[string]any
	if err := json.Unmarshal(w.Values, &values); err != nil {
		p.add("%s.values: Invalid value: %w", path, err)
		return
	}
	for _, reserved := range []string{"clusterDNS", "clusterDomain", "staticPodURL"} {
		if _, ok := values[reserved]; ok {
			p.add("%s.values.%s: Forbidden: may not be used in k0s worker profiles", path, reserved)
		}
	}
	if v, ok := values["apiVersion"]; ok && v != "kubelet.config.k8s.io/v1beta1" {
		p.add("%s.values.apiVersion: Invalid value: %v: expected %q", path, v, "kubelet.config.k8s.io/v1beta1")
	}
	if v, ok := values["kind"]; ok && v != "KubeletConfiguration" {
		p.add("%s.values.kind: Invalid value: %v: expected %q", path, v, "KubeletConfiguration")
	}
	fail, set := values["failCgroupV1"]
	if _, isBool := fail.(bool); set && !isBool {
		p.add("%s.values: Invalid value: json: cannot unmarshal %T into Go struct field KubeletConfiguration.failCgroupV1 of type bool", path, fail)
		return
	}
	if cgroupV1() && fail != false {
		p.add("%s.values: Invalid value: kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release", path)
	}
}

// cgroupV1 says whether this host has cgroup version 1 alone, or both.
func cgroupV1() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err != nil
}
