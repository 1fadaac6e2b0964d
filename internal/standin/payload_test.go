package standin_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterimage/keg/internal/standin"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPayload(t *testing.T) {
	dir := t.TempDir()
	exe := write(t, dir, "exe", "the executable")
	if _, err := standin.OpenPayload(exe); !errors.Is(err, standin.ErrNoPayload) {
		t.Fatalf("a file without payload: %v", err)
	}
	programs := map[string]string{"etcd": write(t, dir, "a", "etcd's bytes"), "kubelet": write(t, dir, "b", strings.Repeat("kubelet ", 1<<16))}
	file := filepath.Join(dir, "full")
	if err := standin.AppendPayload(t.Context(), file, exe, programs); err != nil {
		t.Fatal(err)
	}
	payload, err := standin.OpenPayload(file)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is there
		bin, err := payload.Unpack(t.Context(), filepath.Join(dir, "data"))
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(dir, "data", payload.Hash, "bin"); bin != want {
			t.Errorf("unpacked to %s, want %s", bin, want)
		}
		data, err := os.ReadFile(filepath.Join(bin, "etcd"))
		if err != nil || string(data) != "etcd's bytes" {
			t.Errorf("etcd: %q, %v", data, err)
		}
	}

	// A damaged payload leaves nothing.
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len("the executable")+20] ^= 1
	damaged, err := standin.OpenPayload(write(t, dir, "damaged", string(data)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := damaged.Unpack(t.Context(), filepath.Join(dir, "other")); err == nil {
		t.Error("a damaged payload was unpacked")
	}
	left, err := filepath.Glob(filepath.Join(dir, "other", "[0-9a-f]*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
