package buildkit

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/util/staticfs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/clusterimage/keg/builder"
)

// storeName is what the store with the images is called in a solve.
const storeName = "keg"

// dockerfileName is what the piece of the Kubefile is called in a solve.
const dockerfileName = "Kubefile"

// Execute implements builder.Solver.
func (s *Solver) Execute(ctx context.Context, e builder.Execution) ([]builder.Change, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	if e.Runs {
		if err := runnable(ctx, c, e.Platform); err != nil {
			return nil, err
		}
	}
	opt, err := s.solveOpt(e)
	if err != nil {
		return nil, err
	}
	images, err := local.NewStore(e.Layout)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", e.Layout, err)
	}
	opt.OCIStores = map[string]content.Store{storeName: readOnly{images}}
	out := newOutput(images, e.Scratch)
	defer out.close()
	opt.Exports = []client.ExportEntry{{
		Type: client.ExporterOCI, OutputStore: out,
		Attrs: map[string]string{"tar": "false", "compression": "uncompressed", "oci-mediatypes": "true"},
	}}
	if s.o.Address == "" {
		link(s.o.Dir, e)
	}
	status := make(chan *client.SolveStatus)
	shown := newDisplay(e.Progress, e.Parent)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for st := range status {
			shown.update(st)
		}
	}()
	res, err := c.Build(ctx, opt, "keg", dockerfile.Build, status)
	<-done
	shown.end(err)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause // it arrives as a gRPC status, which is not the context's error
		}
		return nil, translate(err, shown)
	}
	return out.changes(e.Base, res.ExporterResponse[exptypes.ExporterImageDescriptorKey])
}

// solveOpt is what the frontend reads.
func (s *Solver) solveOpt(e builder.Execution) (client.SolveOpt, error) {
	attrs := map[string]string{
		"filename":                    dockerfileName,
		"platform":                    e.Platform,
		"context:" + builder.FromName: layoutRef(e.Base),
	}
	for k, v := range e.BuildArgs {
		attrs["build-arg:"+k] = v
	}
	for n, d := range e.Images {
		attrs["context:"+contextName(n)] = layoutRef(d)
	}
	if e.NoCache {
		attrs["no-cache"] = ""
	}
	if e.Network != "" {
		attrs["force-network-mode"] = e.Network
	}
	text := memory(map[string]string{dockerfileName: string(e.Dockerfile), dockerfileName + ".dockerignore": e.Ignore})
	opt := client.SolveOpt{
		FrontendAttrs:       attrs,
		LocalMounts:         map[string]fsutil.FS{"dockerfile": text},
		AllowedEntitlements: s.o.Allow,
	}
	if len(s.o.Secrets) > 0 {
		opt.Session = append(opt.Session, secretsprovider.FromMap(s.o.Secrets))
	}
	if len(s.o.SSH) > 0 {
		var agents []sshprovider.AgentConfig
		for id, paths := range s.o.SSH {
			agents = append(agents, sshprovider.AgentConfig{ID: id, Paths: paths})
		}
		keys, err := sshprovider.NewSSHAgentProvider(agents)
		if err != nil {
			return client.SolveOpt{}, fmt.Errorf("opening SSH agents and keys: %w", err)
		}
		opt.Session = append(opt.Session, keys)
	}
	mount := func(name, dir string) error {
		m, err := fsutil.NewFS(dir)
		if err != nil {
			return fmt.Errorf("opening build context %s: %w", dir, err)
		}
		opt.LocalMounts[name] = m
		return nil
	}
	if e.Context != "" {
		if err := mount("context", e.Context); err != nil {
			return opt, err
		}
	}
	for n, dir := range e.Contexts {
		attrs["context:"+n] = "local:named-" + n
		if err := mount("named-"+n, dir); err != nil {
			return opt, err
		}
	}
	return opt, nil
}

func layoutRef(d ocispec.Descriptor) string {
	return "oci-layout://" + storeName + "@" + d.Digest.String()
}

// contextName is how the frontend looks an image or a stage up: without what everybody leaves out.
func contextName(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return strings.TrimSuffix(reference.FamiliarString(named), ":latest")
}

// memory is a directory that is nowhere.
func memory(files map[string]string) fsutil.FS {
	dir := staticfs.NewFS()
	for name, text := range files {
		dir.Add(name, &fstypes.Stat{Mode: 0o644}, []byte(text))
	}
	return dir
}
