// Package basefs is the contract of the tree inside a base image: its Metadata, its templates and what
// else keg knows by name. It reads trees through fs.FS and never writes.
package basefs

// Metadata is the file Metadata at the root of the tree, JSON.
type Metadata struct {
	// Version is that of the Kubernetes in the tree, such as "v1.37.2".
	Version string `json:"version"`
	// Arch is a GOARCH.
	Arch string `json:"arch"`
	// Variant is that of an OCI platform, such as "v7"; mostly "".
	Variant string `json:"variant"`
	// KubeVersion is sealer's second name for Version; Version wins where both stand.
	KubeVersion string `json:"kubeVersion"`
	// Runtime is kubernetes, k3s or k0s.
	Runtime string `json:"ClusterRuntime"`
	// NydusFlag is sealer's; read and not used.
	NydusFlag bool `json:"NydusFlag,omitempty"`
}
