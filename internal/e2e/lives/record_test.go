package lives

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/clusterimage/keg/runtime/runtimetest/life"
)

// Record is what is kept of a life.
type Record struct {
	Runtime string        `json:"runtime"`
	Against string        `json:"against"`
	Hosts   string        `json:"hosts"`
	Results []life.Result `json:"results"`
}

// record keeps what a life found, for the table of docs/runtimes.md: KEG_LIFE_RECORDS is a directory.
func record(t *testing.T, s life.Subject, results []life.Result) {
	t.Helper()
	dir := os.Getenv("KEG_LIFE_RECORDS")
	if dir == "" {
		return
	}
	r := Record{Runtime: s.Runtime, Against: s.Against, Hosts: "3+2", Results: results}
	if os.Getenv("KEG_E2E_SMALL") != "" {
		r.Hosts = "1+1"
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, s.Runtime+".json"), append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
