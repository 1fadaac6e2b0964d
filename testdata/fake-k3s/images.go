package main

import (
	"archive/tar"
	"bufio"
	"compress/bzip2"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/clusterimage/keg/internal/compression"
	"github.com/clusterimage/keg/internal/standin"
)

// imageExtensions are what k3s imports from agent/images.
var imageExtensions = []string{".tar", ".tar.lz4", ".tar.bz2", ".tbz", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".txt"}

func imageFile(name string) bool {
	for _, e := range imageExtensions {
		if strings.HasSuffix(name, e) {
			return true
		}
	}
	return false
}

// imagesState is agent/images/.cache.json: what was imported, so that an unchanged archive is skipped.
type imagesState map[string]importedFile

type importedFile struct {
	Size    int64
	ModTime time.Time
	Images  []string
}

func (c *config) imagesDir() string { return c.agentFile("images") }

func (c *config) imagesState() imagesState {
	state := imagesState{}
	if data, err := os.ReadFile(filepath.Join(c.imagesDir(), ".cache.json")); err == nil {
		_ = json.Unmarshal(data, &state)
	}
	return state
}

// importImages imports what is new in agent/images, pins it, and unpins what is no longer there. A bad archive is an
// error in the log and no more, as with the real one.
func (c *config) importImages(ctx context.Context, s *standin.Supervisor, d standin.Containerd) {
	entries, err := os.ReadDir(c.imagesDir())
	if err != nil {
		return
	}
	old, state := c.imagesState(), imagesState{}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() || !imageFile(e.Name()) {
			continue
		}
		file := filepath.Join(c.imagesDir(), e.Name())
		if known, ok := old[e.Name()]; ok && known.Size == fi.Size() && known.ModTime.Equal(fi.ModTime()) {
			if have, err := d.Images(ctx, s); err == nil && !slices.ContainsFunc(known.Images, func(i string) bool { return !slices.Contains(have, i) }) {
				state[e.Name()] = known
				continue
			}
		}
		began := time.Now()
		names, err := importFile(ctx, s, d, file)
		if err != nil {
			logf("error", "Error encountered while importing %s: %v", file, err)
			continue
		}
		logf("info", "Imported images from %s in %v: %v", file, time.Since(began).Round(time.Millisecond), names)
		state[e.Name()] = importedFile{Size: fi.Size(), ModTime: fi.ModTime(), Images: names}
	}
	pinned := map[string]bool{}
	for _, f := range state {
		for _, name := range f.Images {
			pinned[name] = true
		}
	}
	for _, f := range old {
		for _, name := range f.Images {
			if !pinned[name] {
				_ = d.Pin(ctx, s, name, true)
			}
		}
	}
	if data, err := json.Marshal(state); err == nil {
		_ = write(filepath.Join(c.imagesDir(), ".cache.json"), string(data), 0o600)
	}
}

