// Package runtimetest has a pretended host for tests of phases and drivers: keg-node in memory, whose
// files a pretended machine may share.
package runtimetest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/node"
)

// Host is keg-node in memory. The zero value is a host that nobody touched.
type Host struct {
	// Machine is what it is like; its State is filled in.
	Machine node.Facts
	// Scripts are the hooks that its rootfs has; nil functions do nothing.
	Scripts map[string]func() error
	// Rootfs are the files that render and install find, by path in the rootfs.
	Rootfs map[string]string
	// Before is called before each verb, with it and what it is about; its error is the verb's.
	Before func(op string) error
	// Asked says how a unit is; nil says that it is active.
	Asked func(r node.UnitQuery) node.UnitStatus
	// Residue is what undo answers.
	Residue []string

	mu     sync.Mutex
	state  *node.HostState
	files  map[string][]byte
	blobs  map[digest.Digest][]byte
	calls  []string
	hooks  []node.HookRequest
	locked bool
}

var _ runtime.Host = (*Host)(nil)

func (h *Host) call(ctx context.Context, format string, args ...any) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	op := fmt.Sprintf(format, args...)
	if h.Before != nil {
		if err := h.Before(op); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, op)
	if h.files == nil {
		h.files, h.blobs = map[string][]byte{}, map[digest.Digest][]byte{}
	}
	return nil
}

// Calls are the verbs so far, such as "unit containerd.service".
func (h *Host) Calls() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// Hooks are the hooks so far, whether there were scripts for them or not.
func (h *Host) Hooks() []node.HookRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.hooks)
}

// State is what was written last; nil if nothing was.
func (h *Host) State() *node.HostState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}

// Locked says whether somebody holds the lock.
func (h *Host) Locked() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.locked
}

// Files are the names of the files on the host, sorted.
func (h *Host) Files() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.files))
}

// File is the content of a file on the host, or of a blob in keg-node's store; nil if it is not there.
func (h *Host) File(name string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if hex, ok := strings.CutPrefix(name, node.StoreDir+"/blobs/sha256/"); ok {
		return h.blobs[digest.NewDigestFromEncoded(digest.SHA256, hex)]
	}
	return h.files[name]
}

// Write makes a file on the host.
func (h *Host) Write(name, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.files == nil {
		h.files, h.blobs = map[string][]byte{}, map[digest.Digest][]byte{}
	}
	h.files[name] = []byte(text)
}

// Remove removes a file, or all files below a directory.
func (h *Host) Remove(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.files, func(f string, _ []byte) bool { return f == name || strings.HasPrefix(f, name+"/") })
}

// Drop is a keg that dies: its lock is free.
func (h *Host) Drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.locked = false
}

// Lock implements runtime.Host.
func (h *Host) Lock(ctx context.Context, r node.LockRequest) (func() error, error) {
	if err := h.call(ctx, "lock"); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.locked {
		return nil, node.Errorf(node.KindBusy, "somebody else works on the host")
	}
	h.locked = true
	return func() error { h.Drop(); return nil }, nil
}

// Facts implements runtime.Host.
func (h *Host) Facts(ctx context.Context, r node.FactsRequest) (node.Facts, error) {
	if err := h.call(ctx, "facts"); err != nil {
		return node.Facts{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.Machine
	f.State = h.state
	for _, p := range r.Paths {
		if _, ok := h.files[p]; ok && !slices.Contains(f.Existing, p) {
			f.Existing = append(slices.Clone(f.Existing), p)
		}
	}
	return f, nil
}

// SetState implements runtime.Host.
func (h *Host) SetState(ctx context.Context, s node.HostState) error {
	if err := h.call(ctx, "state %s", strings.Join(s.Done, " ")); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = &s
	return nil
}

// Missing implements runtime.Host.
func (h *Host) Missing(ctx context.Context, blobs []digest.Digest) ([]digest.Digest, error) {
	if err := h.call(ctx, "missing %d", len(blobs)); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(blobs), func(d digest.Digest) bool { return h.blobs[d] != nil }), nil
}

// Receive implements runtime.Host.
func (h *Host) Receive(ctx context.Context, blobs []runtime.Blob) error {
	for _, b := range blobs {
		if err := h.call(ctx, "receive %s", b.Digest.Encoded()[:6]); err != nil {
			return err
		}
		r, err := b.Open(ctx)
		if err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil {
			return err
		}
		if digest.FromBytes(data) != b.Digest {
			return node.Errorf(node.KindDigest, "blob %s is not what its digest says", b.Digest)
		}
		h.mu.Lock()
		h.blobs[b.Digest] = data
		h.mu.Unlock()
	}
	return nil
}

// Blobs is how many blobs the host has.
func (h *Host) Blobs() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.blobs)
}

// Unpack implements runtime.Host.
func (h *Host) Unpack(ctx context.Context, r node.UnpackRequest) error {
	if err := h.call(ctx, "unpack"); err != nil {
		return err
	}
	for name, text := range h.Rootfs {
		h.Write(node.RootfsDir(r.App)+"/"+name, text)
	}
	return nil
}

