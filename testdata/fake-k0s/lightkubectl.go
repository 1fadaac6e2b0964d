package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/internal/standin"
)

// lightClient is as much of kubectl as installers need of Nodes and EtcdMembers. All else is refused.
type lightClient struct {
	*standin.Client
	out                               io.Writer
	output, raw, patch, wait, select1 string
	timeout                           time.Duration
	ignoreNotFound, overwrite, bare   bool
}

func (v *vars) lightKubectl(cmd *cobra.Command, args []string) error {
	client, err := standin.KubeconfigClient(v.adminConf, "")
	if err != nil {
		return err
	}
	c := &lightClient{Client: client, out: cmd.OutOrStdout()}
	f := pflag.NewFlagSet("kubectl", pflag.ContinueOnError)
	f.StringVarP(&c.output, "output", "o", "", "")
	f.StringVar(&c.raw, "raw", "", "")
	f.StringVarP(&c.patch, "patch", "p", "", "")
	f.StringVar(&c.wait, "for", "", "")
	f.StringVarP(&c.select1, "selector", "l", "", "")
	f.DurationVar(&c.timeout, "timeout", 30*time.Second, "")
	f.BoolVar(&c.ignoreNotFound, "ignore-not-found", false, "")
	f.BoolVar(&c.overwrite, "overwrite", false, "")
	f.BoolVar(&c.bare, "no-headers", false, "")
	for _, ignored := range []string{"ignore-daemonsets", "delete-emptydir-data", "force", "disable-eviction", "all-namespaces"} {
		f.Bool(ignored, false, "")
	}
	f.Bool("wait", true, "")
	f.String("type", "strategic", "")
	f.String("request-timeout", "", "")
	f.String("grace-period", "", "")
	f.String("kubeconfig", "", "")
	f.StringP("namespace", "n", "", "")
	if err := f.Parse(args); err != nil {
		return fmt.Errorf("light kubectl: %w", err)
	}
	return c.run(cmd.Context(), f.Args())
}

// resource finds the path and the printed name of a kind.
func resource(kind string) (path, singular string, err error) {
	switch strings.ToLower(kind) {
	case "node", "nodes", "no":
		return "/api/v1/nodes", "node", nil
	case "etcdmember", "etcdmembers", "etcdmember.etcd.k0sproject.io", "etcdmembers.etcd.k0sproject.io":
		return membersPath, "etcdmember.etcd.k0sproject.io", nil
	case "controlnode", "controlnodes", "controlnode.autopilot.k0sproject.io", "controlnodes.autopilot.k0sproject.io":
		return "/apis/autopilot.k0sproject.io/v1beta2/controlnodes", "controlnode.autopilot.k0sproject.io", nil
	}
	return "", "", fmt.Errorf("light kubectl: the kind %q is not known here", kind)
}

func (c *lightClient) run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("light kubectl: no command")
	}
	verb, args := args[0], args[1:]
	switch {
	case verb == "get" && c.raw != "":
		data, err := c.Raw(ctx, http.MethodGet, strings.Split(c.raw, "?")[0], "", nil)
		if err != nil {
			return fmt.Errorf("Error from server: %w", err) //nolint:staticcheck,revive // kubectl's words
		}
		fmt.Fprint(c.out, string(data))
		return nil
	case verb == "version":
		data, err := c.Raw(ctx, http.MethodGet, "/version", "", nil)
		fmt.Fprintf(c.out, "Server Version: %s\n", data)
		return err
	case slices.Contains([]string{"cordon", "uncordon", "drain"}, verb):
		args = append([]string{"node"}, args...)
	}
	if len(args) == 0 {
		return errors.New("light kubectl: no kind")
	}
	if kind, name, ok := strings.Cut(args[0], "/"); ok {
		args = append([]string{kind, name}, args[1:]...)
	}
	path, singular, err := resource(args[0])
	if err != nil {
		return err
	}
	names := args[1:]
	switch verb {
	case "get":
		return c.get(ctx, path, singular, names)
	case "label", "annotate":
		return c.mark(ctx, path, singular, map[string]string{"label": "labels", "annotate": "annotations"}[verb], names)
	}
	if len(names) == 0 {
		return errors.New("light kubectl: no name")
	}
	for _, name := range names {
		if err := c.each(ctx, verb, path, singular, name); err != nil {
			return err
		}
	}
	return nil
}

