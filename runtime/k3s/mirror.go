package k3s

import (
	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/runtime"
)

const (
	registriesFile = configDir + "/registries.yaml"
	registryCAFile = configDir + "/registry-ca.crt"
)

// Mirror makes containerd ask the cluster's registry for every image. That nobody else is asked says
// disable-default-registry-endpoint in config.yaml. k3s reads both when it starts.
func (Driver) Mirror(r runtime.Registry) []runtime.File {
	text, err := yaml.Marshal(map[string]any{
		"mirrors": map[string]any{"*": map[string]any{"endpoint": []string{r.URL()}}},
		"configs": map[string]any{r.Endpoint(): map[string]any{"tls": map[string]any{"ca_file": registryCAFile}}},
	})
	if err != nil { // there is nothing in it that YAML could not say
		text = nil
	}
	return []runtime.File{
		{Path: registryCAFile, Mode: 0o644, Data: r.CA},
		{Path: registriesFile, Mode: 0o600, Data: text},
	}
}
