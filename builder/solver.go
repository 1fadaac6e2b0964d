package builder

import (
	"context"
	"errors"
	"fmt"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/internal/progress"
)

// ErrSolver says that a Kubefile has an instruction that packing files cannot do, and that this build has
// nothing that could.
var ErrSolver = errors.New("needs a BuildKit solver, which this build does not have")

// Solver executes what packing files cannot do. builder/buildkit has those there are.
type Solver interface {
	// Execute executes instructions on top of an image and returns what each of them changed. An error of a
	// command that ran is an *ExecError, one of an instruction at least an *InstructionError.
	Execute(ctx context.Context, e Execution) ([]Change, error)
	// Available says early, and without starting anything, what is missing for Execute.
	Available(ctx context.Context) error
	// Close ends it, and whatever it has running.
	Close() error
}

// Execution is a piece of a stage for a Solver: instructions that follow each other, as a Dockerfile.
type Execution struct {
	// Name is what the Kubefile is called, Dockerfile its piece: see kubefile.Excerpt. Its FROM is FromName.
	Name       string
	Dockerfile []byte
	// Base is the manifest of the image that the instructions change.
	Base ocispec.Descriptor
	// Images are manifests of the images and stages that instructions name, by that name.
	Images map[string]ocispec.Descriptor
	// Layout is the directory of an OCI layout that has all of these, whole.
	Layout string
	// Contexts are directories that instructions name (keg build --build-context), by that name.
	Contexts map[string]string
	// Context is the directory that a bind mount without from shows, Ignore the text of its ignore file;
	// "" is none.
	Context, Ignore string
	// BuildArgs are the values of the ARGs in Dockerfile.
	BuildArgs map[string]string
	// Platform is such as "linux/arm64".
	Platform string
	// Runs says that a program of the image is started, which has to be one for Platform.
	Runs bool
	// NoCache executes although nothing changed.
	NoCache bool
	// Network is "none" or "host" for every RUN that says nothing itself; "" is the solver's own.
	Network string
	// Scratch makes a file without a name for a Change.
	Scratch func() (*os.File, error)
	// Progress is told what is done; the events are parts of the one with the ID Parent.
	Progress progress.Func
	Parent   string
	// mounted is a digest of the directories that RUNs mount, where that is known.
	mounted string
}

// FromName is the base in the Dockerfile of an Execution.
const FromName = "keg-rootfs"

// Change is what one instruction changed.
type Change struct {
	// Tar is the layer, not compressed, from its beginning on. The caller closes it.
	Tar *os.File
	// Size is its length.
	Size int64
}

// InstructionError is an error of the instruction that stands in a line of the Kubefile.
type InstructionError struct {
	Line int
	Err  error
}

// Error implements error.
func (e *InstructionError) Error() string { return e.Err.Error() }

// Unwrap returns the error without its place.
func (e *InstructionError) Unwrap() error { return e.Err }

// ExecError says that a command of a RUN failed.
type ExecError struct {
	// ExitCode is the command's.
	ExitCode int
	// Output is the end of what it printed.
	Output string
}

// Error implements error.
func (e *ExecError) Error() string {
	return fmt.Sprintf("the command ended with exit code %d", e.ExitCode)
}
