// Command keg packs a whole Kubernetes cluster into one OCI image and runs it on bare hosts.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.LookupEnv))
}
