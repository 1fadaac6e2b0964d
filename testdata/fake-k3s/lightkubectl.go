package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// lightKubectl is as much of kubectl as installers need of Nodes. All else is refused.
func lightKubectl(ctx context.Context, args []string) error {
	s, rest, err := parseArgs(map[string]flag{
		"kubeconfig": {}, "output": {short: "o"}, "raw": {}, "selector": {short: "l"}, "no-headers": {kind: boolean}, "timeout": {}, "for": {}, "overwrite": {kind: boolean},
		"ignore-daemonsets": {kind: boolean}, "delete-emptydir-data": {kind: boolean}, "force": {kind: boolean}, "grace-period": {}, "disable-eviction": {kind: boolean},
		"ignore-not-found": {kind: boolean}, "wait": {kind: boolean}, "request-timeout": {}, "type": {}, "patch": {short: "p"}, "server": {}, "namespace": {short: "n"},
		"skip-wait-for-delete-timeout": {}, "pod-selector": {},
	}, args)
	if err != nil {
		return err
	}
	client, err := adminClient(s)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return errors.New("light kubectl: no command")
	}
	if rest[0] == "get" && s.get("raw") != "" {
		data, err := client.Raw(ctx, http.MethodGet, strings.Split(s.get("raw"), "?")[0], "", nil)
		if err != nil {
			return fmt.Errorf("Error from server: %w", err)
		}
		fmt.Print(string(data))
		return nil
	}
	verb, names := rest[0], rest[1:]
	if verb == "version" {
		data, err := client.Raw(ctx, http.MethodGet, "/version", "", nil)
		fmt.Println("Server Version:", string(data))
		return err
	}
	switch verb {
	case "cordon", "uncordon", "drain":
		names = append([]string{"node"}, names...)
	}
	if len(names) > 0 {
		if kind, name, ok := strings.Cut(names[0], "/"); ok {
			names = append([]string{kind, name}, names[1:]...)
		}
	}
	if len(names) == 0 || !slices.Contains([]string{"node", "nodes", "no"}, names[0]) {
		return fmt.Errorf("light kubectl: only nodes are known here, not %q", strings.Join(rest, " "))
	}
	names = names[1:]
	switch verb {
	case "get":
		return lightGet(ctx, client, s, names)
	case "delete":
		return eachNode(names, func(name string) error {
			if err := client.Get(ctx, nodePath(name), nil); err != nil {
				if standin.IsStatus(err, http.StatusNotFound) && s.bool("ignore-not-found") {
					return nil
				}
				return fmt.Errorf("Error from server (NotFound): nodes %q not found: %w", name, err)
			}
			fmt.Printf("node %q deleted\n", name)
			return client.Delete(ctx, nodePath(name))
		})
	case "cordon", "drain":
		return eachNode(names, func(name string) error {
			fmt.Printf("node/%s cordoned\n", name)
			return client.Patch(ctx, nodePath(name), map[string]any{"spec": map[string]any{"unschedulable": true}})
		})
	case "uncordon":
		return eachNode(names, func(name string) error {
			fmt.Printf("node/%s uncordoned\n", name)
			return client.Patch(ctx, nodePath(name), map[string]any{"spec": map[string]any{"unschedulable": nil}})
		})
	case "annotate", "label":
		return lightMark(ctx, client, map[string]string{"annotate": "annotations", "label": "labels"}[verb], names, s.bool("overwrite"))
	case "patch":
		return eachNode(names, func(name string) error {
			_, err := client.Raw(ctx, http.MethodPatch, nodePath(name), "application/merge-patch+json", []byte(s.get("patch")))
			return err
		})
	case "wait":
		return lightWait(ctx, client, s, names)
	}
	return fmt.Errorf("light kubectl: %q is not known here", verb)
}

func eachNode(names []string, f func(string) error) error {
	if len(names) == 0 {
		return errors.New("light kubectl: no node named")
	}
	for _, name := range names {
		if err := f(name); err != nil {
			return err
		}
	}
	return nil
}

func selected(n standin.Node, selector string) bool {
	for part := range strings.SplitSeq(selector, ",") {
		key, value, has := strings.Cut(strings.ReplaceAll(part, "==", "="), "=")
		if got, ok := n.Metadata.Labels[key]; key != "" && (!ok || has && got != value) {
			return false
		}
	}
	return true
}

