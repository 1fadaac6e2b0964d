// Package remote runs commands and puts files on a host: over SSH, on this machine, or nowhere at all
// (a dry run). Nobody else in keg imports an SSH library or starts a process.
package remote

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// Cmd is one command for a host. It is not a shell line: Args reach the program as they are.
type Cmd struct {
	// Args are the program and its arguments. They show up in the host's process list: no secrets.
	Args []string
	// Env is added to the fixed environment of the Runner, "K=V". It may show up like Args do.
	Env []string
	// Dir is the working directory; "" is the Runner's choice.
	Dir string
	// Stdin may be nil. Secrets go here.
	Stdin io.Reader
	// Stdout and Stderr may be nil, which discards.
	Stdout, Stderr io.Writer
}

// Runner runs commands on one host.
type Runner interface {
	// Run waits for the command to end. A command that ends with a code other than 0 is an *ExitError.
	// When ctx ends, the command is killed on the host as well as can be.
	Run(ctx context.Context, c Cmd) error
}

// ExitError says that a command ran and failed.
type ExitError struct {
	Host   string
	Args   []string
	Code   int
	Signal string // such as "KILL", if one ended it
	Stderr string // its last lines, at most 4 KiB
}

// Error names the host, the command and how it ended.
func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit code %d", e.Code)
	if e.Signal != "" {
		how = "signal " + e.Signal
	}
	text := fmt.Sprintf("%s: running %s: %s", e.Host, strings.Join(e.Args, " "), how)
	if s := strings.TrimSpace(e.Stderr); s != "" {
		text += ": " + s
	}
	return text
}
