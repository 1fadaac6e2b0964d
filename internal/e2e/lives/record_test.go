package lives

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/clusterimage/keg/runtime/runtimetest/life"
)

// record keeps what a life found, for the table of docs/runtimes.md: KEG_LIFE_RECORDS is a directory.
func record(t *testing.T, runtime string, results []life.Result) {
	t.Helper()
	dir := os.Getenv("KEG_LIFE_RECORDS")
	if dir == "" {
		return
	}
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, runtime+".json"), append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
