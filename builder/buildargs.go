package builder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"

	"github.com/clusterimage/keg/kubefile"
)

// BuildArgsError says that the file that a Kubefile's directive # build-args names is not in the build context.
type BuildArgsError struct {
	// File is its path in the context.
	File string
}

// Error names the file.
func (e *BuildArgsError) Error() string {
	return "the build arguments stand in " + e.File + ", which is not in the build context"
}

// maxBuildArgs bounds such a file.
const maxBuildArgs = 1 << 20

// vars adds the values of the file that # build-args names. Those of the request win.
func (r Request) vars(bc *buildContext, v kubefile.Vars) (kubefile.Vars, error) {
	name, pos, err := r.File.BuildArgsFile(v)
	if err != nil || name == "" {
		return v, err
	}
	if bc.root == nil {
		return v, at(r.File, pos, fmt.Errorf("%s: %w", name, ErrNoContext))
	}
	clean, err := contextPath(name)
	if err != nil {
		return v, at(r.File, pos, err)
	}
	f, err := bc.open(clean)
	if errors.Is(err, fs.ErrNotExist) {
		return v, at(r.File, pos, &BuildArgsError{File: clean})
	}
	if err != nil {
		return v, at(r.File, pos, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBuildArgs+1))
	if err == nil && len(text) > maxBuildArgs {
		err = fmt.Errorf("%s: more than %d bytes", clean, maxBuildArgs)
	}
	if err != nil {
		return v, at(r.File, pos, plain(err))
	}
	args, err := kubefile.ParseBuildArgs(clean, text)
	if err != nil {
		return v, err
	}
	maps.Copy(args, v.BuildArgs)
	v.BuildArgs = args
	return v, nil
}
