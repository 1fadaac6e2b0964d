package discover

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"

	"github.com/clusterimage/keg/basefs"
)

// valueSets are the values that a chart is rendered with: those that the user gave; else those of discover.yaml; else its
// own, and over them each file of values that lies beside it, and those of APPENV. With optional the first may fail,
// because others are there.
func (f *findings) valueSets(root string, c *chart.Chart) (sets []valueSet, optional bool, err error) {
	s := f.search
	own := valueSet{values: map[string]any{}}
	if len(s.opts.Values) > 0 {
		for _, v := range s.opts.Values {
			more, err := loader.LoadValues(bytes.NewReader(bytes.TrimPrefix(v.Data, bom)))
			if err != nil {
				return nil, false, &FileError{File: v.Name, Err: err}
			}
			own.values = loader.MergeMaps(own.values, more)
			own.name = strings.TrimPrefix(own.name+" and "+v.Name, " and ")
		}
		return []valueSet{own}, false, nil
	}
	lists, said := s.valuesSaid(root)
	if !said {
		lists = s.valuesBeside(root)
		sets = append(sets, own)
	}
	for _, list := range lists {
		set := valueSet{name: strings.Join(list, " and "), values: map[string]any{}}
		for _, name := range list {
			data, err := s.read(name)
			if err != nil {
				return nil, false, &FileError{File: name, Err: err}
			}
			more, err := loader.LoadValues(bytes.NewReader(bytes.TrimPrefix(data, bom)))
			if err != nil {
				return nil, false, &FileError{File: name, Err: err}
			}
			set.values = loader.MergeMaps(set.values, more)
		}
		sets = append(sets, set)
	}
	if rest, ok := strings.CutPrefix(root, basefs.AppsDir+"/"); ok {
		app, _, _ := strings.Cut(rest, "/")
		env, err := appValues(s.opts.Apps[app], c.Values)
		if err != nil {
			return nil, false, fmt.Errorf("values of app %s: %w", app, err)
		}
		if len(env) > 0 {
			for _, set := range slices.Clone(sets) {
				name := strings.TrimPrefix(set.name+" and APPENV", " and ")
				sets = append(sets, valueSet{name: name, values: loader.MergeMaps(set.values, env)})
			}
		}
	}
	return sets, !said && len(sets) > 1, nil
}

// appValues are those of an app's variables that are values of its chart: KEY=VALUE as helm's --set takes it.
func appValues(env map[string]string, chartValues map[string]any) (map[string]any, error) {
	out := map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		first, _, _ := strings.Cut(k, ".")
		if _, ok := chartValues[first]; !ok {
			continue // a variable for templates and commands
		}
		if err := strvals.ParseInto(k+"="+strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(env[k]), out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// valuesSaid are the sets that discover.yaml has for a chart.
func (s *search) valuesSaid(root string) (sets [][]string, said bool) {
	for _, c := range s.charts {
		if c.Chart == root {
			sets, said = append(sets, c.Values...), true
		}
	}
	return sets, said
}

var variant = regexp.MustCompile(`^values[-._][A-Za-z0-9._-]+\.ya?ml$`)

// valuesBeside are the files of values that belong to a chart, each a set: NAME.values.yaml and NAME-values.yaml next to
// the chart, values-VARIANT.yaml and values.VARIANT.yaml inside.
func (s *search) valuesBeside(root string) [][]string {
	if sets, said := s.valuesSaid(root); said {
		return sets
	}
	var out [][]string
	dir, base := path.Split(root)
	base = strings.TrimSuffix(strings.TrimSuffix(base, ".tgz"), ".tar.gz")
	names := []string{base}
	if m := packedName.FindStringSubmatch(base); m != nil && base != path.Base(root) {
		names = append(names, m[1]) // shop-1.2.3.tgz is the chart shop
	}
	for _, n := range names {
		for _, end := range []string{".values.yaml", ".values.yml", "-values.yaml", "-values.yml"} {
			if f := dir + n + end; s.has(f) {
				out = append(out, []string{f})
			}
		}
	}
	for _, f := range s.under(root) {
		if path.Dir(f) == root && variant.MatchString(path.Base(f)) {
			out = append(out, []string{f})
		}
	}
	return out
}

var packedName = regexp.MustCompile(`^(.+?)-v?\d+\.\d+\.\d+`)
