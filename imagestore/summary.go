package imagestore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// TypeImage is the Summary.Type of an ordinary container image, or of another artifact. Cluster images
// have clusterimage.TypeCluster or TypeApp.
const TypeImage = "image"

// Summary is what `keg inspect -o json` prints of an image. Every field is always there: lists and maps
// without elements are [] and {}, not null.
type Summary struct {
	// Name is the full name, "" for an image found by digest that has none.
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
	// Type is cluster, app or image.
	Type string `json:"type"`
	// Runtime is kubernetes, k3s, k0s or "".
	Runtime string `json:"runtime"`
	// KubeVersion is the version of Kubernetes inside, such as v1.37.2, or "".
	KubeVersion string `json:"kubeVersion"`
	// KubeVersionRange is what an app needs of the cluster it runs on, such as ">=1.30", or "".
	KubeVersionRange string `json:"kubeVersionRange"`
	// Platforms that are in the store, such as "linux/amd64".
	Platforms []string       `json:"platforms"`
	Layers    []LayerSummary `json:"layers"`
	// Images are the embedded images.
	Images []EmbeddedSummary  `json:"images"`
	Apps   []clusterimage.App `json:"apps"`
	Launch []string           `json:"launch"`
	// Commands run on the first control plane after the apps.
	Commands []string `json:"commands"`
	// Env is that of the spec for cluster images, that of the config for others.
	Env    map[string]string `json:"env"`
	Labels map[string]string `json:"labels"`
	// Size is the sum of all distinct blobs in bytes, documents included.
	Size int64 `json:"size"`
	// Created is when the first platform's image was made, null if it does not say.
	Created *time.Time `json:"created"`
}

// LayerSummary is one layer of a rootfs image, or of an ordinary one.
type LayerSummary struct {
	Platform  string        `json:"platform"`
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	// DiffID is the digest of the uncompressed layer; "" if the config does not say.
	DiffID digest.Digest `json:"diffID"`
	// CreatedBy is the instruction, from the config's history.
	CreatedBy string `json:"createdBy"`
}

// EmbeddedSummary is one embedded image.
type EmbeddedSummary struct {
	Name     string        `json:"name"`
	Platform string        `json:"platform"`
	Digest   digest.Digest `json:"digest"` // of its manifest
	// Size of its manifest, config and layers in bytes; 0 if it is not in the store, such as that of a
	// platform that was not pulled. Images share blobs, so sizes don't add up.
	Size int64 `json:"size"`
}

// HistoryEntry is one step of how an image came about.
type HistoryEntry struct {
	Created   *time.Time `json:"created"`
	CreatedBy string     `json:"createdBy"`
	Comment   string     `json:"comment"`
	// Digest, MediaType and Size are of the layer that the step made; "" and 0 if it made none.
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
}

// Inspect summarizes an image: a cluster image, or an ordinary one, whose index or manifest t.Target
// is. Platforms of an index that are not in the store are left out, but one must be there.
func (s *Store) Inspect(ctx context.Context, t Tagged) (Summary, error) {
	fail := func(err error) (Summary, error) {
		return Summary{}, fmt.Errorf("inspecting %s: %w", displayName(t), err)
	}
	sum := Summary{
		Name: t.Name, Digest: t.Target.Digest, Type: TypeImage,
		Platforms: []string{}, Layers: []LayerSummary{}, Images: []EmbeddedSummary{}, Apps: []clusterimage.App{},
		Launch: []string{}, Commands: []string{}, Env: map[string]string{}, Labels: map[string]string{},
	}
	present, _, err := s.reach(ctx, t.Target)
	if err != nil {
		return fail(err)
	}
	for _, d := range present {
		sum.Size += d.Size
	}
	list, img, err := s.platforms(ctx, t.Target)
	if err != nil {
		return fail(err)
	}
	for i, p := range list {
		if p.platform != "" {
			sum.Platforms = append(sum.Platforms, p.platform)
		}
		sum.Layers = append(sum.Layers, p.layers()...)
		if i == 0 {
			maps.Copy(sum.Labels, p.config.Config.Labels)
			sum.Created = p.config.Created
		}
	}
	if img == nil {
		for _, kv := range list[0].config.Config.Env {
			k, v, _ := strings.Cut(kv, "=")
			sum.Env[k] = v
		}
		return sum, nil
	}
	for _, e := range img.Embedded {
		es := EmbeddedSummary{Name: e.Name, Platform: e.Platform, Digest: e.Manifest.Digest}
		if es.Size, err = s.imageSize(e.Manifest); err != nil && !errors.Is(err, ErrNotFound) {
			return fail(err)
		}
		sum.Images = append(sum.Images, es)
	}
	spec, err := clusterimage.ParseSpec(sum.Labels)
	if err != nil {
		return fail(err)
	}
	sum.Runtime = sum.Labels[clusterimage.LabelRuntime]
	sum.KubeVersion = sum.Labels[clusterimage.LabelKubeVersion]
	sum.KubeVersionRange = spec.KubeVersion
	if sum.Type = sum.Labels[clusterimage.LabelType]; sum.Type == "" {
		sum.Type = clusterimage.TypeApp
		if sum.Runtime != "" {
			sum.Type = clusterimage.TypeCluster
		}
	}
	sum.Apps = append(sum.Apps, spec.Apps...)
	sum.Launch = append(sum.Launch, spec.Launch...)
	sum.Commands = append(sum.Commands, spec.Cmds...)
	maps.Copy(sum.Env, spec.Env)
	return sum, nil
}

