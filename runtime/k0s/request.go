package k0s

import (
	"fmt"
	"maps"
	"math"
	"net"
	"slices"

	"github.com/clusterimage/keg/runtime"
)

const (
	configVersion = "k0s.k0sproject.io/v1beta1"
	configKind    = "ClusterConfig"
	docsURL       = "https://docs.k0sproject.io/stable/configuration/"
)

// CheckRequest finds documents of other kinds, keys that k0s does not know, and those that are keg's alone.
func (Driver) CheckRequest(c *runtime.Cluster) []runtime.Finding {
	var found []runtime.Finding
	if host, _, err := net.SplitHostPort(c.Options.Endpoint); err == nil {
		found = append(found, runtime.Finding{
			ID: "endpoint", Severity: runtime.Warning,
			Text: fmt.Sprintf("pods' logs and exec go through %s too", net.JoinHostPort(host, "8132")),
			Cure: "let the load balancer forward TCP port 8132 to all control planes",
		})
	}
	for _, doc := range c.Options.Config {
		add := func(id, text, cure string) {
			found = append(found, runtime.Finding{ID: id, Severity: runtime.Fatal, Text: doc.Source + ": " + text, Cure: cure})
		}
		if doc.Kind() != configKind {
			add("config", fmt.Sprintf("kind %q is not understood", doc.Kind()), "begin it with apiVersion: "+configVersion+" and kind: "+configKind)
			continue
		}
		if v, ok := doc.Value["apiVersion"]; ok && v != configVersion {
			add("config", fmt.Sprintf("apiVersion %v is not understood", v), "it is "+configVersion)
		}
		for _, p := range checkKeys("", doc.Value) {
			add("config-key", p.text, p.cure)
		}
	}
	return found
}

// problem is a key that must not be there; own says that it is not the user's to set.
type problem struct {
	text, cure string
	own        bool
}

// checkKeys looks at a mapping and those below it.
func checkKeys(path string, m map[string]any) []problem {
	var found []problem
	for _, name := range slices.Sorted(maps.Keys(m)) {
		full := join(path, name)
		shape, ok := keys()[path][name]
		if !ok {
			cure := "see " + docsURL
			if near := nearest(path, name); near != "" {
				cure = "did you mean " + near + "?"
			}
			found = append(found, problem{text: fmt.Sprintf("k0s has no key %q (%s)", name, full), cure: cure})
			continue
		}
		if why := own[full]; why != "" {
			found = append(found, problem{text: fmt.Sprintf("key %s is not for the user: %s", full, why), cure: "leave it out", own: true})
			continue
		}
		found = append(found, checkBelow(shape, full, m[name])...)
	}
	return found
}

func checkBelow(s shape, path string, v any) []problem {
	if v == nil { // null takes the key away
		return nil
	}
	var found []problem
	items, isList := v.([]any)
	_, isBool := v.(bool)
	n, isNumber := v.(float64)
	object, isObject := v.(map[string]any)
	_, hasKeys := keys()[path]
	switch {
	case s == open:
	case s == list && !isList:
		return wants(path, "a list")
	case s == list:
		for _, item := range items {
			object, ok := item.(map[string]any)
			if !ok {
				return wants(path, "a list of mappings")
			}
			found = append(found, checkKeys(path, object)...)
		}
	case s == boolean && !isBool:
		return wants(path, "true or false")
	case s == number && (!isNumber || n != math.Trunc(n)):
		return wants(path, "a whole number")
	case hasKeys && !isObject:
		return wants(path, "a mapping")
	case hasKeys:
		return checkKeys(path, object)
	case isObject || isList:
		return wants(path, "a plain value")
	}
	return found
}

func wants(path, what string) []problem {
	return []problem{{text: fmt.Sprintf("key %s wants %s", path, what), cure: "see " + docsURL}}
}