func importFile(ctx context.Context, s *standin.Supervisor, d standin.Containerd, file string) ([]string, error) {
	if strings.HasSuffix(file, ".txt") {
		return pullList(ctx, s, d, file)
	}
	names, err := archiveNames(file)
	if err != nil {
		return nil, err
	}
	f, err := openArchive(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := d.Import(ctx, s, "", f, true); err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := d.Pin(ctx, s, name, false); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// pullList pulls the images that a text file names.
func pullList(ctx context.Context, s *standin.Supervisor, d standin.Containerd, file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		name := strings.TrimSpace(line)
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		if err := fullName(name); err != nil {
			return nil, err
		}
		if _, err := d.Ctr(ctx, s, nil, "images", "pull", "--hosts-dir="+d.CertsDir, name); err != nil {
			logf("error", "Failed to pull %s: %v", name, err)
			continue
		}
		if err := d.Pin(ctx, s, name, false); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

type archiveReader struct {
	io.Reader
	close []func() error
}

func (a archiveReader) Close() error {
	var errs []error
	for _, f := range a.close {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// openArchive unpacks by the name's ending, as k3s does: a wrong ending is an error, whatever the bytes are.
func openArchive(file string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	has := func(endings ...string) bool {
		return slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(file, e) })
	}
	switch {
	case has(".tar.lz4"):
		_ = f.Close()
		return nil, errors.New("stand-in: lz4 is not supported")
	case has(".tar.bz2", ".tbz"):
		return archiveReader{bzip2.NewReader(f), []func() error{f.Close}}, nil
	case has(".tar.gz", ".tgz", ".tar.zst", ".tzst"):
		buffered := bufio.NewReader(f)
		head, _ := buffered.Peek(16)
		format := compression.Detect(head)
		if gz := has(".tar.gz", ".tgz"); gz && format != compression.Gzip || !gz && format != compression.Zstd {
			_ = f.Close()
			return nil, fmt.Errorf("%s: its content is not what its name says", file)
		}
		r, err := compression.NewReader(buffered)
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		return archiveReader{r, []func() error{func() error { r.Close(); return nil }, f.Close}}, nil
	}
	return f, nil
}

// archiveNames are the names of the images in an archive. An image without a full name and tag is an error.
func archiveNames(file string) ([]string, error) {
	f, err := openArchive(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var oci, docker []byte
	for archive := tar.NewReader(f); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch filepath.Clean(header.Name) {
		case "index.json":
			oci, err = io.ReadAll(io.LimitReader(archive, 1<<24))
		case "manifest.json":
			docker, err = io.ReadAll(io.LimitReader(archive, 1<<24))
		}
		if err != nil {
			return nil, err
		}
	}
	switch {
	case oci != nil: // an OCI layout goes before a Docker archive's list
		return ociNames(oci)
	case docker != nil:
		return dockerNames(docker)
	}
	return nil, errors.New("unrecognized image format: neither index.json nor manifest.json")
}

func ociNames(data []byte) ([]string, error) {
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, err
	}
	var names []string
	for _, m := range index.Manifests {
		name := m.Annotations["io.containerd.image.name"]
		if name == "" {
			name = m.Annotations["org.opencontainers.image.ref.name"]
		}
		if name == "" {
			name = m.Digest
		}
		if err := fullName(name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

func dockerNames(data []byte) ([]string, error) {
	var manifest []struct{ RepoTags []string }
	if err := json.Unmarshal(data, &manifest); err != nil {
		return nil, err
	}
	var names []string
	for _, m := range manifest {
		if len(m.RepoTags) == 0 {
			return nil, errors.New("failed to parse tag: an image has none")
		}
		for _, name := range m.RepoTags {
			if err := fullName(name); err != nil {
				return nil, err
			}
			names = append(names, dockerName(name))
		}
	}
	return names, nil
}

var nameWithTag = regexp.MustCompile(`^[a-z0-9]([a-zA-Z0-9._:/-]*[a-z0-9])?:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

func fullName(name string) error {
	if strings.Contains(name, "@") || strings.HasPrefix(name, "sha256:") || !nameWithTag.MatchString(name) {
		return fmt.Errorf("failed to parse tag %q: images need a full name with a tag", name)
	}
	return nil
}

// dockerName is the full form of a name in a Docker archive: containerd keeps images under that.
func dockerName(name string) string {
	first, _, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		return "docker.io/library/" + name
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		return "docker.io/" + name
	}
	return name
}

// watchImages imports what comes while the node is running.
func (c *config) watchImages(ctx context.Context, s *standin.Supervisor, d standin.Containerd) {
	for last := c.imagesListing(); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(3 * time.Second):
		}
		if now := c.imagesListing(); now != last {
			last = now
			c.importImages(ctx, s, d)
		}
	}
}

func (c *config) imagesListing() string {
	var list strings.Builder
	entries, err := os.ReadDir(c.imagesDir())
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && imageFile(e.Name()) {
			fmt.Fprintln(&list, e.Name(), fi.Size(), fi.ModTime().UnixNano())
		}
	}
	return list.String()
}