// History tells how the image of one platform came about, newest step first. platform "" is the first
// in the index.
func (s *Store) History(ctx context.Context, t Tagged, platform string) ([]HistoryEntry, error) {
	list, _, err := s.platforms(ctx, t.Target)
	if err != nil {
		return nil, fmt.Errorf("reading history of %s: %w", displayName(t), err)
	}
	i := 0
	if platform != "" {
		i = slices.IndexFunc(list, func(p platformImage) bool { return p.platform == platform })
	}
	if i < 0 {
		return nil, fmt.Errorf("reading history of %s: platform %s: %w", displayName(t), platform, ErrNotFound)
	}
	entries := list[i].history()
	slices.Reverse(entries)
	return entries, nil
}

func displayName(t Tagged) string {
	if t.Name == "" {
		return t.Target.Digest.String()
	}
	return t.Name
}

// platformImage is the image of one platform: a rootfs image, or an ordinary one.
type platformImage struct {
	platform string
	manifest ocispec.Manifest
	config   ocispec.Image
}

// platforms reads the images behind desc that are there; img is nil if it is no cluster image.
func (s *Store) platforms(ctx context.Context, desc ocispec.Descriptor) (list []platformImage, img *clusterimage.Image, err error) {
	entries := []ocispec.Descriptor{desc}
	if IsIndex(desc.MediaType) {
		ci, err := s.ClusterImage(ctx, desc)
		switch {
		case err == nil:
			img, entries = &ci, ci.Rootfs
		case errors.Is(err, clusterimage.ErrNotClusterImage):
			var idx ocispec.Index
			if err := s.ReadJSON(desc.Digest, &idx); err != nil {
				return nil, nil, err
			}
			entries = slices.DeleteFunc(idx.Manifests, isAttestation)
		default:
			return nil, nil, err
		}
	}
	for _, d := range entries {
		if IsIndex(desc.MediaType) && !s.Has(d.Digest) {
			continue
		}
		p, err := s.platformImage(d)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, p)
	}
	if len(entries) == 0 {
		return nil, nil, fmt.Errorf("index %s names no image: %w", desc.Digest, ErrDocument)
	}
	if len(list) == 0 {
		return nil, nil, &MissingError{Image: desc.Digest, Blobs: entries}
	}
	return list, img, nil
}

// isAttestation finds the entries that BuildKit adds: not images, though manifests.
func isAttestation(d ocispec.Descriptor) bool {
	return d.Platform != nil && d.Platform.OS == "unknown"
}

func (s *Store) platformImage(d ocispec.Descriptor) (platformImage, error) {
	var p platformImage
	if !IsManifest(d.MediaType) {
		return p, fmt.Errorf("blob %s of media type %q: %w", d.Digest, d.MediaType, ErrDocument)
	}
	if err := s.ReadJSON(d.Digest, &p.manifest); err != nil {
		return p, err
	}
	// Artifacts that are no images have configs of any kind; those say nothing of a platform.
	if t := p.manifest.Config.MediaType; t == ocispec.MediaTypeImageConfig || t == MediaTypeDockerConfig {
		if err := s.ReadJSON(p.manifest.Config.Digest, &p.config); err != nil {
			return p, err
		}
	}
	platform := d.Platform
	if platform == nil && p.config.OS != "" {
		platform = &p.config.Platform
	}
	p.platform = clusterimage.PlatformString(platform)
	return p, nil
}

func (p platformImage) layers() []LayerSummary {
	var steps []string
	for _, h := range p.config.History {
		if !h.EmptyLayer {
			steps = append(steps, h.CreatedBy)
		}
	}
	list := make([]LayerSummary, 0, len(p.manifest.Layers))
	for i, d := range p.manifest.Layers {
		l := LayerSummary{Platform: p.platform, Digest: d.Digest, MediaType: d.MediaType, Size: d.Size}
		if i < len(p.config.RootFS.DiffIDs) {
			l.DiffID = p.config.RootFS.DiffIDs[i]
		}
		if i < len(steps) {
			l.CreatedBy = steps[i]
		}
		list = append(list, l)
	}
	return list
}

// history is the oldest step first. Layers beyond those that the config tells of get a step each.
func (p platformImage) history() []HistoryEntry {
	list := make([]HistoryEntry, 0, len(p.config.History))
	layers := p.manifest.Layers
	take := func(e HistoryEntry) HistoryEntry {
		e.Digest, e.MediaType, e.Size = layers[0].Digest, layers[0].MediaType, layers[0].Size
		layers = layers[1:]
		return e
	}
	for _, h := range p.config.History {
		e := HistoryEntry{Created: h.Created, CreatedBy: h.CreatedBy, Comment: h.Comment}
		if !h.EmptyLayer && len(layers) > 0 {
			e = take(e)
		}
		list = append(list, e)
	}
	for len(layers) > 0 {
		list = append(list, take(HistoryEntry{}))
	}
	return list
}

// imageSize is what one manifest and its blobs take, from the manifest alone.
func (s *Store) imageSize(d ocispec.Descriptor) (int64, error) {
	data, err := s.Read(d.Digest)
	if err != nil {
		return 0, err
	}
	children, err := Children(d.MediaType, data)
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	size := d.Size
	seen := map[digest.Digest]bool{}
	for _, c := range children {
		if !seen[c.Digest] {
			size += c.Size
		}
		seen[c.Digest] = true
	}
	return size, nil
}
