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

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/runtime/node"
)

var (
	hookForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	envForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// program is a script or a plugin that belongs to a hook.
type program struct {
	source string // for people: "scripts/init.sh"
	path   string // of the host; "" for a plugin's text
	// command is what to run, and in which directory.
	command func(env map[string]string) (args []string, dir string)
}

// Hook runs the scripts and plugins of the rootfs that belong to a hook, if there are some.
func (h *Host) Hook(ctx context.Context, req node.HookRequest) (node.HookResponse, error) {
	var resp node.HookResponse
	if !hookForm.MatchString(req.Name) {
		return resp, node.Errorf(node.KindRequest, "%q is no name of a hook", req.Name)
	}
	programs, err := h.hookPrograms(req)
	if err != nil || len(programs) == 0 {
		return resp, err
	}
	env, err := h.hookEnv(req)
	if err != nil {
		return resp, err
	}
	if req.Name == "init" {
		if err := atomicfile.Write(h.path(node.Begun), nil, 0o600); err != nil {
			return resp, fmt.Errorf("running hook %s: %w", req.Name, h.diskFull(err, node.Begun, 0))
		}
	}
	for _, p := range programs {
		resp.Ran = true
		if err := h.runHook(ctx, req.Name, p, env); err != nil {
			return resp, err
		}
	}
	if req.Name == "post-clean" {
		if err := os.Remove(h.path(node.Begun)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return resp, fmt.Errorf("running hook %s: %w", req.Name, err)
		}
	}
	return resp, nil
}

// hookEnv is the environment of a hook, but for what every Program has.
func (h *Host) hookEnv(req node.HookRequest) (map[string]string, error) {
	rootfs := h.path(node.Rootfs)
	env := map[string]string{"KEG_HOOK": req.Name, "KEG_ROOTFS": rootfs, "ROOTFS": rootfs}
	maps.Copy(env, req.Env)
	if req.Kept {
		kept, err := h.keptEnv()
		if err != nil {
			return nil, err
		}
		maps.Copy(env, kept)
	}
	for k, v := range env {
		if !envForm.MatchString(k) || strings.ContainsRune(v, 0) {
			return nil, node.Errorf(node.KindRequest, "%q is no name of an environment variable", k)
		}
	}
	return env, nil
}

// hookPrograms are those of a hook, in order: of a tree made for sealer what sealer would run there, of others
// the script of that name, and plugins.
func (h *Host) hookPrograms(req node.HookRequest) ([]program, error) {
	rootfs := h.path(node.Rootfs)
	tree := os.DirFS(rootfs)
	var list []program
	if !basefs.IsLegacy(tree) {
		script, err := h.script(req.Name)
		if err != nil {
			return nil, err
		}
		if script != "" {
			args := append([]string{script}, req.Args...)
			if !standsAlone(script) {
				args = append([]string{"/bin/sh"}, args...)
			}
			list = append(list, program{
				source: "scripts/" + filepath.Base(script), path: script,
				command: func(map[string]string) ([]string, string) { return args, rootfs },
			})
		}
	}
	hooks, err := basefs.LegacyHooks(tree, req.Runtime)
	if err != nil {
		return nil, node.Errorf(node.KindHook, "running hook %s: %v", req.Name, err)
	}
	begun, err := h.exists(node.Begun)
	if err != nil {
		return nil, err
	}
	for _, hook := range hooks {
		switch {
		case hook.Skipped != "":
			if req.Name == "pre-configure" && req.First { // the first hook of all, once
				fmt.Fprintf(h.log(), "%s does not run: %s\n", hook.Source, hook.Skipped)
			}
		case hook.Phase != req.Name || !hook.RunsOn(req.Master, req.First):
		case hook.Phase == "post-clean" && hook.Script != "" && !begun:
			fmt.Fprintf(h.log(), "%s does not run: what it takes back was not begun on this host\n", hook.Source)
		default:
			p := program{source: hook.Source, command: func(env map[string]string) ([]string, string) { return hook.Command(rootfs, env) }}
			if hook.Script != "" {
				p.path = filepath.Join(rootfs, hook.Script)
			}
			list = append(list, p)
		}
	}
	return list, nil
}

func (h *Host) exists(p string) (bool, error) {
	_, err := os.Lstat(h.path(p))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("looking for %s: %w", p, err)
	}
	return err == nil, nil
}

func (h *Host) runHook(ctx context.Context, name string, todo program, env map[string]string) error {
	var p Program
	p.Args, p.Dir = todo.command(env)
	for _, k := range slices.Sorted(maps.Keys(env)) {
		p.Env = append(p.Env, k+"="+env[k])
	}
	var end tail
	p.Stdout = io.MultiWriter(h.log(), &end)
	p.Stderr = p.Stdout
	h.step("hook %s", name)
	err := h.Programs.Run(ctx, p)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("running hook %s: %w", name, err)
	}
	e := node.Errorf(node.KindHook, "running hook %s: %s: %v", name, todo.source, err)
	if text := strings.TrimSpace(end.String()); text != "" {
		e.Text += ": " + text
	}
	if todo.path != "" {
		e.Path = filepath.Join(node.Rootfs, "scripts", filepath.Base(todo.path))
	}
	return e
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
