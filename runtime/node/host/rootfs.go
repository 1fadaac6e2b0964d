package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/unpack"
	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/runtime/node"
)

// rootfsOf is the file that says of which manifest a rootfs directory is. It is missing while that is
// exchanged.
func rootfsOf(dir string) string { return dir + ".digest" }

// rootfsDir is where a request wants to work.
func rootfsDir(app digest.Digest) (string, error) {
	if app != "" {
		if err := validDigest(app); err != nil {
			return "", err
		}
	}
	return node.RootfsDir(app), nil
}

// Unpack makes Rootfs out of the layers of an image in the store.
func (h *Host) Unpack(ctx context.Context, req node.UnpackRequest) (node.UnpackResponse, error) {
	if err := validDigest(req.Manifest.Digest); err != nil {
		return node.UnpackResponse{}, err
	}
	to, err := rootfsDir(req.App)
	if err != nil {
		return node.UnpackResponse{}, err
	}
	release, err := h.alone(ctx)
	if err != nil {
		return node.UnpackResponse{}, err
	}
	defer release()
	if h.text(rootfsOf(to)) == req.Manifest.Digest.String() {
		return node.UnpackResponse{}, nil
	}
	layers, size, err := h.layers(ctx, req.Manifest.Digest)
	if err != nil {
		return node.UnpackResponse{}, fmt.Errorf("unpacking %s: %w", req.Manifest.Digest, err)
	}
	if err := os.MkdirAll(filepath.Dir(h.path(to)), 0o700); err != nil {
		return node.UnpackResponse{}, h.diskFull(err, node.Dir, 0)
	}
	dir, next, old := h.path(to), h.path(to+".new"), to+".old"
	for _, d := range []string{to + ".new", old} {
		if err := h.clear(d); err != nil {
			return node.UnpackResponse{}, err
		}
	}
	h.step("unpack")
	err = unpack.Rootfs(ctx, layers, next, unpack.Options{Owner: os.Geteuid() == 0})
	if err != nil {
		return node.UnpackResponse{}, fmt.Errorf("unpacking %s: %w", req.Manifest.Digest, h.unpackError(err, size))
	}
	if err := os.Remove(h.path(rootfsOf(to))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return node.UnpackResponse{}, fmt.Errorf("exchanging rootfs: %w", err)
	}
	// Hooks of the old rootfs may have mounted things in it.
	if err := h.unmountBelow(to, nil); err != nil {
		return node.UnpackResponse{}, err
	}
	if err := os.Rename(dir, h.path(old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return node.UnpackResponse{}, fmt.Errorf("exchanging rootfs: %w", err)
	}
	h.step("exchange")
	if err := os.Rename(next, dir); err != nil {
		return node.UnpackResponse{}, fmt.Errorf("exchanging rootfs: %w", err)
	}
	if err := atomicfile.Write(h.path(rootfsOf(to)), []byte(req.Manifest.Digest), 0o600); err != nil {
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
func (h *Host) layers(ctx context.Context, d digest.Digest) (layers []unpack.Layer, size int64, err error) {
	store, err := h.store()
	if err != nil {
		return nil, 0, err
	}
	layers, size, err = store.Layers(ctx, d)
	if errors.Is(err, imagestore.ErrLayers) {
		err = node.Errorf(node.KindArchive, "%v", err)
	}
	return layers, size, err
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
	dir, err := rootfsDir(req.App)
	if err != nil {
		return err
	}
	release, err := h.alone(ctx)
	if err != nil {
		return err
	}
	defer release()
	root, err := os.OpenRoot(h.path(dir))
	if err != nil {
		return fmt.Errorf("opening rootfs: %w", err)
	}
	defer root.Close()
	if req.App == "" {
		if err := h.keepEnv(req.Env); err != nil {
			return err
		}
	}
	return basefs.Renderer{Env: req.Env, Apps: req.Apps}.Render(root.FS(), func(name string, mode fs.FileMode, data []byte) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		return h.diskFull(writeInside(root, name, mode, data), dir, int64(len(data)))
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
