// Command pack makes a stand-in with its programs in one file:
//
//	go run ./internal/standin/pack [-before] -programs DIR -o FILE EXECUTABLE
//
// DIR is what testdata/e2e/binaries prints. With -before the programs of Kubernetes are those of the minor
// version before.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"

	"github.com/clusterimage/keg/internal/standin"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(ctx context.Context) error {
	before := flag.Bool("before", false, "the minor version before")
	programs := flag.String("programs", "", "directory of the e2e set")
	runc := flag.String("runc", "", "runc; default: the one in PATH")
	out := flag.String("o", "", "file to write")
	flag.Parse()
	if flag.NArg() != 1 || *out == "" || *programs == "" {
		return fmt.Errorf("usage: pack [-before] -programs DIR -o FILE EXECUTABLE")
	}
	if *runc == "" {
		path, err := exec.LookPath("runc")
		if err != nil {
			return fmt.Errorf("finding Debian's runc: %w", err)
		}
		*runc = path
	}
	set, err := standin.Programs(*programs, *before, *runc)
	if err != nil {
		return err
	}
	return standin.AppendPayload(ctx, *out, flag.Arg(0), set)
}
