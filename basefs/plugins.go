package basefs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// PluginError says what is wrong with a plugin document.
type PluginError struct {
	File string
	Err  error
}

// Error names the file.
func (e *PluginError) Error() string { return fmt.Sprintf("reading plugin %s: %v", e.File, e.Err) }

// Unwrap gives what is wrong.
func (e *PluginError) Unwrap() error { return e.Err }

// pluginPhases are sealer's phases of plugins, and where they are in keg. Those without hosts of their own run on the
// hosts that the plugin's scope names.
var pluginPhases = map[string][]LegacyHook{
	"pre-install":     {{Phase: "pre-configure", On: ScopeFirst}},
	"pre-init-host":   {{Phase: "pre-configure"}},
	"post-init-host":  {{Phase: "post-init", On: ScopeFirst}, {Phase: "post-join"}},
	"post-install":    {{Phase: "pre-apps", On: ScopeFirst}},
	"pre-scaleup":     {{Phase: "pre-scaleup", On: ScopeFirst}},
	"post-scaleup":    {{Phase: "post-scaleup", On: ScopeFirst}},
	"upgrade-host":    {{Phase: "pre-upgrade"}},
	"upgrade":         {{Phase: "post-upgrade", On: ScopeFirst}},
	"rollback":        {{Phase: "", On: ScopeFirst, Skipped: "keg has no phase for it"}},
	"pre-uninstall":   {{Phase: "clean", On: ScopeFirst}},
	"pre-clean-host":  {{Phase: "clean"}},
	"post-clean-host": {{Phase: "post-clean"}},
	"post-uninstall":  {{Phase: "post-clean", On: ScopeFirst}},
}

// plugin is one document of plugins/.
type plugin struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Type   string `json:"type"`
		Action string `json:"action"`
		Scope  string `json:"scope"`
		Data   string `json:"data"`
	} `json:"spec"`

	source string
}

func (p plugin) actions() []string {
	var list []string
	for _, a := range strings.Split(p.Spec.Action, "|") {
		list = append(list, strings.TrimSpace(a))
	}
	return list
}

// plugins are in the order of their names.
func (l *legacy) plugins() ([]plugin, error) {
	var all []plugin
	entries, err := fs.ReadDir(l.tree, "plugins")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading plugins: %w", err)
	}
	for _, e := range entries {
		name := "plugins/" + e.Name()
		if ext := path.Ext(name); e.IsDir() || ext != ".yaml" && ext != ".yml" {
			continue
		}
		text, err := fs.ReadFile(l.tree, name)
		if err != nil {
			return nil, fmt.Errorf("reading plugins: %w", err)
		}
		for _, doc := range documents(text) {
			p := plugin{}
			if err := yaml.Unmarshal(doc, &p); err != nil {
				return nil, &PluginError{name, err}
			}
			if p.Kind == "" && len(bytes.TrimSpace(comment.ReplaceAll(doc, nil))) == 0 {
				continue
			}
			if p.Kind != "Plugin" {
				return nil, &PluginError{name, fmt.Errorf("kind %q is not Plugin", p.Kind)}
			}
			p.source = name + ": " + p.Metadata.Name
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b plugin) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	return all, nil
}

var separator = regexp.MustCompile(`(?m)^---(?:[ \t].*)?\r?$`)

func documents(text []byte) [][]byte {
	var list [][]byte
	for _, doc := range separator.Split(string(text), -1) {
		list = append(list, []byte(doc))
	}
	return list
}

// plugin adds one for an action, if it is for that.
func (l *legacy) plugin(p plugin, action string) {
	if !slices.Contains(p.actions(), action) {
		return
	}
	scope, ok := map[string]Scope{"master": ScopeMasters, "node": ScopeWorkers, "master|node": ScopeAll, "node|master": ScopeAll}[strings.ReplaceAll(p.Spec.Scope, " ", "")]
	for _, h := range pluginPhases[action] {
		switch {
		case p.Spec.Type != "SHELL":
			h.Skipped = fmt.Sprintf("plugins of type %q are not run, by sealer either: write SHELL", p.Spec.Type)
		case h.On == "" && !ok:
			h.Skipped = fmt.Sprintf("scope %q names no hosts: write master or node", p.Spec.Scope)
		}
		if h.On == "" {
			h.On = scope
		} else if action == "post-init-host" && scope == ScopeWorkers {
			continue // the first control plane is none
		} else if action == "post-init-host" && !ok {
			continue // said once
		}
		h.Source, h.Text, h.Dir = p.source, p.Spec.Data, "."
		l.list = append(l.list, h)
	}
}
