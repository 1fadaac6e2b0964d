package runtime

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/clusterimage/keg/runtime/remote"
)

// Read reads a file on the host; nil if it is not there, or empty.
func (n *Node) Read(ctx context.Context, path string) ([]byte, error) {
	return readFile(ctx, n.Runner, path)
}

// SameFile says whether two hosts have the same in a file, and have it at all.
func (n *Node) SameFile(ctx context.Context, other *Node, path string) (bool, error) {
	mine, err := n.Read(ctx, path)
	if err != nil {
		return false, err
	}
	theirs, err := other.Read(ctx, path)
	return err == nil && mine != nil && bytes.Equal(mine, theirs), err
}

// Existing says which of the paths are on the host.
func (n *Node) Existing(ctx context.Context, paths ...string) (map[string]bool, error) {
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

// Sums are the checksums (SHA-256, hex) of those of the paths that are files on the host.
func (n *Node) Sums(ctx context.Context, paths ...string) (map[string]string, error) {
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

// Remove removes what a runtime made, which was claimed, or what is below node.Dir: nobody notes it.
func (n *Node) Remove(ctx context.Context, paths ...string) error {
	return n.Runner.Run(ctx, remote.Cmd{Args: append([]string{"rm", "-rf", "--"}, paths...)})
}

// PutUnread writes files that a program reads when it starts, where they differ, and before that the file
// mark, which says that it has not read them: who started it removes that. unread says whether there is anything
// that the program at work does not know, also from a run that was cut off.
func (n *Node) PutUnread(ctx context.Context, mark File, files []File) (unread bool, err error) {
	paths := []string{mark.Path}
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	have, err := n.Sums(ctx, paths...)
	if err != nil {
		return false, err
	}
	var differ []File
	for _, f := range files {
		if sum := sha256.Sum256(f.Data); have[f.Path] != hex.EncodeToString(sum[:]) {
			differ = append(differ, f)
		}
	}
	unread = have[mark.Path] != ""
	if len(differ) == 0 {
		return unread, nil
	}
	if !unread {
		differ = append([]File{mark}, differ...)
	}
	_, err = n.Host.Put(ctx, differ)
	return true, err
}
