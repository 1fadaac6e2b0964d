package runtime_test

import (
	"slices"
	"testing"

	"github.com/clusterimage/keg/runtime"
)

func TestNearest(t *testing.T) {
	known := []string{"tls-san", "disable", "Debug", "node-label", "node-taint"}
	for wrong, want := range map[string]string{
		"tls-sans": "tls-san", "debug": "Debug", "DISABLE": "disable", "node-lint": "node-taint", "flannel": "", "": "", "disabled": "disable",
	} {
		if got := runtime.Nearest(wrong, slices.Values(known)); got != want {
			t.Errorf("%q: %q, want %q", wrong, got, want)
		}
	}
}
