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

	"github.com/clusterimage/keg/runtime/node"
)

// Files that make settings and modules last beyond a reboot.
const (
	sysctlFile  = "/etc/sysctl.d/90-keg.conf"
	modulesFile = "/etc/modules-load.d/keg.conf"
)

var (
	sysctlForm = regexp.MustCompile(`^[A-Za-z0-9_-]+([./][A-Za-z0-9_:@*/-]+)*$`)
	moduleForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// sysctlPath is the file of a setting. As for sysctl(8), dots and slashes change places.
func sysctlPath(key string) string {
	swap := strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
	return filepath.Join("/proc/sys", swap)
}

// Sysctl loads modules and makes settings, now and for every boot.
func (h *Host) Sysctl(ctx context.Context, req node.SysctlRequest) (node.InstallResponse, error) {
	var resp node.InstallResponse
	for k, v := range req.Settings {
		if !sysctlForm.MatchString(k) || strings.Contains(k, "..") || strings.ContainsAny(v, "\n\x00") {
			return resp, node.Errorf(node.KindRequest, "setting %q = %q is no sysctl", k, v)
		}
	}
	for _, k := range req.Remember {
		if !sysctlForm.MatchString(k) || strings.Contains(k, "..") {
			return resp, node.Errorf(node.KindRequest, "setting %q is no sysctl", k)
		}
	}
	for _, m := range req.Modules {
		if !moduleForm.MatchString(m) {
			return resp, node.Errorf(node.KindRequest, "%q is no name of a kernel module", m)
		}
	}
	rec, done, err := h.recording(ctx)
	if err != nil {
		return resp, err
	}
	defer done()
	if err := h.loadModules(ctx, rec, req.Modules); err != nil {
		return resp, err
	}
	if err := h.applySettings(rec, req); err != nil {
		return resp, err
	}
	var items []item
	if len(req.Modules) > 0 {
		items = append(items, textItem(modulesFile, strings.Join(req.Modules, "\n")+"\n"))
	}
	if len(req.Settings) > 0 {
		var text strings.Builder
		for _, k := range slices.Sorted(maps.Keys(req.Settings)) {
			fmt.Fprintf(&text, "%s = %s\n", k, req.Settings[k])
		}
		items = append(items, textItem(sysctlFile, text.String()))
	}
	resp.Changed, err = h.place(ctx, rec, items)
	return resp, err
}

func textItem(to, text string) item {
	return item{
		to: to, typ: regular, mode: 0o644, uid: os.Geteuid(), gid: os.Getegid(), size: int64(len(text)),
		open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil },
	}
}

func (h *Host) loadModules(ctx context.Context, rec *recorder, modules []string) error {
	for _, m := range modules {
		if h.loaded(m) {
			continue
		}
		if err := rec.record(entry{Kind: kindModule, Name: m}); err != nil {
			return err
		}
		h.step("modprobe %s", m)
		if _, err := h.run(ctx, "modprobe", m); err != nil {
			return fmt.Errorf("loading kernel module: %w", err)
		}
	}
	return nil
}

func (h *Host) loaded(module string) bool {
	_, err := os.Stat(h.path("/sys/module/" + strings.ReplaceAll(module, "-", "_")))
	return err == nil
}

func (h *Host) applySettings(rec *recorder, req node.SysctlRequest) error {
	var records []entry
	for _, k := range append(slices.Sorted(maps.Keys(req.Settings)), req.Remember...) {
		value, err := h.setting(k)
		if err != nil {
			if _, wanted := req.Settings[k]; !wanted {
				continue
			}
			return err
		}
		records = append(records, entry{Kind: kindSysctl, Name: k, Value: value})
	}
	if err := rec.record(records...); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(req.Settings)) {
		if value, err := h.setting(k); err == nil && value == sameSpaces(req.Settings[k]) {
			continue
		}
		if err := h.set(k, req.Settings[k]); err != nil {
			return err
		}
	}
	return nil
}

// setting is the value now, with single spaces, as the kernel writes tabs where it reads spaces.
func (h *Host) setting(key string) (string, error) {
	data, err := os.ReadFile(h.path(sysctlPath(key)))
	if errors.Is(err, fs.ErrNotExist) {
		return "", node.Errorf(node.KindOther, "this kernel has no setting %s", key)
	}
	if err != nil {
		return "", fmt.Errorf("reading setting %s: %w", key, err)
	}
	return sameSpaces(string(bytes.TrimSpace(data))), nil
}

func sameSpaces(s string) string { return strings.Join(strings.Fields(s), " ") }

func (h *Host) set(key, value string) error {
	h.step("sysctl %s", key)
	f, err := os.OpenFile(h.path(sysctlPath(key)), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("setting %s: %w", key, err)
	}
	_, err = f.WriteString(value + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("setting %s = %s: %w", key, value, err)
	}
	return nil
}

func (h *Host) undoSysctl(e entry) (restored bool, err error) {
	value, err := h.setting(e.Name)
	if err != nil || value == e.Value {
		return false, nil // it went with its module, or is as it was
	}
	return true, h.set(e.Name, e.Value)
}

func (h *Host) sysctlResidue(e entry) string {
	if value, err := h.setting(e.Name); err == nil && value != e.Value {
		return fmt.Sprintf("setting %s: is %q and was %q", e.Name, value, e.Value)
	}
	return ""
}

// undoModule is as good as can be: a module may be in use by somebody else by now, or built in.
func (h *Host) undoModule(ctx context.Context, e entry) {
	if h.loaded(e.Name) {
		h.step("modprobe -r %s", e.Name)
		_, _ = h.run(ctx, "modprobe", "-r", e.Name)
	}
}
