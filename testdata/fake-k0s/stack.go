package main

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

const configMapsPath = "/api/v1/namespaces/kube-system/configmaps"

// applyStack makes the objects that joining needs: rights of tokens and nodes, the EtcdMember definition, this
// controller's EtcdMember, and the workers' configuration.
func (d *daemon) applyStack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	type object struct {
		path, name string
		value      map[string]any
	}
	const rbac = "/apis/rbac.authorization.k8s.io/v1"
	binding := func(name, group, role string) object {
		return object{rbac + "/clusterrolebindings", name, map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": name},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
			"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}},
		}}
	}
	const csr = "system:certificates.k8s.io:certificatesigningrequests:"
	objects := []object{
		binding("kubelet-bootstrap", "system:bootstrappers", "system:node-bootstrapper"),
		binding("node-autoapprove-bootstrap", "system:bootstrappers", csr+"nodeclient"),
		binding("node-autoapprove-certificate-rotation", "system:nodes", csr+"selfnodeclient"),
		{rbac + "/clusterroles", "fake-k0s:network", map[string]any{ // the network's, which runs with the node's rights here
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": map[string]any{"name": "fake-k0s:network"},
			"rules": []any{map[string]any{"apiGroups": []string{""}, "resources": []string{"nodes"}, "verbs": []string{"get", "list", "watch"}}},
		}},
		binding("fake-k0s:network", "system:nodes", "fake-k0s:network"),
		{rbac + "/namespaces/kube-system/roles", "system:bootstrappers:worker-config", map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": map[string]any{"name": "system:bootstrappers:worker-config"},
			"rules": []any{map[string]any{"apiGroups": []string{""}, "resources": []string{"configmaps"}, "verbs": []string{"get", "list", "watch"}}},
		}},
		{rbac + "/namespaces/kube-system/rolebindings", "system:bootstrappers:worker-config", map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "system:bootstrappers:worker-config"},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "system:bootstrappers:worker-config"},
			"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}, map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:bootstrappers"}},
		}},
		{"/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "etcdmembers.etcd.k0sproject.io", memberDefinition()},
	}
	if d.s == nil {
		objects = nil
	}
	for _, o := range objects {
		err := standin.Until(ctx, time.Second, func(ctx context.Context) error {
			err := d.client.Create(ctx, o.path, o.value)
			if standin.IsStatus(err, http.StatusConflict) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, f := range []func(context.Context) error{d.ownMember, d.renew, d.reconcileWorkers} {
		if err := standin.Until(ctx, time.Second, f); err != nil {
			return err
		}
	}
	return nil
}

func memberDefinition() map[string]any {
	text := map[string]any{"type": "string"}
	column := func(name, path string) map[string]any {
		return map[string]any{"name": name, "type": "string", "jsonPath": path}
	}
	schema := map[string]any{"type": "object", "properties": map[string]any{
		"spec": map[string]any{"type": "object", "properties": map[string]any{"leave": map[string]any{"type": "boolean"}}},
		"status": map[string]any{"type": "object", "required": []string{"memberID", "peerAddress"}, "properties": map[string]any{
			"memberID": text, "peerAddress": text, "message": text, "reconcileStatus": text,
			"conditions": map[string]any{
				"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": []string{"type"},
				"items": map[string]any{"type": "object", "required": []string{"type", "status"}, "properties": map[string]any{
					"type": text, "status": text, "message": text, "lastTransitionTime": map[string]any{"type": "string", "format": "date-time"},
				}},
			},
		}},
	}}
	return map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "etcdmembers.etcd.k0sproject.io"},
		"spec": map[string]any{
			"group": "etcd.k0sproject.io", "scope": "Cluster",
			"names": map[string]any{"kind": "EtcdMember", "listKind": "EtcdMemberList", "plural": "etcdmembers", "singular": "etcdmember"},
			"versions": []any{map[string]any{
				"name": "v1beta1", "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
				"schema": map[string]any{"openAPIV3Schema": schema},
				"additionalPrinterColumns": []any{
					column("Peer Address", ".status.peerAddress"), column("Member ID", ".status.memberID"),
					column("Joined", `.status.conditions[?(@.type=="Joined")].status`), column("Reconcile Status", ".status.reconcileStatus"),
				},
			}},
		},
	}
}

// workerConfig is what a worker gets from the API: kubelet's settings and where the API servers are.
type workerConfig struct {
	APIServers []string
	Kubelet    map[string]any
	NLLB       *NLLBSpec
	Pause      *ImageSpec
}

