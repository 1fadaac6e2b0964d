package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/clusterimage/keg/internal/standin"
)

// managedLine is the first line of a containerd.toml that k0s writes; without it the file is the user's.
const managedLine = "# k0s_managed=true"

// startContainerd writes /etc/k0s/containerd.toml, unless it is the user's, checks the drop-ins beside it, and starts containerd.
func (d *daemon) startContainerd(ctx context.Context, profile *workerConfig) (standin.Containerd, error) {
	c := standin.Containerd{
		Config: "/etc/k0s/containerd.toml", Root: filepath.Join(d.data, "containerd"), State: filepath.Join(d.run, "containerd"),
		Socket: filepath.Join(d.run, "containerd.sock"), Pause: profile.Pause.ref(), CertsDir: "/etc/k0s/containerd.d/certs.d", CNIDir: "/etc/cni/net.d",
		Cgroupfs: true, Imports: []string{"/etc/k0s/containerd.d/*.toml"}, LogLevel: "info",
	}
	if err := d.makeDirs(map[string]os.FileMode{"/etc/k0s/containerd.d": 0o755}); err != nil {
		return c, err
	}
	existing, err := os.ReadFile(c.Config)
	managed := errors.Is(err, os.ErrNotExist) || bytes.HasPrefix(existing, []byte(managedLine+"\n"))
	if managed {
		if err := d.writeManaged(c); err != nil {
			return c, err
		}
	}
	c.KeepConfig = true
	if err := checkDropIns("/etc/k0s/containerd.d"); err != nil {
		d.complain("containerd configuration", err)
	}
	if err := c.Start(ctx, d.s); err != nil {
		return c, err
	}
	if managed {
		go d.watchDropIns(ctx)
	}
	return c, nil
}

// writeManaged is the stand-in's configuration in k0s' clothes: plugins are looked for where k0s' containerd does, and a
// registry's directory is set by a drop-in only, not here.
func (d *daemon) writeManaged(c standin.Containerd) error {
	temporary := c
	temporary.Config = filepath.Join(d.run, "containerd.toml")
	if err := temporary.Write(d.s); err != nil {
		return err
	}
	text, err := os.ReadFile(temporary.Config)
	if err != nil {
		return err
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		switch trimmed := strings.TrimSpace(line); {
		case strings.HasPrefix(trimmed, "bin_dirs"):
			line = "    bin_dirs = [\"/opt/cni/bin\"]\n"
		case strings.HasPrefix(trimmed, "config_path"), strings.HasPrefix(trimmed, `[plugins."io.containerd.cri.v1.images".registry]`):
			continue
		}
		lines = append(lines, line)
	}
	return os.WriteFile(c.Config, []byte(managedLine+"\n"+strings.Join(lines, "")), 0o644) //nolint:gosec // no secrets
}

// checkDropIns refuses what containerd 2 does not want in a drop-in: another version than 3, and tables of the old CRI plugin.
func checkDropIns(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.toml"))
	if err != nil {
		return err
	}
	var problems []error
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil {
			err = checkDropIn(data)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", file, err))
		}
	}
	return errors.Join(problems...)
}

func checkDropIn(data []byte) error {
	var tree struct {
		Version *int64         `toml:"version"`
		Plugins map[string]any `toml:"plugins"`
	}
	if err := toml.Unmarshal(data, &tree); err != nil {
		return fmt.Errorf("failed to parse TOML: %w", err)
	}
	var problems []error
	if tree.Version != nil && *tree.Version != 3 {
		problems = append(problems, fmt.Errorf("unsupported configuration version: expected 3, got %d", *tree.Version))
	}
	if _, old := tree.Plugins["io.containerd.grpc.v1.cri"]; old {
		problems = append(problems, errors.New(`configuration contains a [plugins."io.containerd.grpc.v1.cri"] section which is the containerd v1 CRI plugin format`))
	}
	return errors.Join(problems...)
}

// watchDropIns starts containerd anew three seconds after the last change of a drop-in.
func (d *daemon) watchDropIns(ctx context.Context) {
	const dir = "/etc/k0s/containerd.d"
	state := func() string {
		files, _ := filepath.Glob(filepath.Join(dir, "*.toml"))
		slices.Sort(files)
		var text strings.Builder
		for _, file := range files {
			if fi, err := os.Stat(file); err == nil {
				fmt.Fprintln(&text, file, fi.Size(), fi.ModTime())
			}
		}
		return text.String()
	}
	applied, last, changed := state(), state(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
		if now := state(); now != last {
			last, changed = now, time.Now()
		}
		if last == applied || time.Since(changed) < 3*time.Second {
			continue
		}
		applied = last
		if err := checkDropIns(dir); err != nil {
			d.complain("containerd configuration", err)
		}
		d.say("Restarting containerd")
		d.s.Stop("containerd")
		process := standin.Process{Name: "containerd", Program: "containerd", Args: []string{"--config=/etc/k0s/containerd.toml", "--log-level=info"}}
		if err := d.s.Start(process); err != nil {
			d.complain("Restarting containerd", err)
		}
	}
}
