package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"sigs.k8s.io/yaml"
)

// ExternalKubeconfig is the administrator's kubeconfig, with a server that can be reached from outside:
// the load balancer or the VIP, or else the first control plane's address. Cluster, user and context
// bear the cluster's name, so that it may be merged with others.
func (c *Cluster) ExternalKubeconfig(ctx context.Context) ([]byte, error) {
	data, err := c.Driver.Kubeconfig(ctx, c)
	if err != nil {
		return nil, err
	}
	host, port := c.First().IP, "6443"
	switch {
	case c.Options.Endpoint != "":
		if host, port, err = net.SplitHostPort(c.Options.Endpoint); err != nil {
			return nil, fmt.Errorf("reading the API's endpoint: %w", err)
		}
	case c.Options.VIP != "":
		host = c.Options.VIP
	}
	return externalKubeconfig(data, c.Name, "https://"+net.JoinHostPort(host, port))
}

// Kubeconfig asks the cluster for ExternalKubeconfig.
func Kubeconfig(ctx context.Context, c *Cluster) (data []byte, err error) {
	err = Run(ctx, c, append(servicePhases(whoever), &phase{title: "kubeconfig", limit: 1, batches: func(c *Cluster) []Batch {
		return []Batch{{c.First().On("read the kubeconfig", func(ctx context.Context, _ io.Writer) (err error) {
			data, err = c.ExternalKubeconfig(ctx)
			return err
		})}}
	}}))
	return data, err
}

// kubeconfigFile is what is looked at of a kubeconfig (client-go's api/v1.Config).
type kubeconfigFile struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Clusters   []struct {
		Name    string         `json:"name"`
		Cluster map[string]any `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		Name string         `json:"name"`
		User map[string]any `json:"user"`
	} `json:"users"`
	Contexts []struct {
		Name    string         `json:"name"`
		Context map[string]any `json:"context"`
	} `json:"contexts"`
	CurrentContext string         `json:"current-context"`
	Preferences    map[string]any `json:"preferences,omitempty"`
}

func externalKubeconfig(data []byte, name, server string) ([]byte, error) {
	var f kubeconfigFile
	if err := yaml.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("reading the administrator's kubeconfig: %w", err)
	}
	if len(f.Clusters) != 1 || len(f.Users) != 1 || len(f.Contexts) != 1 || f.Clusters[0].Cluster == nil {
		return nil, errors.New("reading the administrator's kubeconfig: it is not for one user of one cluster")
	}
	user := name + "-admin"
	f.Clusters[0].Name, f.Clusters[0].Cluster["server"] = name, server
	f.Users[0].Name = user
	f.Contexts[0].Name, f.Contexts[0].Context = name, map[string]any{"cluster": name, "user": user}
	f.CurrentContext = name
	out, err := yaml.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("writing kubeconfig: %w", err)
	}
	return out, nil
}
