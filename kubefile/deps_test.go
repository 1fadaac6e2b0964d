package kubefile

import (
	"os/exec"
	"strings"
	"testing"
)

// TestDependencies holds DESIGN's rule that kubefile imports nothing that dials or runs.
func TestDependencies(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command here")
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	for _, path := range strings.Fields(string(out)) {
		for _, banned := range []string{
			"google.golang.org/grpc", "net/http", "crypto/tls", "os/exec", "golang.org/x/crypto/ssh",
			"github.com/moby/buildkit/client", "github.com/moby/buildkit/solver", "github.com/moby/buildkit/worker",
			"github.com/containerd/containerd",
		} {
			if path == banned || strings.HasPrefix(path, banned+"/") {
				t.Errorf("kubefile depends on %s", path)
			}
		}
	}
}
