package life

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// apiNode is what a life looks at of a node.
type apiNode struct {
	ready, cordoned bool
	version         string
}

func parseNodes(text string) (map[string]apiNode, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ Unschedulable bool }
			Status   struct {
				Conditions []struct{ Type, Status string }
				NodeInfo   struct{ KubeletVersion string }
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("reading nodes: %w: %.200s", err, text)
	}
	nodes := map[string]apiNode{}
	for _, item := range list.Items {
		n := apiNode{cordoned: item.Spec.Unschedulable, version: item.Status.NodeInfo.KubeletVersion}
		for _, c := range item.Status.Conditions {
			n.ready = n.ready || c.Type == "Ready" && c.Status == "True"
		}
		nodes[item.Metadata.Name] = n
	}
	return nodes, nil
}

// watch reads progress to its end, and calls reached when the phase begins. What went wrong is returned.
func watch(stderr io.Reader, phase string, reached func()) (text string, seen bool) {
	d := json.NewDecoder(stderr)
	for {
		var e struct{ ID, Name, Error string }
		if err := d.Decode(&e); err != nil {
			rest, _ := io.ReadAll(io.MultiReader(d.Buffered(), stderr))
			return text + string(rest), seen
		}
		if e.Error != "" {
			text += e.Name + ": " + e.Error + "\n"
		}
		if !seen && strings.HasPrefix(e.ID, phase) {
			seen = true
			reached()
		}
	}
}

func decodeBase64(s string) ([]byte, error) {
	return base64.StdEncoding.DecodeString(strings.TrimSpace(s))
}