type configMap struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   map[string]any    `json:"metadata"`
	Data       map[string]string `json:"data"`
}

func profileName(profile string) string { return "worker-config-" + profile + "-" + minor() }

// kubeletSettings are k0s' own under a profile's.
func (c *ClusterConfig) kubeletSettings(profile *WorkerProfile) (map[string]any, error) {
	settings := map[string]any{
		"clusterDNS": []string{serviceIP(c.Spec.Network.ServiceCIDR, 10)}, "clusterDomain": c.Spec.Network.ClusterDomain,
		"failSwapOn": false, "failCgroupV1": true, "rotateCertificates": true, "serverTLSBootstrap": true, "eventRecordQPS": 0,
		"tlsMinVersion": "VersionTLS12", "volumePluginDir": "/usr/libexec/k0s/kubelet-plugins/volume/exec",
	}
	if profile == nil || len(profile.Values) == 0 {
		return settings, nil
	}
	return settings, json.Unmarshal(profile.Values, &settings)
}

// reconcileWorkers writes the workers' configuration, a ConfigMap per profile.
func (d *daemon) reconcileWorkers(ctx context.Context) error {
	servers, err := d.apiServers(ctx)
	if err != nil {
		return err
	}
	if err := d.announceNetwork(ctx); err != nil {
		return err
	}
	profiles := d.config.Spec.WorkerProfiles
	if !slices.ContainsFunc(profiles, func(p WorkerProfile) bool { return p.Name == "default" }) {
		profiles = append([]WorkerProfile{{Name: "default"}}, profiles...)
	}
	for i := range profiles {
		settings, err := d.config.kubeletSettings(&profiles[i])
		if err != nil {
			return err
		}
		data := map[string]string{}
		for key, value := range map[string]any{
			"apiServerAddresses": servers, "kubeletConfiguration": settings,
			"nodeLocalLoadBalancing": d.config.Spec.Network.NodeLocalLoadBalancing, "pauseImage": d.config.Spec.Images.Pause,
		} {
			text, err := json.Marshal(value)
			if err != nil {
				return err
			}
			data[key] = string(text)
		}
		name := profileName(profiles[i].Name)
		err = d.client.Patch(ctx, configMapsPath+"/"+name, map[string]any{"data": data})
		if standin.IsStatus(err, http.StatusNotFound) {
			err = d.client.Create(ctx, configMapsPath, configMap{
				APIVersion: "v1", Kind: "ConfigMap", Data: data,
				Metadata: map[string]any{"name": name, "namespace": "kube-system", "labels": map[string]any{"k0s.k0sproject.io/worker-profile": profiles[i].Name}},
			})
			if standin.IsStatus(err, http.StatusConflict) {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// announceNetwork tells workers whether to stand in for kube-router. It is the stand-in's own: k0s has a DaemonSet.
func (d *daemon) announceNetwork(ctx context.Context) error {
	provider := d.config.Spec.Network.Provider
	if d.disabled("network-provider") {
		provider = "custom"
	}
	err := d.client.Create(ctx, configMapsPath, configMap{
		APIVersion: "v1", Kind: "ConfigMap", Data: map[string]string{"provider": provider},
		Metadata: map[string]any{"name": "fake-k0s-network", "namespace": "kube-system"},
	})
	if standin.IsStatus(err, http.StatusConflict) {
		return nil
	}
	return err
}

// apiServers are the endpoints of service default/kubernetes, host:port each.
func (d *daemon) apiServers(ctx context.Context) ([]string, error) {
	if d.s == nil {
		return []string{joinHostPort(d.config.Spec.API.Address, d.config.Spec.API.Port)}, nil
	}
	var endpoints struct {
		Subsets []struct {
			Addresses []struct{ IP string }
			Ports     []struct {
				Name string
				Port int
			}
		}
	}
	if err := d.client.Get(ctx, "/api/v1/namespaces/default/endpoints/kubernetes", &endpoints); err != nil {
		return nil, err
	}
	servers := []string{}
	for _, s := range endpoints.Subsets {
		for _, a := range s.Addresses {
			for _, p := range s.Ports {
				if p.Name == "https" {
					servers = append(servers, joinHostPort(a.IP, p.Port))
				}
			}
		}
	}
	slices.Sort(servers)
	return servers, nil
}
