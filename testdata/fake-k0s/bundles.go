package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// debounce is how long the directory of images must be quiet before it is looked at again.
const debounce = 10 * time.Second

// bundles are the archives in <data>/images. Each regular file is imported as it is: only a plain tar works, anything else
// is one line in the journal. Images are pinned as long as one of their files is there.
type bundles struct {
	d          *daemon
	containerd standin.Containerd
	seen       map[string]time.Time
	named      map[string][]string // images of a file
}

func (b *bundles) load(ctx context.Context) {
	b.d.say("Loading OCI bundles directory")
	entries, err := os.ReadDir(b.d.images)
	if err != nil {
		b.d.complain("Failed to read bundles directory", err)
		return
	}
	present := map[string]bool{}
	for _, e := range entries {
		file := filepath.Join(b.d.images, e.Name())
		fi, err := os.Stat(file)
		if err != nil {
			b.d.complain("failed to stat "+file, err)
			continue
		}
		present[file] = true
		if when, ok := b.seen[file]; ok && when.Equal(fi.ModTime()) {
			continue
		}
		b.d.say("Loading OCI bundle %s", file)
		names, err := b.load1(ctx, file)
		if err != nil {
			b.d.complain("Failed to load OCI bundle "+file, fmt.Errorf("failed to process OCI bundle: can't import bundle: %w", err))
			continue
		}
		b.seen[file], b.named[file] = fi.ModTime(), names
		b.d.say("OCI bundle %s loaded", file)
	}
	b.unpin(ctx, present)
}

func (b *bundles) load1(ctx context.Context, file string) ([]string, error) {
	names, err := bundleNames(file)
	if err != nil {
		return nil, err
	}
	if err := b.containerd.Import(ctx, b.d.s, file, nil, false); err != nil {
		return nil, err
	}
	for _, name := range names {
		b.d.say("Imported image %s", name)
		if err := b.containerd.Pin(ctx, b.d.s, name, false); err != nil {
			return nil, err
		}
		if _, err := b.containerd.Ctr(ctx, b.d.s, nil, "images", "label", name, sourceLabel+"="+file); err != nil {
			return nil, err
		}
	}
	return names, nil
}

const sourceLabel = "io.k0sproject.ocibundle-paths"

// unpin gives images free whose file is gone, also one of before this start.
func (b *bundles) unpin(ctx context.Context, present map[string]bool) {
	out, err := b.containerd.Ctr(ctx, b.d.s, nil, "images", "ls")
	if err != nil {
		b.d.complain("Failed to unpin images", err)
		return
	}
	kept := map[string]bool{}
	for file, names := range b.named {
		for _, name := range names {
			kept[name] = kept[name] || present[file]
		}
	}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(line, " ")
		_, source, found := strings.Cut(line, sourceLabel+"=")
		if !found || kept[name] || !strings.Contains(line, "io.cri-containerd.pinned=pinned") {
			continue
		}
		source, _, _ = strings.Cut(strings.TrimSpace(source), ",")
		if present[source] {
			continue
		}
		b.d.say("Unpinning image %s", name)
		if err := b.containerd.Pin(ctx, b.d.s, name, true); err != nil {
			b.d.complain("Failed to unpin image "+name, err)
		}
	}
	for file := range b.named {
		if !present[file] {
			delete(b.named, file)
			delete(b.seen, file)
		}
	}
}

// watch loads what is new once the directory has been quiet for a while.
func (b *bundles) watch(ctx context.Context) {
	state := func() string {
		var text strings.Builder
		entries, _ := os.ReadDir(b.d.images)
		for _, e := range entries {
			if fi, err := e.Info(); err == nil {
				fmt.Fprintln(&text, e.Name(), fi.Size(), fi.ModTime())
			}
		}
		return text.String()
	}
	loaded, last, changed := state(), state(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
		if now := state(); now != last {
			last, changed = now, time.Now()
		}
		if last != loaded && time.Since(changed) >= debounce {
			loaded = last
			b.load(ctx)
		}
	}
}

// bundleNames are the names under which containerd imports the images of a plain tar: a full name in an annotation of an
// OCI layout, or RepoTags of a docker archive. A tag alone is no name. What is no plain tar is an error.
func bundleNames(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	for archive, first := tar.NewReader(f), true; ; first = false {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			if first {
				return nil, errors.New("unrecognized image format")
			}
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		switch filepath.Clean(header.Name) {
		case "index.json":
			var index struct {
				Manifests []struct{ Annotations map[string]string }
			}
			if err := json.NewDecoder(archive).Decode(&index); err != nil {
				return nil, err
			}
			for _, m := range index.Manifests {
				name := m.Annotations["io.containerd.image.name"]
				if ref := m.Annotations["org.opencontainers.image.ref.name"]; name == "" && strings.ContainsAny(ref, "/:") {
					name = ref
				}
				if name != "" {
					names = append(names, name)
				}
			}
		case "manifest.json":
			var manifests []struct{ RepoTags []string }
			if err := json.NewDecoder(archive).Decode(&manifests); err != nil {
				return nil, err
			}
			if len(names) == 0 {
				for _, m := range manifests {
					names = append(names, m.RepoTags...)
				}
			}
		}
	}
}
