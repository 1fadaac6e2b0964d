package kubernetes

import (
	"bytes"
	"fmt"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/runtime"
)

// The kinds of kubeadm's own documents, and of those of kubelet and kube-proxy that it reads.
const (
	kindInit    = "InitConfiguration"
	kindCluster = "ClusterConfiguration"
	kindJoin    = "JoinConfiguration"
	kindUpgrade = "UpgradeConfiguration"
	kindKubelet = "KubeletConfiguration"
	kindProxy   = "KubeProxyConfiguration"
)

// documents are a kubeadm configuration: a YAML stream, a mapping each.
type documents []map[string]any

func parseDocuments(config []byte) (documents, error) {
	var list documents
	for _, part := range bytes.Split(append([]byte("\n"), config...), []byte("\n---")) {
		if len(bytes.TrimSpace(part)) == 0 {
			continue
		}
		var doc map[string]any
		if err := yaml.Unmarshal(part, &doc); err != nil {
			return nil, fmt.Errorf("reading kubeadm's configuration: %w", err)
		}
		if doc != nil { // not comments only
			list = append(list, doc)
		}
	}
	return list, nil
}

// encode writes the stream.
func (d documents) encode() ([]byte, error) {
	var out [][]byte
	for _, doc := range d {
		text, err := yaml.Marshal(doc)
		if err != nil {
			return nil, fmt.Errorf("writing kubeadm's configuration: %w", err)
		}
		out = append(out, text)
	}
	return bytes.Join(out, []byte("---\n")), nil
}

// of is the document of a kind. There must be one.
func (d documents) of(kind string) (map[string]any, error) {
	i := slices.IndexFunc(d, func(doc map[string]any) bool { return doc["kind"] == kind })
	if i < 0 {
		return nil, fmt.Errorf("reading kubeadm's configuration: it has no %s", kind)
	}
	return d[i], nil
}

// over lays the user's documents of some kinds over those of the tree, which may have none of that kind.
func (d documents) over(user []runtime.Document, kinds ...string) documents {
	out := slices.Clone(d)
	for _, u := range user {
		if !slices.Contains(kinds, u.Kind()) {
			continue
		}
		if i := slices.IndexFunc(out, func(doc map[string]any) bool { return doc["kind"] == u.Kind() }); i >= 0 {
			out[i] = runtime.Merge(out[i], u.Value)
		} else {
			out = append(out, runtime.Merge(nil, u.Value))
		}
	}
	return out
}

// within gives the mapping below a key, made if it is not there.
func within(doc map[string]any, key string) map[string]any {
	m, ok := doc[key].(map[string]any)
	if !ok {
		m = map[string]any{}
		doc[key] = m
	}
	return m
}

// initConfig is the rendered etc/kubeadm.yaml with the user's word over it, the token, and kubeadm's checks
// that are to be ignored besides.
func initConfig(rendered []byte, user []runtime.Document, t token, ignore ...string) ([]byte, error) {
	docs, err := parseDocuments(rendered)
	if err != nil {
		return nil, err
	}
	docs = docs.over(user, kindInit, kindCluster, kindKubelet, kindProxy)
	doc, err := docs.of(kindInit)
	if err != nil {
		return nil, err
	}
	doc["bootstrapTokens"] = []any{bootstrapToken(t)}
	if len(ignore) > 0 {
		registration := within(doc, "nodeRegistration")
		list, _ := registration["ignorePreflightErrors"].([]any)
		for _, name := range ignore {
			list = append(list, name)
		}
		registration["ignorePreflightErrors"] = list
	}
	return docs.encode()
}

// joinConfig is the rendered etc/kubeadm-join.yaml with the user's word over it, where the cluster is and
// how to know it.
func joinConfig(rendered []byte, user []runtime.Document, endpoint string, t token, hash string) ([]byte, error) {
	docs, err := parseDocuments(rendered)
	if err != nil {
		return nil, err
	}
	docs = docs.over(user, kindJoin)
	doc, err := docs.of(kindJoin)
	if err != nil {
		return nil, err
	}
	doc["discovery"] = map[string]any{
		"bootstrapToken": map[string]any{
			"token": string(t), "apiServerEndpoint": endpoint, "caCertHashes": []any{hash},
		},
	}
	return docs.encode()
}

// upgradeConfig is the rendered etc/kubeadm-upgrade.yaml with the user's word over it.
func upgradeConfig(rendered []byte, user []runtime.Document) ([]byte, error) {
	docs, err := parseDocuments(rendered)
	if err != nil {
		return nil, err
	}
	if _, err := docs.of(kindUpgrade); err != nil {
		return nil, err
	}
	return docs.over(user, kindUpgrade).encode()
}
