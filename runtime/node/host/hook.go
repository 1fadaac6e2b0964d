package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/clusterimage/keg/runtime/node"
)

var (
	hookForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	envForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// Hook runs a script of the rootfs, if there is one of that name.
func (h *Host) Hook(ctx context.Context, req node.HookRequest) (node.HookResponse, error) {
	var resp node.HookResponse
	if !hookForm.MatchString(req.Name) {
		return resp, node.Errorf(node.KindRequest, "%q is no name of a hook", req.Name)
	}
	script, err := h.script(req.Name)
	if err != nil || script == "" {
		return resp, err
	}
	rootfs := h.path(node.Rootfs)
	env := map[string]string{"KEG_HOOK": req.Name, "KEG_ROOTFS": rootfs, "ROOTFS": rootfs}
	all := maps.Clone(req.Env)
	if req.Kept {
		kept, err := h.keptEnv()
		if err != nil {
			return resp, err
		}
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, kept)
	}
	for k, v := range all {
		if !envForm.MatchString(k) || strings.ContainsRune(v, 0) {
			return resp, node.Errorf(node.KindRequest, "%q is no name of an environment variable", k)
		}
		env[k] = v
	}
	p := Program{Args: append([]string{script}, req.Args...), Dir: rootfs}
	if !standsAlone(script) {
		p.Args = append([]string{"/bin/sh"}, p.Args...)
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		p.Env = append(p.Env, k+"="+env[k])
	}
	var end tail
	p.Stdout = io.MultiWriter(h.log(), &end)
	p.Stderr = p.Stdout
	h.step("hook %s", req.Name)
	resp.Ran = true
	if err := h.Programs.Run(ctx, p); err != nil {
		if ctx.Err() != nil {
			return resp, fmt.Errorf("running hook %s: %w", req.Name, err)
		}
		e := node.Errorf(node.KindHook, "running hook %s: %v", req.Name, err)
		if text := strings.TrimSpace(end.String()); text != "" {
			e.Text += ": " + text
		}
		e.Path = filepath.Join(node.Rootfs, "scripts", filepath.Base(script))
		return resp, e
	}
	return resp, nil
}

// script is the path of the hook's script, "" if there is none.
func (h *Host) script(name string) (string, error) {
	for _, file := range []string{name + ".sh", name} {
		p := filepath.Join(h.path(node.Rootfs), "scripts", file)
		st, err := os.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("looking for hook %s: %w", name, err)
		}
		if st.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", nil
}

// standsAlone says whether the kernel can run the script by itself.
func standsAlone(script string) bool {
	st, err := os.Stat(script)
	if err != nil || st.Mode()&0o111 == 0 {
		return false
	}
	f, err := os.Open(script)
	if err != nil {
		return false
	}
	defer f.Close()
	start := make([]byte, 4)
	n, _ := io.ReadFull(f, start)
	return bytes.HasPrefix(start[:n], []byte("#!")) || bytes.HasPrefix(start[:n], []byte("\x7fELF"))
}

// tail keeps the last lines written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*tailSize {
		t.buf = slices.Clone(t.buf[len(t.buf)-tailSize:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return lastLines(string(t.buf), tailSize)
}
