package standin

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// Containerd is a containerd 2 with its CRI.
type Containerd struct {
	// Config is the file that is written, Root where images and containers are, State and Socket below /run.
	Config, Root, State, Socket string
	// Pause is the image that holds a pod's namespaces.
	Pause string
	// CertsDir has a directory per registry with a hosts.toml, and CNIDir the network's configuration.
	CertsDir, CNIDir string
	// Cgroupfs is for hosts without systemd.
	Cgroupfs bool
	// Imports are globs of more configuration files.
	Imports []string
	// KeepConfig leaves Config as it is: the caller has written it.
	KeepConfig bool
	LogLevel   string // warn if empty
	// CNIBin is where the network's programs are, if not with the others.
	CNIBin string
	// Extra is more text at the configuration's end. It may hold credentials.
	Extra string
}

var containerdConfig = template.Must(template.New("").Parse(`version = 3
root = "{{.Root}}"
state = "{{.State}}"
{{- if .Imports}}
imports = [{{range $i, $f := .Imports}}{{if $i}}, {{end}}"{{$f}}"{{end}}]
{{- end}}

[grpc]
  address = "{{.Socket}}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{{.Pause}}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "{{.CertsDir}}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = {{.Restrict}}
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{{or .CNIBin .Bin}}"]
    conf_dir = "{{.CNIDir}}"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{{.Bin}}/runc"
      SystemdCgroup = {{not .Cgroupfs}}
{{.Extra}}`))

// Write writes the configuration.
func (c Containerd) Write(s *Supervisor) error {
	var text bytes.Buffer
	data := struct {
		Containerd
		Bin      string
		Restrict bool
	}{c, s.Bin(), !hasResourceCapability()}
	if err := containerdConfig.Execute(&text, data); err != nil {
		return fmt.Errorf("writing containerd's configuration: %w", err)
	}
	if err := writeFile(c.Config, text.Bytes(), 0o600); err != nil {
		return fmt.Errorf("writing containerd's configuration: %w", err)
	}
	return nil
}

// hasResourceCapability says whether this process may lower OOM scores (CAP_SYS_RESOURCE, bit 24).
func hasResourceCapability() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if mask, ok := strings.CutPrefix(line, "CapEff:\t"); ok {
			var bits uint64
			if _, err := fmt.Sscanf(mask, "%x", &bits); err == nil {
				return bits&(1<<24) != 0
			}
		}
	}
	return false
}

// Start writes the configuration, starts containerd and waits until it answers.
func (c Containerd) Start(ctx context.Context, s *Supervisor) error {
	for _, dir := range []string{c.Root, c.State, filepath.Dir(c.Socket), c.CNIDir, c.CertsDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("starting containerd: %w", err)
		}
	}
	if !c.KeepConfig {
		if err := c.Write(s); err != nil {
			return err
		}
	}
	level := c.LogLevel
	if level == "" {
		level = "warn"
	}
	if err := s.Start(Process{Name: "containerd", Program: "containerd", Args: []string{"--config=" + c.Config, "--log-level=" + level}}); err != nil {
		return err
	}
	if err := Until(ctx, 200*time.Millisecond, func(ctx context.Context) error { _, err := c.Ctr(ctx, s, nil, "version"); return err }); err != nil {
		return fmt.Errorf("waiting for containerd: %w", err)
	}
	return nil
}

// Ctr runs ctr in the namespace of Kubernetes.
func (c Containerd) Ctr(ctx context.Context, s *Supervisor, stdin io.Reader, args ...string) ([]byte, error) {
	return s.Output(ctx, stdin, "ctr", append([]string{"--address=" + c.Socket, "--namespace=k8s.io"}, args...)...)
}

// Images lists the names of images.
func (c Containerd) Images(ctx context.Context, s *Supervisor) ([]string, error) {
	out, err := c.Ctr(ctx, s, nil, "images", "ls", "-q")
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(out)), nil
}

// Import imports an archive of images, by containerd's own rules, from r or, if r is nil, from file. all is for all
// platforms rather than the host's.
func (c Containerd) Import(ctx context.Context, s *Supervisor, file string, r io.Reader, all bool) error {
	args := []string{"images", "import", "--digests=false"}
	if all {
		args = append(args, "--all-platforms")
	}
	if r != nil {
		file = "-"
	}
	_, err := c.Ctr(ctx, s, r, append(args, file)...)
	return err
}

// Pin keeps kubelet from deleting an image; unpin gives it free.
func (c Containerd) Pin(ctx context.Context, s *Supervisor, image string, unpin bool) error {
	label := "io.cri-containerd.pinned=pinned"
	if unpin {
		label = "io.cri-containerd.pinned="
	}
	_, err := c.Ctr(ctx, s, nil, "images", "label", image, label)
	return err
}
