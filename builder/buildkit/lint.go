package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/kubefile/lint"
)

// Lint runs the rules of BuildKit's frontend on a Dockerfile, in this process: it needs no daemon, no
// Linux and no registry.
func Lint(ctx context.Context, text []byte, o lint.DockerfileOptions) ([]lint.DockerfileWarning, error) {
	platform := platforms.DefaultSpec()
	platform.OS = "linux"
	if o.Platform != "" {
		p, err := platforms.Parse(o.Platform)
		if err != nil {
			return nil, err
		}
		platform = p
	}
	source := llb.NewSourceMap(nil, o.Name, "Dockerfile", text)
	source.Definition = &llb.Definition{} // it came from no solve
	found, err := dockerfile2llb.DockerfileLint(ctx, text, dockerfile2llb.ConvertOpt{
		Config:         dockerui.Config{BuildArgs: o.BuildArgs},
		SourceMap:      source,
		TargetPlatform: &platform,
		MetaResolver:   named{platform, o.Env},
	})
	if err != nil {
		return nil, err
	}
	var list []lint.DockerfileWarning
	for _, w := range found.Warnings {
		one := lint.DockerfileWarning{Rule: w.RuleName, Text: w.Detail, URL: w.URL}
		if ranges := w.Location.GetRanges(); len(ranges) > 0 {
			one.Line, one.EndLine = int(ranges[0].GetStart().GetLine()), int(ranges[len(ranges)-1].GetEnd().GetLine())
		}
		list = append(list, one)
	}
	// A file that wants errors for warnings is judged by who asked.
	if found.Error != nil && !strings.HasPrefix(found.Error.Message, "lint violation found") {
		at := &lint.DockerfileError{Err: errors.New(found.Error.Message)}
		if ranges := found.Error.Location.GetRanges(); len(ranges) > 0 {
			at.Line = int(ranges[0].GetStart().GetLine())
		}
		return list, at
	}
	return list, nil
}

// named answers for every image that it is there and empty, but for the environment that is known of it.
type named struct {
	platform ocispec.Platform
	env      func(base string) []string
}

var _ llb.ImageMetaResolver = named{}

// ResolveImageConfig implements llb.ImageMetaResolver.
func (n named) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	image := ocispec.Image{Platform: n.platform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString(ref)}}}
	if n.env != nil {
		image.Config.Env = n.env(ref)
	}
	config, err := json.Marshal(image)
	return ref, "", config, err
}
