package k0s

import (
	"bytes"
	"context"
	"strings"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

// existing says which of the paths are on the host.
func existing(ctx context.Context, n *runtime.Node, paths ...string) (map[string]bool, error) {
	out, err := remote.Output(ctx, n.Runner, append([]string{"/bin/sh", "-c", `for p; do [ ! -e "$p" ] || echo "$p"; done`, "sh"}, paths...)...)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for p := range strings.FieldsSeq(string(out)) {
		found[p] = true
	}
	return found, nil
}

// read reads a file on a host; nil if it is not there.
func read(ctx context.Context, n *runtime.Node, path string) ([]byte, error) {
	var out bytes.Buffer
	err := n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", `[ ! -e "$1" ] || cat "$1"`, "sh", path}, Stdout: &out})
	if err != nil || out.Len() == 0 {
		return nil, err
	}
	return out.Bytes(), nil
}

// sums are the checksums (SHA-256, hex) of those of the paths that are files on the host.
func sums(ctx context.Context, n *runtime.Node, paths ...string) (map[string]string, error) {
	out, err := remote.Output(ctx, n.Runner, append([]string{"/bin/sh", "-c", `for p; do [ ! -f "$p" ] || sha256sum "$p" || exit; done`, "sh"}, paths...)...)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if sum, path, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			found[path] = sum
		}
	}
	return found, nil
}

// put writes files that k0s reads when it starts, and notes first that it has not read them. stale says
// whether there is anything that the k0s at work does not know, also from a run that was cut off.
func put(ctx context.Context, n *runtime.Node, files []runtime.File) (stale bool, err error) {
	paths := []string{staleFile}
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	have, err := sums(ctx, n, paths...)
	if err != nil {
		return false, err
	}
	var differ []runtime.File
	for _, f := range files {
		if have[f.Path] != sum(f.Data) {
			differ = append(differ, f)
		}
	}
	stale = have[staleFile] != ""
	if len(differ) == 0 {
		return stale, nil
	}
	if !stale {
		differ = append([]runtime.File{staleMark}, differ...)
	}
	_, err = n.Host.Put(ctx, differ)
	return true, err
}

var staleMark = runtime.File{Path: staleFile, Mode: 0o600, Data: []byte("restart k0s\n")}

// fresh notes that k0s has read what was written.
func fresh(ctx context.Context, n *runtime.Node) error { return remove(ctx, n, staleFile) }

func remove(ctx context.Context, n *runtime.Node, paths ...string) error {
	return n.Runner.Run(ctx, remote.Cmd{Args: append([]string{"rm", "-rf", "--"}, paths...)})
}