func (c *lightClient) each(ctx context.Context, verb, path, singular, name string) error {
	object := path + "/" + name
	missing := func(err error) error {
		if standin.IsStatus(err, http.StatusNotFound) {
			if c.ignoreNotFound {
				return nil
			}
			return fmt.Errorf("Error from server (NotFound): %s %q not found", singular, name) //nolint:staticcheck,revive // kubectl's words
		}
		return err
	}
	done := func(what string, err error) error {
		if err == nil {
			fmt.Fprintf(c.out, "%s/%s %s\n", singular, name, what)
		}
		return missing(err)
	}
	switch verb {
	case "delete":
		_, err := c.Raw(ctx, http.MethodDelete, object, "", nil)
		if err == nil {
			fmt.Fprintf(c.out, "%s %q deleted\n", singular, name)
		}
		return missing(err)
	case "cordon", "drain":
		return done("cordoned", c.Patch(ctx, object, map[string]any{"spec": map[string]any{"unschedulable": true}}))
	case "uncordon":
		return done("uncordoned", c.Patch(ctx, object, map[string]any{"spec": map[string]any{"unschedulable": nil}}))
	case "patch":
		_, err := c.Raw(ctx, http.MethodPatch, object, "application/merge-patch+json", []byte(c.patch))
		return done("patched", err)
	case "wait":
		return c.await(ctx, object, singular, name)
	}
	return fmt.Errorf("light kubectl: %q is not known here", verb)
}

func (c *lightClient) get(ctx context.Context, path, singular string, names []string) error {
	var items []json.RawMessage
	if len(names) == 0 {
		var list struct{ Items []json.RawMessage }
		if err := c.Get(ctx, path, &list); err != nil && !(standin.IsStatus(err, http.StatusNotFound) && !strings.HasSuffix(path, "nodes")) {
			return err
		}
		items = list.Items
	}
	for _, name := range names {
		data, err := c.Raw(ctx, http.MethodGet, path+"/"+name, "", nil)
		if standin.IsStatus(err, http.StatusNotFound) {
			if c.ignoreNotFound {
				continue
			}
			return fmt.Errorf("Error from server (NotFound): %s %q not found", singular, name) //nolint:staticcheck,revive // kubectl's words
		}
		if err != nil {
			return err
		}
		items = append(items, data)
	}
	items = slices.DeleteFunc(items, func(item json.RawMessage) bool { return !selected(item, c.select1) })
	if len(names) == 1 && len(items) == 0 {
		return nil
	}
	var one any = map[string]any{"apiVersion": "v1", "kind": "List", "items": items}
	if len(names) == 1 {
		one = items[0]
	}
	data, err := json.Marshal(one)
	if err != nil {
		return err
	}
	format, template, _ := strings.Cut(c.output, "=")
	switch format {
	case "json":
		fmt.Fprintln(c.out, string(data))
	case "yaml":
		text, err := yaml.JSONToYAML(data)
		if err != nil {
			return err
		}
		fmt.Fprint(c.out, string(text))
	case "jsonpath":
		text, err := jsonPath(data, template)
		if err != nil {
			return err
		}
		fmt.Fprint(c.out, text)
	case "name":
		for _, item := range items {
			fmt.Fprintf(c.out, "%s/%s\n", singular, nameOf(item))
		}
	case "", "wide":
		c.table(items)
	default:
		return fmt.Errorf("light kubectl: output %q is not known here", c.output)
	}
	return nil
}

func nameOf(item json.RawMessage) string {
	var m etcdMember
	_ = json.Unmarshal(item, &m)
	return m.Metadata.Name
}

func selected(item json.RawMessage, selector string) bool {
	var m etcdMember
	_ = json.Unmarshal(item, &m)
	for part := range strings.SplitSeq(selector, ",") {
		key, value, has := strings.Cut(strings.ReplaceAll(part, "==", "="), "=")
		if got, ok := m.Metadata.Labels[key]; key != "" && (!ok || has && got != value) {
			return false
		}
	}
	return true
}