func lightGet(ctx context.Context, client *standin.Client, s settings, names []string) error {
	output := s.get("output")
	if len(names) == 1 && output == "json" {
		data, err := client.Raw(ctx, http.MethodGet, nodePath(names[0]), "", nil)
		if standin.IsStatus(err, http.StatusNotFound) && s.bool("ignore-not-found") {
			return nil
		}
		if err != nil {
			return fmt.Errorf("Error from server (NotFound): nodes %q not found: %w", names[0], err)
		}
		fmt.Println(string(data))
		return nil
	}
	data, err := client.Raw(ctx, http.MethodGet, "/api/v1/nodes", "", nil)
	if err != nil {
		return fmt.Errorf("Error from server: %w", err)
	}
	var raw struct{ Items []json.RawMessage }
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	var kept []json.RawMessage
	var nodes []standin.Node
	for _, item := range raw.Items {
		var n standin.Node
		if err := json.Unmarshal(item, &n); err != nil {
			return err
		}
		if (len(names) == 0 || slices.Contains(names, n.Metadata.Name)) && selected(n, s.get("selector")) {
			kept, nodes = append(kept, item), append(nodes, n)
		}
	}
	if len(names) > len(nodes) && !s.bool("ignore-not-found") {
		return fmt.Errorf("Error from server (NotFound): nodes %q not found", strings.Join(names, " "))
	}
	switch output {
	case "json":
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"apiVersion": "v1", "kind": "List", "items": kept})
	case "name":
		for _, n := range nodes {
			fmt.Println("node/" + n.Metadata.Name)
		}
		return nil
	case "", "wide":
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
		if !s.bool("no-headers") {
			fmt.Fprintln(w, "NAME\tSTATUS\tROLES\tVERSION\tINTERNAL-IP")
		}
		for _, n := range nodes {
			state, roles := map[bool]string{true: "Ready", false: "NotReady"}[n.Condition("Ready") == "True"], "<none>"
			if n.Spec.Unschedulable {
				state += ",SchedulingDisabled"
			}
			if n.Metadata.Labels[controlPlaneLabel] == "true" {
				roles = "control-plane,etcd"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", n.Metadata.Name, state, roles, n.Status.NodeInfo.KubeletVersion, n.Address())
		}
		return w.Flush()
	}
	return fmt.Errorf("light kubectl: output %q is not known here", output)
}

// lightMark sets labels or annotations: key=value, key-.
func lightMark(ctx context.Context, client *standin.Client, field string, args []string, overwrite bool) error {
	if len(args) < 2 {
		return errors.New("light kubectl: a node and key=value are needed")
	}
	var n standin.Node
	if err := client.Get(ctx, nodePath(args[0]), &n); err != nil {
		return fmt.Errorf("Error from server: %w", err)
	}
	old := map[string]map[string]string{"labels": n.Metadata.Labels, "annotations": n.Metadata.Annotations}[field]
	values := map[string]any{}
	for _, a := range args[1:] {
		key, value, ok := strings.Cut(a, "=")
		if !ok && strings.HasSuffix(a, "-") {
			values[strings.TrimSuffix(a, "-")] = nil
			continue
		}
		if had, is := old[key]; is && had != value && !overwrite {
			return fmt.Errorf("error: --overwrite is false but found the following declared %s: '%s' already has a value", field, key)
		}
		values[key] = value
	}
	fmt.Printf("node/%s annotated\n", args[0])
	return client.Patch(ctx, nodePath(args[0]), map[string]any{"metadata": map[string]any{field: values}})
}

func lightWait(ctx context.Context, client *standin.Client, s settings, names []string) error {
	condition, ok := strings.CutPrefix(s.get("for"), "condition=")
	if !ok {
		return fmt.Errorf("light kubectl: --for=%s is not known here", s.get("for"))
	}
	condition, want, has := strings.Cut(condition, "=")
	if !has {
		want = "True"
	}
	limit, err := time.ParseDuration(s.or("timeout", "30s"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errors.New("timed out waiting for the condition"))
	defer cancel()
	return eachNode(names, func(name string) error {
		return standin.Until(ctx, 300*time.Millisecond, func(ctx context.Context) error {
			var n standin.Node
			if err := client.Get(ctx, nodePath(name), &n); err != nil {
				return err
			}
			if got := n.Condition(condition); !strings.EqualFold(got, want) {
				return fmt.Errorf("node %s: %s is %s", name, condition, got)
			}
			fmt.Printf("node/%s condition met\n", name)
			return nil
		})
	})
}