// Render implements runtime.Host. It renders nothing.
func (h *Host) Render(ctx context.Context, _ node.RenderRequest) error { return h.call(ctx, "render") }

// Install implements runtime.Host.
func (h *Host) Install(ctx context.Context, r node.InstallRequest) (node.InstallResponse, error) {
	if err := h.call(ctx, "install"); err != nil {
		return node.InstallResponse{}, err
	}
	var files []runtime.File
	for _, i := range r.Items {
		for name, text := range h.Rootfs {
			if name == i.From {
				files = append(files, runtime.File{Path: i.To, Data: []byte(text)})
			} else if rest, ok := strings.CutPrefix(name, i.From+"/"); ok {
				files = append(files, runtime.File{Path: i.To + "/" + rest, Data: []byte(text)})
			}
		}
	}
	if r.OnlyLook {
		return h.differing(files), nil
	}
	return h.put(files), nil
}

func (h *Host) differing(files []runtime.File) node.InstallResponse {
	h.mu.Lock()
	defer h.mu.Unlock()
	var r node.InstallResponse
	for _, f := range files {
		if old, ok := h.files[f.Path]; !ok || string(old) != string(f.Data) {
			r.Changed = append(r.Changed, f.Path)
		}
	}
	return r
}

// Put implements runtime.Host.
func (h *Host) Put(ctx context.Context, files []runtime.File) (node.InstallResponse, error) {
	for _, f := range files {
		if err := h.call(ctx, "put %s %o", f.Path, f.Mode); err != nil {
			return node.InstallResponse{}, err
		}
	}
	return h.put(files), nil
}

func (h *Host) put(files []runtime.File) node.InstallResponse {
	h.mu.Lock()
	defer h.mu.Unlock()
	var r node.InstallResponse
	for _, f := range files {
		if old, ok := h.files[f.Path]; !ok || string(old) != string(f.Data) {
			r.Changed = append(r.Changed, f.Path)
		}
		h.files[f.Path] = slices.Clone(f.Data)
	}
	return r
}

// Claim implements runtime.Host.
func (h *Host) Claim(ctx context.Context, _ node.ClaimRequest) error { return h.call(ctx, "claim") }

// Block implements runtime.Host.
func (h *Host) Block(ctx context.Context, r node.BlockRequest) error {
	return h.call(ctx, "block %s %q", r.Path, r.Text)
}

// Sysctl implements runtime.Host.
func (h *Host) Sysctl(ctx context.Context, r node.SysctlRequest) error {
	return h.call(ctx, "sysctl %v %v", r.Settings, r.Modules)
}

// Units implements runtime.Host.
func (h *Host) Units(ctx context.Context, r node.UnitRequest) error {
	verb := "start"
	switch {
	case r.NoteOnly:
		verb = "note"
	case r.Stop:
		verb = "stop"
	case r.EnableOnly:
		verb = "enable"
	case r.Restart:
		verb = "restart"
	}
	return h.call(ctx, "%s %s", verb, strings.Join(r.Units, " "))
}

// Unit implements runtime.Host. It changes nothing, and Calls does not have it.
func (h *Host) Unit(ctx context.Context, r node.UnitQuery) (node.UnitStatus, error) {
	if err := context.Cause(ctx); err != nil || h.Asked == nil {
		return node.UnitStatus{Active: "active"}, err
	}
	return h.Asked(r), nil
}

// Hook implements runtime.Host.
func (h *Host) Hook(ctx context.Context, r node.HookRequest, _ io.Writer) (node.HookResponse, error) {
	if err := h.call(ctx, "hook %s", r.Name); err != nil {
		return node.HookResponse{}, err
	}
	h.mu.Lock()
	h.hooks = append(h.hooks, r)
	h.mu.Unlock()
	script, ok := h.Scripts[r.Name]
	if !ok {
		return node.HookResponse{}, nil
	}
	if script != nil {
		if err := script(); err != nil {
			return node.HookResponse{}, node.Errorf(node.KindHook, "%v", err)
		}
	}
	return node.HookResponse{Ran: true}, nil
}

// Prune implements runtime.Host. It removes nothing.
func (h *Host) Prune(ctx context.Context, r node.PruneRequest) (node.PruneResponse, error) {
	return node.PruneResponse{}, h.call(ctx, "prune, keep %d", len(r.Roots))
}

// Undo implements runtime.Host.
func (h *Host) Undo(ctx context.Context) (node.UndoResponse, error) {
	if err := h.call(ctx, "undo"); err != nil {
		return node.UndoResponse{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.files)
	clear(h.files)
	return node.UndoResponse{Restored: n, Residue: h.Residue}, nil
}

// Forget implements runtime.Host.
func (h *Host) Forget(ctx context.Context) error {
	if err := h.call(ctx, "forget"); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = nil
	clear(h.blobs)
	return nil
}
