package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// nodeList is the part of a NodeList (core/v1) that is looked at.
type nodeList struct {
	Items []struct {
		Metadata struct {
			Name   string            `json:"name"`
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
		Spec struct {
			PodCIDR string `json:"podCIDR"`
		} `json:"spec"`
		Status struct {
			Conditions []struct {
				Type    string `json:"type"`
				Status  string `json:"status"`
				Reason  string `json:"reason"`
				Message string `json:"message"`
			} `json:"conditions"`
			Addresses []struct {
				Type    string `json:"type"`
				Address string `json:"address"`
			} `json:"addresses"`
			NodeInfo struct {
				KubeletVersion          string `json:"kubeletVersion"`
				ContainerRuntimeVersion string `json:"containerRuntimeVersion"`
			} `json:"nodeInfo"`
		} `json:"status"`
	} `json:"items"`
}

const rolePrefix = "node-role.kubernetes.io/"

// Nodes asks the API.
func (Driver) Nodes(ctx context.Context, c *runtime.Cluster) ([]runtime.NodeStatus, error) {
	out, err := kubectl(ctx, c, "get", "nodes", "-o", "json")
	if err != nil {
		return nil, err
	}
	return parseNodes(out)
}

func parseNodes(data []byte) ([]runtime.NodeStatus, error) {
	var list nodeList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("reading the API's list of nodes: %w", err)
	}
	nodes := make([]runtime.NodeStatus, 0, len(list.Items))
	for _, item := range list.Items {
		s := runtime.NodeStatus{
			Name: item.Metadata.Name, PodCIDR: item.Spec.PodCIDR, Reason: "its kubelet has not reported yet",
			Version: item.Status.NodeInfo.KubeletVersion, Engine: item.Status.NodeInfo.ContainerRuntimeVersion,
		}
		for label := range item.Metadata.Labels {
			if role, ok := strings.CutPrefix(label, rolePrefix); ok {
				s.Roles = append(s.Roles, role)
			}
		}
		slices.Sort(s.Roles)
		for _, a := range item.Status.Addresses {
			if a.Type == "InternalIP" && s.Address == "" {
				s.Address = a.Address
			}
		}
		for _, cond := range item.Status.Conditions {
			if cond.Type != "Ready" {
				continue
			}
			s.Ready, s.Reason = cond.Status == "True", cond.Reason+": "+cond.Message
			if s.Ready {
				s.Reason = ""
			}
		}
		nodes = append(nodes, s)
	}
	return nodes, nil
}

// Kubeconfig is the administrator's, with the first control plane's address in place of a name that
// only hosts of the cluster know. The API's certificate holds both.
func (Driver) Kubeconfig(ctx context.Context, c *runtime.Cluster) ([]byte, error) {
	data, err := fileOf(ctx, c.First(), adminConf)
	if err != nil {
		return nil, err
	}
	return externalKubeconfig(data, "https://"+net.JoinHostPort(c.First().IP, "6443"))
}

func externalKubeconfig(data []byte, server string) ([]byte, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("reading %s: %w", adminConf, err)
	}
	clusters, _ := doc["clusters"].([]any)
	for _, item := range clusters {
		entry, _ := item.(map[string]any)
		if cluster, ok := entry["cluster"].(map[string]any); ok {
			cluster["server"] = server
		}
	}
	if len(clusters) == 0 {
		return nil, fmt.Errorf("reading %s: it names no cluster", adminConf)
	}
	out, err := yaml.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("writing kubeconfig: %w", err)
	}
	return out, nil
}

func fileOf(ctx context.Context, n *runtime.Node, path string) ([]byte, error) {
	return remote.Output(ctx, n.Runner, "cat", path)
}
