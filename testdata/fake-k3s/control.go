package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

const (
	etcdLabel         = "node-role.kubernetes.io/etcd"
	controlPlaneLabel = "node-role.kubernetes.io/control-plane"
	memberAnnotation  = "etcd.k3s.cattle.io/node-name"
	addressAnnotation = "etcd.k3s.cattle.io/node-address"
	removeAnnotation  = "etcd.k3s.cattle.io/remove"
	removedAnnotation = "etcd.k3s.cattle.io/removed-node-name"
)

func nodePath(name string) string { return "/api/v1/nodes/" + name }

// control does what the controllers of a server do, until ctx ends. In the real one most of it is done by a leader;
// here by every server, as all of it may be done twice.
func (v *srv) control(ctx context.Context) {
	seen := map[string]standin.Node{}
	applied := map[string]string{}
	last := ""
	for n := 0; ctx.Err() == nil; n++ {
		if err := v.round(ctx, n, seen, applied); err != nil && ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			logf("error", "controllers: %v", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (v *srv) round(ctx context.Context, n int, seen map[string]standin.Node, applied map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	nodes, err := v.admin.Nodes(ctx)
	if err != nil {
		return err
	}
	// One that fails does not keep the others from their work.
	var errs []error
	present := map[string]bool{}
	for _, node := range nodes {
		present[node.Metadata.Name] = true
		seen[node.Metadata.Name] = node
		if node.Metadata.Name == v.c.nodeName {
			errs = append(errs, v.markOwn(ctx, node))
		}
	}
	for name, node := range seen {
		if present[name] {
			continue
		}
		// The Node was deleted: the host may come back under its name with another password.
		err := v.forget(ctx, node)
		if err == nil {
			delete(seen, name)
		}
		errs = append(errs, err)
	}
	for _, node := range nodes {
		errs = append(errs, v.removeRequested(ctx, node))
	}
	if v.light == nil {
		if n%2 == 0 { // a program is started for it
			_, err := v.etcd.EtcdClient(v.s).PromoteLearners(ctx)
			errs = append(errs, err)
		}
		errs = append(errs, v.endpoints(ctx, nodes), v.manifests(ctx, applied))
	}
	return errors.Join(errs...)
}

// markOwn says on this server's Node what it is.
func (v *srv) markOwn(ctx context.Context, n standin.Node) error {
	if n.Metadata.Annotations[removeAnnotation] == "true" || n.Metadata.Annotations[removedAnnotation] != "" {
		return nil
	}
	name := v.memberName()
	if n.Metadata.Labels[etcdLabel] != "true" || n.Metadata.Labels[controlPlaneLabel] != "true" || n.Metadata.Annotations[memberAnnotation] != name {
		err := v.admin.Patch(ctx, nodePath(n.Metadata.Name), map[string]any{"metadata": map[string]any{
			"labels":      map[string]string{etcdLabel: "true", controlPlaneLabel: "true"},
			"annotations": map[string]string{memberAnnotation: name, addressAnnotation: v.c.address()},
		}})
		if err != nil {
			return err
		}
	}
	if n.Condition("EtcdIsVoter") == "True" {
		return nil
	}
	now := time.Now().UTC().Format(time.RFC3339)
	return v.admin.PatchStrategic(ctx, nodePath(n.Metadata.Name)+"/status", map[string]any{"status": map[string]any{"conditions": []any{map[string]string{
		"type": "EtcdIsVoter", "status": "True", "reason": "MemberNotLearner", "message": "Node is a voting member of the etcd cluster",
		"lastHeartbeatTime": now, "lastTransitionTime": now,
	}}}})
}

func (v *srv) memberName() string {
	if v.light != nil {
		return v.light.name
	}
	return v.etcd.Name
}

func (v *srv) removeMember(ctx context.Context, name string) error {
	if v.light != nil {
		return v.light.removeMember(ctx, name)
	}
	return v.etcd.EtcdClient(v.s).Remove(ctx, name)
}

// removeRequested removes the member of a Node with the annotation that asks for it. The server itself does not
// do that, nor anybody to the last one.
func (v *srv) removeRequested(ctx context.Context, n standin.Node) error {
	annotations := n.Metadata.Annotations
	if annotations[removeAnnotation] != "true" || annotations[removedAnnotation] != "" || n.Metadata.Labels[etcdLabel] != "true" || n.Metadata.Name == v.c.nodeName {
		return nil
	}
	name := annotations[memberAnnotation]
	if name == "" {
		return fmt.Errorf("node name annotation for node %s not found", n.Metadata.Name)
	}
	if err := v.removeMember(ctx, name); err != nil {
		return err
	}
	logf("info", "Removed etcd member %s of node %s", name, n.Metadata.Name)
	return v.admin.Patch(ctx, nodePath(n.Metadata.Name), map[string]any{"metadata": map[string]any{
		"labels":      map[string]any{etcdLabel: nil},
		"annotations": map[string]any{removedAnnotation: name, memberAnnotation: nil, addressAnnotation: nil},
	}})
}

func (v *srv) forget(ctx context.Context, n standin.Node) error {
	if name := n.Metadata.Annotations[memberAnnotation]; name != "" && n.Metadata.Name != v.c.nodeName {
		if err := v.removeMember(ctx, name); err != nil {
			return err
		}
	}
	// Somebody of that name may have joined in the meantime.
	if err := v.admin.Get(ctx, nodePath(n.Metadata.Name), nil); !standin.IsStatus(err, http.StatusNotFound) {
		return err
	}
	return v.admin.Delete(ctx, secretPath(n.Metadata.Name+".node-password.k3s"))
}

// endpoints of service default/kubernetes are the servers at 6443. The API server would name its own port.
func (v *srv) endpoints(ctx context.Context, nodes []standin.Node) error {
	addresses := []string{v.c.advertise()}
	for _, n := range nodes {
		if n.Metadata.Labels[etcdLabel] == "true" && n.Condition("Ready") == "True" && n.Metadata.Name != v.c.nodeName {
			addresses = append(addresses, n.Address())
		}
	}
	sort.Strings(addresses)
	path := "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
	var old struct {
		Endpoints []struct{ Addresses []string }
	}
	err := v.admin.Get(ctx, path+"/kubernetes", &old)
	if err != nil && !standin.IsStatus(err, http.StatusNotFound) {
		return err
	}
	var have []string
	for _, e := range old.Endpoints {
		have = append(have, e.Addresses...)
	}
	if reflect.DeepEqual(have, addresses) {
		return nil
	}
	var endpoints []any
	for _, a := range addresses {
		endpoints = append(endpoints, map[string]any{"addresses": []string{a}, "conditions": map[string]bool{"ready": true}})
	}
	family := "IPv4"
	if strings.Contains(addresses[0], ":") {
		family = "IPv6"
	}
	slice := map[string]any{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
		"metadata":  map[string]any{"name": "kubernetes", "namespace": "default", "labels": map[string]string{"kubernetes.io/service-name": "kubernetes"}},
		"endpoints": endpoints, "ports": []any{map[string]any{"name": "https", "port": v.c.port, "protocol": "TCP"}},
	}
	if err != nil {
		return v.admin.Create(ctx, path, slice)
	}
	return v.admin.Update(ctx, path+"/kubernetes", slice)
}

// manifests applies what is in server/manifests and has changed. X.yaml.skip keeps X.yaml from it.
func (v *srv) manifests(ctx context.Context, applied map[string]string) error {
	dir := v.c.path("server", "manifests")
	return filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		ext := filepath.Ext(path)
		if ext != ".yaml" && ext != ".yml" && ext != ".json" || exists(path+".skip") {
			return nil
		}
		fi, err := e.Info()
		if err != nil {
			return nil // it is gone
		}
		key := fmt.Sprint(fi.Size(), fi.ModTime().UnixNano())
		if applied[path] == key {
			return nil
		}
		_, err = v.s.Output(ctx, nil, "kubectl", "--kubeconfig="+v.c.path("server", "cred", "admin.kubeconfig"), "apply", "--server-side", "--force-conflicts", "--field-manager=deploy@"+v.c.nodeName, "-f", path)
		if err != nil {
			logf("error", "Failed to process config: failed to process %s: %v", path, err)
			return nil // and tried again, as the others are not to wait for it
		}
		applied[path] = key
		logf("info", "Applied manifest at %q", path)
		return nil
	})
}
