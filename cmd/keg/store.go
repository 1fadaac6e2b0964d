package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/atomicfile"
)

// dataDir is where the store is unless --root says otherwise.
func (a *app) dataDir() (string, error) {
	switch {
	case a.root != "":
		return a.root, nil
	case a.env("KEG_ROOT") != "":
		return a.env("KEG_ROOT"), nil
	case os.Getuid() == 0:
		return "/var/lib/keg", nil
	case a.env("XDG_DATA_HOME") != "":
		return filepath.Join(a.env("XDG_DATA_HOME"), "keg"), nil
	}
	home, err := a.home()
	if err != nil {
		return "", errors.New("finding the store: none of --root, KEG_ROOT, XDG_DATA_HOME and HOME is set")
	}
	return filepath.Join(home, ".local", "share", "keg"), nil
}

// home is the user's directory: services and cron jobs may have no HOME.
func (a *app) home() (string, error) {
	if dir := a.env("HOME"); dir != "" {
		return dir, nil
	}
	u, err := user.Current()
	if err != nil || u.HomeDir == "" {
		return "", errors.New("finding the home directory: HOME is not set")
	}
	return u.HomeDir, nil
}

func (a *app) store() (*imagestore.Store, error) {
	dir, err := a.dataDir()
	if err != nil {
		return nil, err
	}
	return openStore(dir)
}

func openStore(dir string) (*imagestore.Store, error) {
	if foreign(dir) {
		return nil, fmt.Errorf("opening store %s: the directory holds something else", dir)
	}
	s, err := imagestore.Open(dir)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return nil, &hintedError{err, "a store belongs to one user; --root DIR or KEG_ROOT names another"}
	}
	return s, err
}

// foreign says whether a directory has files and no store, so that a mistyped --root is not filled.
func foreign(dir string) bool {
	ours := []string{ocispec.ImageLayoutFile, "blobs", "ingest", "cache", "clusters", "buildkit", "lock", "content.lock", "lost+found"}
	entries, err := os.ReadDir(dir)
	if err != nil || exists(filepath.Join(dir, ocispec.ImageLayoutFile)) {
		return false // imagestore knows better what is wrong
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !slices.Contains(ours, e.Name()) && !atomicfile.IsRemains(e.Name()) })
}

// find looks an image up in the store.
func (a *app) find(query string) (*imagestore.Store, imagestore.Tagged, error) {
	s, err := a.store()
	if err != nil {
		return nil, imagestore.Tagged{}, err
	}
	t, err := s.Resolve(query)
	return s, t, err
}
