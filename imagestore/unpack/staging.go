package unpack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/clusterimage/keg/internal/lockfile"
)

// makeStaging makes a directory beside dir, under a lock that ends with the process, and removes those
// for the same dir whose process is gone. discard removes it with all that is left in it.
func makeStaging(dir string) (staging string, discard func() error, err error) {
	parent, base := filepath.Split(filepath.Clean(dir))
	if parent == "" {
		parent = "."
	}
	prefix := "." + base + ".unpack-"
	siblings, err := os.ReadDir(parent)
	if err != nil {
		return "", nil, err
	}
	for _, s := range siblings {
		if !s.IsDir() || !strings.HasPrefix(s.Name(), prefix) {
			continue
		}
		old := filepath.Join(parent, s.Name())
		if f, err := lock(old); err == nil {
			err = errors.Join(removeAll(old), f.Close())
			if err != nil {
				return "", nil, err
			}
		}
	}
	staging, err = os.MkdirTemp(parent, prefix)
	if err != nil {
		return "", nil, err
	}
	f, err := lock(staging)
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(staging))
	}
	return staging, func() error { return errors.Join(removeAll(staging), f.Close()) }, nil
}

func lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	free, err := lockfile.TryLock(f, lockfile.Exclusive)
	if err == nil && !free {
		err = fmt.Errorf("%s is at work", dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// removeAll is os.RemoveAll, also for directories whose own mode forbids it.
func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	// WalkDir calls before it reads a directory.
	if err := fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return root.Chmod(p, 0o700)
	}); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
