package discover

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/clusterimage/keg/basefs"
)

// ConfigFile is the file, at the root of a tree or of an app, with what a search cannot know by itself.
const ConfigFile = "discover.yaml"

// config is the content of such a file. Paths in it are relative to its directory.
type config struct {
	// Paths are fields of custom resources that hold images.
	Paths []kindPaths `json:"paths,omitempty"`
	// Take are candidates to take, Ignore images to leave out.
	Take   []string `json:"take,omitempty"`
	Ignore []string `json:"ignore,omitempty"`
	// Skip are patterns of files that hold nothing for the cluster.
	Skip []string `json:"skip,omitempty"`
	// Charts say with which values charts are installed.
	Charts []chartValues `json:"charts,omitempty"`
}

type kindPaths struct {
	Group  string   `json:"group,omitempty"` // any, if empty
	Kind   string   `json:"kind"`
	Images []string `json:"images"`
}

type chartValues struct {
	Chart string `json:"chart"`
	// Values are the sets: the chart is rendered once with each, a list of files of which later ones win.
	Values [][]string `json:"values"`
}

// configure reads the files of configuration.
func (s *search) configure(tree fs.FS) error {
	take, ignore := slices.Clone(s.opts.Take), slices.Clone(s.opts.Ignore)
	names := []string{ConfigFile}
	for _, root := range append(slices.Clone(s.opts.Roots), ".") {
		for _, glob := range []string{"*", "*/*"} { // of roots that hold apps
			more, _ := fs.Glob(tree, path.Join(root, glob, ConfigFile))
			names = append(names, more...)
		}
		names = append(names, path.Join(root, ConfigFile))
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		data, err := fs.ReadFile(tree, name)
		if err != nil {
			continue // it is not there
		}
		var c config
		if err := yaml.UnmarshalStrict(data, &c); err != nil {
			return &FileError{File: name, Err: err}
		}
		for _, p := range c.Paths {
			if p.Kind == "" {
				return &FileError{File: name, Err: fmt.Errorf("paths: a kind is missing")}
			}
			for _, text := range p.Images {
				if _, err := parsePath(text); err != nil {
					return &FileError{File: name, Err: err}
				}
			}
		}
		dir := path.Dir(name)
		for _, p := range c.Skip {
			s.skip = append(s.skip, path.Join(dir, p))
		}
		for _, v := range c.Charts {
			v.Chart = path.Join(dir, v.Chart)
			for _, set := range v.Values {
				for i := range set {
					set[i] = path.Join(dir, set[i])
				}
			}
			s.charts = append(s.charts, v)
		}
		s.paths = append(s.paths, c.Paths...)
		take, ignore = append(take, c.Take...), append(ignore, c.Ignore...)
		s.configs = append(s.configs, name)
	}
	if data, err := fs.ReadFile(tree, sealosIgnore); err == nil {
		list, err := basefs.ParseImageList(sealosIgnore, bytes.NewReader(data))
		if err != nil {
			return err
		}
		for _, l := range list {
			ignore = append(ignore, l.Ref)
		}
	}
	var err error
	if s.take, err = newPatterns(take); err != nil {
		return fmt.Errorf("reading candidates to take: %w", err)
	}
	if s.ignore, err = newPatterns(ignore); err != nil {
		return fmt.Errorf("reading images to ignore: %w", err)
	}
	return nil
}