func (c *lightClient) table(items []json.RawMessage) {
	if !c.bare {
		fmt.Fprintln(c.out, "NAME   STATUS   VERSION")
	}
	for _, item := range items {
		var n standin.Node
		var m etcdMember
		_, _ = json.Unmarshal(item, &n), json.Unmarshal(item, &m)
		status := map[bool]string{true: "Ready", false: "NotReady"}[n.Condition("Ready") == "True"]
		if n.Spec.Unschedulable {
			status += ",SchedulingDisabled"
		}
		if m.Kind == "EtcdMember" {
			status = m.joined()
		}
		fmt.Fprintf(c.out, "%s   %s   %s\n", n.Metadata.Name, status, n.Status.NodeInfo.KubeletVersion)
	}
}

// mark sets labels or annotations: key=value, key-.
func (c *lightClient) mark(ctx context.Context, path, singular, field string, args []string) error {
	if len(args) < 2 {
		return errors.New("light kubectl: a name and key=value are needed")
	}
	values := map[string]any{}
	for _, a := range args[1:] {
		key, value, found := strings.Cut(a, "=")
		if !found && strings.HasSuffix(a, "-") {
			values[strings.TrimSuffix(a, "-")] = nil
		} else {
			values[key] = value
		}
	}
	if err := c.Patch(ctx, path+"/"+args[0], map[string]any{"metadata": map[string]any{field: values}}); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s/%s %s\n", singular, args[0], map[string]string{"labels": "labeled", "annotations": "annotated"}[field])
	return nil
}

// await waits for a condition, or for the end, of an object.
func (c *lightClient) await(ctx context.Context, object, singular, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("timed out waiting for the condition on %s/%s", singular, name))
	defer cancel()
	condition, isCondition := strings.CutPrefix(c.wait, "condition=")
	if !isCondition && c.wait != "delete" {
		return fmt.Errorf("light kubectl: --for=%s is not known here", c.wait)
	}
	condition, want, found := strings.Cut(condition, "=")
	if !found {
		want = "True"
	}
	err := standin.Until(ctx, 200*time.Millisecond, func(ctx context.Context) error {
		var n standin.Node
		err := c.Get(ctx, object, &n)
		switch {
		case c.wait == "delete" && standin.IsStatus(err, http.StatusNotFound):
			return nil
		case err != nil:
			return err
		case c.wait == "delete" || !strings.EqualFold(n.Condition(condition), want):
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", context.Cause(ctx))
		return err
	}
	fmt.Fprintf(c.out, "%s/%s condition met\n", singular, name)
	return nil
}

// jsonPath is .a.b, .a[0].b and [?(@.type=="X")] in braces; other text stays as it is.
func jsonPath(data []byte, template string) (string, error) {
	var root any
	if err := json.Unmarshal(data, &root); err != nil {
		return "", err
	}
	var out strings.Builder
	template = strings.Trim(template, "'")
	for template != "" {
		before, rest, found := strings.Cut(template, "{")
		out.WriteString(before)
		if !found {
			break
		}
		expression, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", fmt.Errorf("light kubectl: jsonpath %q has no end", template)
		}
		values, err := walk([]any{root}, expression)
		if err != nil {
			return "", err
		}
		for i, v := range values {
			if i > 0 {
				out.WriteString(" ")
			}
			if text, ok := v.(string); ok {
				out.WriteString(text)
			} else {
				text, _ := json.Marshal(v)
				out.Write(text)
			}
		}
		template = after
	}
	return out.String(), nil
}

func walk(values []any, path string) ([]any, error) {
	for path != "" {
		var next []any
		switch {
		case strings.HasPrefix(path, "["):
			index, rest, found := strings.Cut(path[1:], "]")
			if !found {
				return nil, fmt.Errorf("light kubectl: jsonpath %q is not known here", path)
			}
			path = rest
			for _, v := range values {
				list, _ := v.([]any)
				for i, item := range list {
					keep := index == "*" || index == fmt.Sprint(i)
					if filter, ok := strings.CutPrefix(index, "?(@."); ok {
						key, want, _ := strings.Cut(strings.TrimSuffix(filter, ")"), "==")
						m, _ := item.(map[string]any)
						keep = fmt.Sprint(m[key]) == strings.Trim(want, `"'`)
					}
					if keep {
						next = append(next, item)
					}
				}
			}
		case strings.HasPrefix(path, "."):
			path = path[1:]
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			for _, v := range values {
				if m, ok := v.(map[string]any); ok && m[path[:end]] != nil {
					next = append(next, m[path[:end]])
				}
			}
			path = path[end:]
		default:
			return nil, fmt.Errorf("light kubectl: jsonpath %q is not known here", path)
		}
		values = next
	}
	return values, nil
}
