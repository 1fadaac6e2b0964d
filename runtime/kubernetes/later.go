package kubernetes

import "github.com/clusterimage/keg/runtime"

// CheckRequest has no opinion.
func (Driver) CheckRequest(*runtime.Cluster) []runtime.Finding { return nil }
