package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/clusterimage/keg/builder/contextdir"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/progress"
)

// fetched are build contexts that are no directories of the user's, as directories that go when the build ends.
type fetched struct {
	// dir is the build context, "" where there is none.
	dir  string
	made []string
}

func (f *fetched) remove() error {
	var err error
	for _, dir := range f.made {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// fetchContexts makes directories of PATH and of --build-context where they are something else, and lets flags name
// these. The caller removes them, also after an error.
func (a *app) fetchContexts(ctx context.Context, path string, flags *buildFlags, emit progress.Func) (*fetched, error) {
	f := &fetched{dir: path}
	named := append([]string(nil), flags.solver.contexts...)
	for i, flag := range named {
		k, v, ok := strings.Cut(flag, "=")
		if !ok || !contextdir.IsGit(v) {
			continue
		}
		dir, err := a.clone(ctx, f, v, emit)
		if err != nil {
			return f, err
		}
		named[i] = k + "=" + dir
	}
	flags.solver.contexts = named
	var err error
	switch {
	case path == "-" && flags.file == "-":
		return f, usageErrorf("the build context and the Kubefile cannot both be read from standard input")
	case path == "-":
		err = a.readContext(ctx, f, flags)
	case contextdir.IsGit(path):
		f.dir, err = a.clone(ctx, f, path, emit)
	case strings.Contains(path, "://"):
		return f, usageErrorf("%q: the build context is a directory, a git repository (https://HOST/PATH.git, git@HOST:PATH) or, as -, a tar archive on standard input; curl FILE | keg build - builds from one elsewhere", path)
	default:
		return f, nil
	}
	if err == nil && f.dir != "" {
		flags.fetched = f.dir
		if flags.file != "" && flags.file != "-" {
			flags.file, err = inContext(f.dir, flags.file)
		}
	}
	return f, err
}

// inContext is a file of a context, which -f names: not one elsewhere on this machine, be it by a link.
func inContext(dir, file string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if _, err := root.Stat(filepath.Clean(file)); err != nil {
		return "", fmt.Errorf("opening Kubefile: the build context has no %s", file)
	}
	return filepath.Join(dir, file), nil
}

func (a *app) clone(ctx context.Context, f *fetched, repository string, emit progress.Func) (string, error) {
	if a.offline {
		return "", fmt.Errorf("reading build context %s: %w", repository, transfer.ErrOffline)
	}
	dir, err := f.temporary()
	if err != nil {
		return "", err
	}
	what := "fetching " + repository
	emit.Emit(progress.Event{ID: what, Name: what})
	at, commit, err := contextdir.Git(ctx, repository, dir)
	if err == nil {
		emit.Emit(progress.Event{ID: what, Name: what, Log: []byte("commit " + commit + "\n")})
	}
	emit.Emit(progress.Event{ID: what, Name: what, Err: err, End: true})
	return at, err
}

// readContext reads standard input: a tar archive is the context, a text the Kubefile of a build without one.
func (a *app) readContext(ctx context.Context, f *fetched, flags *buildFlags) error {
	archive, r := contextdir.IsTar(a.input(ctx))
	if !archive {
		if flags.file != "" {
			return usageErrorf("-f %s: what standard input has is no tar archive, so that there is no build context", flags.file)
		}
		f.dir, flags.file, a.stdin = "", "-", r
		return nil
	}
	dir, err := f.temporary()
	if err != nil {
		return err
	}
	f.dir = dir
	if err := contextdir.Tar(ctx, r, dir); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

func (f *fetched) temporary() (string, error) {
	dir, err := os.MkdirTemp("", "keg-context-")
	if err != nil {
		return "", fmt.Errorf("making a directory for the build context: %w", err)
	}
	f.made = append(f.made, dir)
	return dir, nil
}
