package k0s

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/remote"
)

const (
	restoreDir = workDir + "/restore"
	// archivedConfig is k0s.yaml in a backup. `k0s restore` takes the address of the member from it.
	archivedConfig = "k0s.yaml"
	archivedState  = "etcd-snapshot.db"
	// maxConfig bounds what is read of a backup into memory.
	maxConfig = 4 << 20
)

// Restore makes First the only controller of a cluster with the state of a backup. A host where that was
// cut off begins again from its begin: until DoneInit, nothing there is worth keeping.
func (d Driver) Restore(c *runtime.Cluster, backup func() (io.ReadCloser, error)) []runtime.Batch {
	first := c.First()
	return []runtime.Batch{{
		checkHost(c, first),
		nameTools(first),
		checkImages(c, first),
		first.On("restore the state with k0s", func(ctx context.Context, _ writer) error {
			if first.Made() {
				return keepRunning(ctx, c, first)
			}
			if err := wipe(ctx, first); err != nil {
				return err
			}
			if err := c.Restart(ctx); err != nil {
				return err
			}
			if err := restore(ctx, first, backup); err != nil {
				return err
			}
			if _, err := write(ctx, c, first, true); err != nil {
				return err
			}
			return start(ctx, first, true)
		}),
		first.On("wait for the API", func(ctx context.Context, _ writer) error {
			if err := waitController(ctx, c, first); err != nil {
				return err
			}
			if first.Made() {
				return nil
			}
			if err := forgetOthers(ctx, c); err != nil {
				return err
			}
			if _, err := invalidateAll(ctx, c); err != nil { // whoever has one of then must not join now
				return err
			}
			return first.Mark(ctx, runtime.DoneInit)
		}),
	}}
}

// restoreScript reads the archive from stdin: nothing of it lies in a file of its own.
const restoreScript = `umask 077; rm -rf "$1" && mkdir -p "$1" && TMPDIR="$1" ` + program + ` restore --config-out "$1/k0s.yaml" - >&2; code=$?; rm -rf "$1"; exit $code`

// restore gives the backup to k0s, with First's address in the place of the one that the state came from.
func restore(ctx context.Context, n *runtime.Node, backup func() (io.ReadCloser, error)) error {
	r, err := backup()
	if err != nil {
		return err
	}
	defer r.Close()
	out, in := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := repack(in, r, n.IP)
		in.CloseWithError(err)
		packed <- err
	}()
	err = n.Runner.Run(ctx, remote.Cmd{Args: []string{"/bin/sh", "-c", restoreScript, "sh", restoreDir}, Stdin: out})
	out.CloseWithError(io.ErrClosedPipe)
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		err = packErr
	}
	if err != nil {
		return fmt.Errorf("restoring the state with k0s: %w", err)
	}
	return nil
}

// repack makes an archive for `k0s restore` out of what Backup wrote.
func repack(w io.Writer, r io.Reader, address string) error {
	zip := gzip.NewWriter(w)
	in, out := tar.NewReader(r), tar.NewWriter(zip)
	found := map[string]bool{}
	for {
		hdr, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the backup: %w", err)
		}
		name := strings.TrimPrefix(hdr.Name, "./")
		found[name] = true
		var content io.Reader = in
		if name == archivedConfig {
			data, err := io.ReadAll(io.LimitReader(in, maxConfig))
			if err == nil {
				data, err = movedTo(data, address)
			}
			if err != nil {
				return fmt.Errorf("reading the backup: %w", err)
			}
			hdr.Size, content = int64(len(data)), strings.NewReader(string(data))
		}
		if err := out.WriteHeader(hdr); err != nil {
			return err
		}
		if _, err := io.Copy(out, content); err != nil { //nolint:gosec // it is as large as the cluster's state
			return err
		}
	}
	if !found[archivedConfig] || !found[archivedState] {
		return errors.New("reading the backup: it has no snapshot of k0s, or lacks its configuration")
	}
	return errors.Join(out.Close(), zip.Close())
}

// movedTo is a configuration for a controller of another address.
func movedTo(data []byte, address string) ([]byte, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", archivedConfig, err)
	}
	return yaml.Marshal(runtime.Merge(doc, map[string]any{"spec": map[string]any{
		"api":     map[string]any{"address": address},
		"storage": map[string]any{"etcd": map[string]any{"peerAddress": address}},
	}}))
}

// forgetOthers deletes what the state knows of controllers that are no more: those that are here join anew.
func forgetOthers(ctx context.Context, c *runtime.Cluster) error {
	out, err := kubectl(ctx, c, "get", etcdMembers, "-o", "json")
	if err != nil {
		return err
	}
	var list struct {
		Items []struct{ Metadata struct{ Name string } }
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return fmt.Errorf("reading the API's list of EtcdMembers: %w", err)
	}
	for _, item := range list.Items {
		if strings.EqualFold(item.Metadata.Name, c.First().Name) {
			continue
		}
		if err := forgetController(ctx, c, item.Metadata.Name); err != nil {
			return err
		}
	}
	return nil
}
