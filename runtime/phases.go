package runtime

// RunPhases are what `keg run` does, in order.
func RunPhases() []Phase {
	return []Phase{
		&phase{title: "check request", limit: 1, batches: checkRequest},
		&phase{title: "connect", limit: 30, batches: connect},
		&phase{title: "send keg-node", limit: 10, batches: sendAgent},
		&phase{title: "lock", limit: 30, batches: lock},
		&phase{title: "gather facts", limit: 30, batches: gatherFacts},
		&phase{title: "validate across hosts", limit: 1, batches: validate},
		&phase{title: "preflight", limit: 30, batches: preflight},
		&phase{title: "claim", limit: 30, batches: claim},
		&phase{title: "distribute", limit: uploads, batches: distribute},
		&phase{title: "unpack", limit: 10, batches: unpack},
		&phase{title: "configure hosts", limit: 10, batches: configure},
		&phase{title: "registry", limit: 10, batches: registry},
		&phase{title: "make the control plane", limit: 1, batches: initControlPlane},
		&phase{title: "join control planes", limit: 1, batches: joinMasters},
		&phase{title: "add names to the API's certificate", limit: 1, batches: applyNames, skip: noNames},
		&phase{title: "keep settings", limit: 10, batches: keepSettings},
		&phase{title: "virtual address", limit: 10, batches: virtualAddress, skip: noVIP},
		&phase{title: "join workers", limit: 10, batches: joinWorkers, skip: noWorkers},
		&phase{title: "network and storage", limit: 10, batches: network},
		&phase{title: "wait for nodes", limit: 10, batches: readyAdded},
		&phase{title: "apps", limit: 1, batches: apps},
		&phase{title: "kubeconfig", limit: 1, batches: kubeconfig, skip: noKubeconfig},
		&phase{title: "record", limit: 1, batches: recordEnd},
	}
}

// ResetPhases are what `keg reset` does, in order. A host that fails is left out of what follows.
func ResetPhases() []Phase {
	return []Phase{
		&phase{title: "connect", limit: 30, batches: connect, tolerant: true},
		&phase{title: "send keg-node", limit: 10, batches: sendAgent, tolerant: true},
		&phase{title: "lock", limit: 30, batches: lock, tolerant: true},
		&phase{title: "gather facts", limit: 30, batches: gatherFacts, tolerant: true},
		&phase{title: "check ownership", limit: 30, batches: ownership, tolerant: true},
		&phase{title: "clean", limit: 10, batches: clean, tolerant: true},
		&phase{title: "take the runtime off", limit: 10, batches: resetRuntime, tolerant: true},
		&phase{title: "clean what scripts made", limit: 10, batches: afterRuntime, tolerant: true},
		&phase{title: "undo", limit: 10, batches: undo, tolerant: true},
		&phase{title: "forget", limit: 10, batches: forget, tolerant: true},
	}
}

func noWorkers(c *Cluster) bool    { return len(c.ByRole(Worker)) == 0 }
func noKubeconfig(c *Cluster) bool { return c.Kubeconfig == "" }
