package buildkit_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/clusterimage/keg/builder/buildkit"
)

func TestPrune(t *testing.T) {
	for _, tt := range []struct {
		name       string
		keep       int64
		gone, left int64 // at least, at most
	}{{"some", 20 << 20, 20 << 20, 21 << 20}, {"all", 0, 28 << 20, 64 << 10}} {
		t.Run(tt.name, func(t *testing.T) { testPrune(t, tt.keep, tt.gone, tt.left) })
	}
	if n, err := buildkit.Usage(t.Context(), filepath.Join(t.TempDir(), "none")); n != 0 || err != nil {
		t.Errorf("of no state: %d, %v", n, err)
	}
}

func testPrune(t *testing.T, keep, gone, left int64) {
	r := newRig(t, buildkit.Options{})
	dir := filepath.Join(r.store.Dir(), "buildkit")
	usage := func() int64 {
		t.Helper()
		n, err := buildkit.Usage(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, text := range []string{"FROM base:v1\nRUN dd if=/dev/urandom of=/big bs=1M count=24\n", "FROM base:v1\nRUN dd if=/dev/urandom of=/small bs=1M count=4\n"} {
		r.build(text, "", "x:v1")
	}
	if err := r.solver.Close(); err != nil {
		t.Fatal(err)
	}
	before := usage()
	if before < 28<<20 {
		t.Fatalf("the state has %d bytes", before)
	}
	prune := func(o buildkit.PruneOptions) buildkit.PruneResult {
		t.Helper()
		o.Dir = dir
		res, err := buildkit.Prune(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if n := usage(); !o.DryRun && n != res.Left {
			t.Errorf("%d bytes are left, %d were told", n, res.Left)
		}
		return res
	}
	if res := prune(buildkit.PruneOptions{DryRun: true, Keep: keep}); res.Bytes != before-keep || res.Left != keep || usage() != before {
		t.Errorf("of %d bytes, a dry run tells %+v and leaves %d", before, res, usage())
	}
	if res := prune(buildkit.PruneOptions{Keep: before}); res.Bytes != 0 {
		t.Errorf("of %d bytes, as many may stay: %+v", before, res)
	}
	if res := prune(buildkit.PruneOptions{Keep: keep}); res.Bytes < gone || res.Left > left {
		t.Errorf("of %d bytes, %d may stay: %+v", before, keep, res)
	}
	if keep > 0 { // BuildKit cannot be started again: see Options.Dir
		return
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("files: %v, %v", list, err)
	}
	r.build("FROM base:v1\nRUN echo x >/x\n", "", "x:v1")
}

// TestPruneKilled holds that pruning everything also removes what a killed build left.
func TestPruneKilled(t *testing.T) {
	dir := prepared(t)
	cmd, _, _ := begin(t, dir, "begun")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if _, err := buildkit.Prune(t.Context(), buildkit.PruneOptions{Dir: filepath.Join(dir, "store", "buildkit")}); err != nil {
		t.Error(err)
	}
	if n := sleepers(t); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	unchanged(t, dir)
}
