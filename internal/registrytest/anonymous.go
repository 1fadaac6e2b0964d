package registrytest

import (
	"os"
	"path/filepath"
	"testing"
)

// Anonymous keeps skopeo and podman from the logins of whoever runs the tests, which may be another
// user's to read.
func Anonymous(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("REGISTRY_AUTH_FILE", file)
}
