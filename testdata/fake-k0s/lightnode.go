package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/internal/standin"
)

// lightWorker is a worker without programs: its Node is there and Ready, images have names, nothing runs.
func (d *daemon) lightWorker(ctx context.Context, token func() (string, error), embedded bool) error {
	var err error
	server := ""
	if embedded {
		err, server = d.ownIdentity(), d.config.local()
	} else {
		err = d.bootstrap(ctx, token)
	}
	if err != nil {
		return fmt.Errorf("failed to bootstrap kubelet client configuration: %w", err)
	}
	client, err := standin.KubeconfigClient(d.kubeletConf, server)
	if err != nil {
		return err
	}
	profile, err := d.loadProfile(ctx, client)
	if err != nil {
		return err
	}
	if profile.NLLB.Enabled && !embedded && os.Getenv(rootEnv) == "" {
		if _, client, err = d.startNLLB(ctx, profile); err != nil {
			return err
		}
	}
	if !embedded {
		if err := serveStatus(ctx, d.vars, d.status, func(ctx context.Context) error {
			_, err := client.Raw(ctx, http.MethodGet, "/version", "", nil)
			return err
		}); err != nil {
			return err
		}
	}
	last := ""
	for {
		if err := d.heartbeat(ctx, client, embedded); err != nil && ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			d.complain("heartbeat", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (d *daemon) heartbeat(ctx context.Context, client *standin.Client, embedded bool) error {
	address := firstAddress()
	if embedded {
		address = d.config.Spec.API.Address
	}
	for _, a := range d.kubeletArg {
		if ip, ok := strings.CutPrefix(a, "--node-ip="); ok {
			address = ip
		}
	}
	status := map[string]any{
		"addresses":  []any{map[string]string{"type": "InternalIP", "address": address}, map[string]string{"type": "Hostname", "address": d.node}},
		"conditions": []any{map[string]string{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": time.Now().UTC().Format(time.RFC3339Nano)}},
		"nodeInfo":   map[string]string{"kubeletVersion": kubernetesVersion(), "containerRuntimeVersion": "light://0"},
	}
	err := client.Patch(ctx, "/api/v1/nodes/"+d.node+"/status", map[string]any{"status": status})
	if !standin.IsStatus(err, http.StatusNotFound) {
		return err
	}
	labels := map[string]string{"kubernetes.io/hostname": d.node, "kubernetes.io/os": "linux"}
	for key, value := range d.labels {
		labels[key] = value
	}
	taints := []any{}
	if embedded {
		labels["node.k0sproject.io/role"] = "control-plane"
		if !d.noTaints && !d.single {
			taints = append(taints, map[string]string{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"})
		}
	}
	return client.Create(ctx, "/api/v1/nodes", map[string]any{
		"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": d.node, "labels": labels}, "spec": map[string]any{"taints": taints}, "status": status,
	})
}

// lightCtr knows one command: `images ls -q`, the names in plain tars of the directory of images.
func (v *vars) lightCtr(cmd *cobra.Command, args []string) error {
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "-n" || a == "k8s.io" || strings.HasPrefix(a, "--namespace") })
	if len(args) < 2 || (args[0] != "images" && args[0] != "image" && args[0] != "i") || (args[1] != "ls" && args[1] != "list") {
		return errors.New("light ctr: only images ls is known here")
	}
	if running, err := v.locked(); err != nil || !running {
		return errors.New("ctr: failed to dial: connection refused")
	}
	entries, err := os.ReadDir(v.images)
	if err != nil {
		return err
	}
	for _, e := range entries {
		names, err := bundleNames(filepath.Join(v.images, e.Name()))
		if err != nil {
			continue // a line in the journal of the real one
		}
		for _, name := range names {
			_, _ = io.WriteString(cmd.OutOrStdout(), name+"\n")
		}
	}
	return nil
}
