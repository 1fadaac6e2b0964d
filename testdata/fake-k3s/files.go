package main

import (
	"os"
	"path/filepath"

	"github.com/clusterimage/keg/internal/atomicfile"
)

// hostFile is where a file outside the data directory is. Tests of the light mode move those.
func hostFile(path string) string { return filepath.Join(os.Getenv("FAKE_K3S_ROOT"), path) }

func writeSecret(file, text string) error { return write(file, text, 0o600) }

func write(file, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(file, []byte(text), mode)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
