package k0s

import (
	"fmt"

	"github.com/clusterimage/keg/runtime"
)

const (
	certsDir       = dropInDir + "/certs.d"
	registryCAFile = certsDir + "/keg-ca.crt"
	dropInFile     = dropInDir + "/keg-registry.toml"
)

// Mirror makes containerd ask the cluster's registry for every image, and nobody else. It reads these
// files for each pull.
func (Driver) Mirror(r runtime.Registry) []runtime.File {
	return []runtime.File{
		{Path: registryCAFile, Mode: 0o644, Data: r.CA},
		{Path: certsDir + "/_default/hosts.toml", Mode: 0o644, Data: fmt.Appendf(nil, `server = %q

[host.%q]
  capabilities = ["pull", "resolve"]
  ca = %q
`, r.URL(), r.URL(), registryCAFile)},
	}
}

// containerd2 is the minor version of Kubernetes from which on k0s has containerd 2, which has other names
// for the same.
const containerd2 = 36

// dropIn tells the containerd of k0s where the files of Mirror are.
func dropIn(version string) runtime.File {
	head, table := "version = 3", `[plugins."io.containerd.cri.v1.images".registry]`
	if minor := minorOf(version); minor > 0 && minor < containerd2 {
		head, table = "version = 2", `[plugins."io.containerd.grpc.v1.cri".registry]`
	}
	return runtime.File{Path: dropInFile, Mode: 0o644, Data: fmt.Appendf(nil, "# Written by keg.\n%s\n\n%s\n  config_path = %q\n", head, table, certsDir)}
}
