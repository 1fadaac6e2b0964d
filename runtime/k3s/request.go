package k3s

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterimage/keg/runtime"
)

// Kinds of the user's documents: a kind is optional, and keg's own.
const (
	kindServer = "server"
	kindAgent  = "agent"
)

// CheckRequest finds keys that k3s would skip with a warning, values of the wrong kind, and keys that
// are keg's alone.
func (Driver) CheckRequest(c *runtime.Cluster) []runtime.Finding {
	var found []runtime.Finding
	for _, doc := range c.Options.Config {
		add := func(id, text, cure string) {
			found = append(found, runtime.Finding{ID: id, Severity: runtime.Fatal, Text: doc.Source + ": " + text, Cure: cure})
		}
		kind := doc.Kind()
		if _, ok := doc.Value["kind"]; ok && kind != kindServer && kind != kindAgent {
			add("config", fmt.Sprintf("kind %v is not understood", doc.Value["kind"]), "it is server or agent; without a kind, a document is for servers, and what agents know of it for agents")
		}
		for _, name := range slices.Sorted(maps.Keys(doc.Value)) {
			if name == "kind" {
				continue
			}
			plain := strings.TrimSuffix(name, "+")
			k, ok := keys[plain]
			switch {
			case !ok:
				cure := "see https://docs.k3s.io/cli/server and https://docs.k3s.io/cli/agent"
				if near := nearest(plain); near != "" {
					cure = "did you mean " + near + "?"
				}
				add("config-key", fmt.Sprintf("k3s has no key %q", name), cure)
			case k.own != "":
				add("config-key", fmt.Sprintf("key %q is not for the user: %s", name, k.own), "leave it out")
			case kind == kindAgent && !k.agent:
				add("config-key", fmt.Sprintf("agents have no key %q, servers do", name), "put it in a document of kind server, or of none")
			default:
				if err := checkValue(k.kind, doc.Value[name]); err != nil {
					add("config-value", fmt.Sprintf("key %q: %v", name, err), "see https://docs.k3s.io/cli/server")
				}
			}
		}
	}
	return found
}

// checkValue says whether k3s can read a value. null takes the key away.
func checkValue(kind kind, v any) error {
	switch v := v.(type) {
	case nil:
		return nil
	case map[string]any:
		return fmt.Errorf("it is a mapping, and no key of k3s takes one")
	case []any:
		if kind != list {
			return fmt.Errorf("it is a list, and the key takes one value")
		}
		for _, item := range v {
			switch item.(type) {
			case nil, map[string]any, []any:
				return fmt.Errorf("%v is no plain value", item)
			}
		}
		return nil
	}
	word := plainText(v)
	switch kind {
	case boolean:
		if _, err := strconv.ParseBool(word); err != nil {
			return fmt.Errorf("%q is neither true nor false", word)
		}
	case number:
		if _, err := strconv.Atoi(word); err != nil {
			return fmt.Errorf("%q is no whole number", word)
		}
	case text, list:
	}
	return nil
}

func plainText(v any) string {
	if f, ok := v.(float64); ok {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}
