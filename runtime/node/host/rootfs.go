package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/unpack"
	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/runtime/node"
)

// rootfsOf is the file that says of which manifest Rootfs is. It is missing while Rootfs is exchanged.
const rootfsOf = node.Dir + "/rootfs.digest"

// Unpack makes Rootfs out of the layers of an image in the store.
func (h *Host) Unpack(ctx context.Context, req node.UnpackRequest) (node.UnpackResponse, error) {
	if err := validDigest(req.Manifest.Digest); err != nil {
		return node.UnpackResponse{}, err
	}
	release, err := h.alone(ctx)
	if err != nil {
		return node.UnpackResponse{}, err
	}
	defer release()
	if h.text(rootfsOf) == req.Manifest.Digest.String() {
		return node.UnpackResponse{}, nil
	}
	layers, size, err := h.layers(req.Manifest.Digest)
	if err != nil {
		return node.UnpackResponse{}, fmt.Errorf("unpacking %s: %w", req.Manifest.Digest, err)
	}
	dir, next, old := h.path(node.Rootfs), h.path(node.Rootfs+".new"), node.Rootfs+".old"
	for _, d := range []string{node.Rootfs + ".new", old} {
		if err := h.clear(d); err != nil {
			return node.UnpackResponse{}, err
		}
	}
	h.step("unpack")
	err = unpack.Rootfs(ctx, layers, next, unpack.Options{Owner: os.Geteuid() == 0})
	if err != nil {
		return node.UnpackResponse{}, fmt.Errorf("unpacking %s: %w", req.Manifest.Digest, h.unpackError(err, size))
	}
	if err := os.Remove(h.path(rootfsOf)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return node.UnpackResponse{}, fmt.Errorf("exchanging rootfs: %w", err)
	}
	// Hooks of the old rootfs may have mounted things in it.
	if err := h.unmountBelow(node.Rootfs, nil); err != nil {
		return node.UnpackResponse{}, err
	}
	if err := os.Rename(dir, h.path(old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return node.UnpackResponse{}, fmt.Errorf("exchanging rootfs: %w", err)
	}
	h.step("exchange")
	if err := os.Rename(next, dir); err != nil {
		return node.UnpackResponse{}, fmt.Errorf("exchanging rootfs: %w", err)
	}
	if err := atomicfile.Write(h.path(rootfsOf), []byte(req.Manifest.Digest), 0o600); err != nil {
		return node.UnpackResponse{}, h.diskFull(err, node.Dir, 0)
	}
	return node.UnpackResponse{Changed: true}, h.clear(old)
}

// clear removes a directory of keg-node's own.
func (h *Host) clear(dir string) error {
	if err := h.unmountBelow(dir, nil); err != nil {
		return err
	}
	return h.removeTree(dir, nil)
}

// layers are those of an image in the store; size is what they take compressed.
func (h *Host) layers(d digest.Digest) (layers []unpack.Layer, size int64, err error) {
	store, err := h.store()
	if err != nil {
		return nil, 0, err
	}
	var manifest ocispec.Manifest
	if err := store.ReadJSON(d, &manifest); err != nil {
		return nil, 0, err
	}
	var config ocispec.Image
	if err := store.ReadJSON(manifest.Config.Digest, &config); err != nil {
		return nil, 0, err
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, 0, node.Errorf(node.KindArchive, "the image has %d layers and names %d", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	for i, l := range manifest.Layers {
		if err := validDigest(l.Digest); err != nil {
			return nil, 0, err
		}
		if !store.Has(l.Digest) {
			return nil, 0, fmt.Errorf("layer %s: %w", l.Digest, imagestore.ErrNotFound)
		}
		size += l.Size
		layers = append(layers, unpack.Layer{
			MediaType: l.MediaType, DiffID: config.RootFS.DiffIDs[i], Size: l.Size,
			Open: func() (io.ReadCloser, error) { return store.Open(l.Digest) },
		})
	}
	return layers, size, nil
}

// unpackError gives errors of unpack their kind.
func (h *Host) unpackError(err error, size int64) error {
	switch {
	case errors.Is(err, unpack.ErrDigest):
		return node.Errorf(node.KindDigest, "%v", err)
	case errors.Is(err, unpack.ErrUnsafe), errors.Is(err, unpack.ErrType), errors.Is(err, unpack.ErrLimit), errors.Is(err, unpack.ErrMediaType):
		return node.Errorf(node.KindArchive, "%v", err)
	}
	return h.diskFull(err, node.Rootfs, size)
}

// Render renders the templates of Rootfs where they lie.
func (h *Host) Render(ctx context.Context, req node.RenderRequest) error {
	release, err := h.alone(ctx)
	if err != nil {
		return err
	}
	defer release()
	root, err := os.OpenRoot(h.path(node.Rootfs))
	if err != nil {
		return fmt.Errorf("opening rootfs: %w", err)
	}
	defer root.Close()
	if err := h.keepEnv(req.Env); err != nil {
		return err
	}
	return basefs.Renderer{Env: req.Env, Apps: req.Apps}.Render(root.FS(), func(name string, mode fs.FileMode, data []byte) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		return h.diskFull(writeInside(root, name, mode, data), node.Rootfs, int64(len(data)))
	})
}

// keepEnv writes EnvFile.
func (h *Host) keepEnv(env map[string]string) error {
	data, err := json.MarshalIndent(env, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping env: %w", err)
	}
	if err := atomicfile.Write(h.path(node.EnvFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keeping env: %w", h.diskFull(err, node.EnvFile, int64(len(data))))
	}
	return nil
}

// keptEnv reads EnvFile; nothing was kept where nothing was rendered.
func (h *Host) keptEnv() (map[string]string, error) {
	data, err := os.ReadFile(h.path(node.EnvFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading env: %w", err)
	}
	var env map[string]string
	if err := json.Unmarshal(data, &env); err != nil {
		e := node.Errorf(node.KindState, "reading env: %s is broken: %v", node.EnvFile, err)
		e.Path = node.EnvFile
		return nil, e
	}
	return env, nil
}

// writeInside writes a file of the rootfs, and leaves it alone if it is so already.
func writeInside(root *os.Root, name string, mode fs.FileMode, data []byte) error {
	if st, err := root.Lstat(name); err == nil && st.Mode() == mode.Perm() {
		if old, err := root.ReadFile(name); err == nil && bytes.Equal(old, data) {
			return nil
		}
	}
	part := filepath.Join(filepath.Dir(name), ".keg-render.part")
	if err := root.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode.Perm()), f.Close()); err != nil {
		return err
	}
	return root.Rename(part, name)
}

// readConfig reads RegistryConfigFile.
func (h *Host) readConfig() (node.RegistryConfig, error) {
	var c node.RegistryConfig
	data, err := os.ReadFile(h.path(node.RegistryConfigFile))
	if err != nil {
		return c, fmt.Errorf("reading the registry's configuration: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, node.Errorf(node.KindRequest, "reading %s: %v", node.RegistryConfigFile, err)
	}
	return c, nil
}
