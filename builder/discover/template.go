package discover

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/clusterimage/keg/basefs"
)

const templateSuffix = ".tmpl"

// hole marks, in what comes of a template, a value that is known only when the cluster runs.
const hole = "keg-unknown-value-"

var holeName = regexp.MustCompile(hole + `([A-Za-z0-9_.-]*?)-end`)

// holesIn are the names of the values that a text is missing.
func holesIn(text string) []string {
	var out []string
	for _, m := range holeName.FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// atRun are the variables that every host has when templates are rendered (runtime.Cluster.Env, which this package does
// not know). A template may ask for them; only an image that is named by one is a loss.
var atRun = map[string]string{
	"CLUSTER_NAME": "cluster", "NODE_NAME": "node", "NODE_IP": "192.0.2.1", "NODE_ROLE": "master", "MASTER_IP": "192.0.2.1",
	"MASTERS": "192.0.2.1", "WORKERS": "192.0.2.2", "APISERVER_NAME": "apiserver.cluster.local", "ROOTFS": "/",
	"IMAGE_NAME": holeFor("IMAGE_NAME"), "REGISTRY": holeFor("REGISTRY"), "REGISTRY_DOMAIN": holeFor("REGISTRY_DOMAIN"),
	"REGISTRY_PORT": "5000", "HostIP": "192.0.2.1", "HostIPFamily": "4", "RegistryPort": "5000", "LocalRegistryPort": "5000",
	"RegistryDomain": holeFor("RegistryDomain"), "RegistryURL": holeFor("RegistryURL"),
	"LocalRegistryDomain": holeFor("LocalRegistryDomain"), "LocalRegistryURL": holeFor("LocalRegistryURL"),
}

func holeFor(name string) string { return hole + name + "-end" }

// maxHoles bounds how many values a template may be missing.
const maxHoles = 200

// render renders our own templates, as happens on a host, and lists each under the name that it gets there. Values that
// nobody has given yet are left open.
func (s *search) render() {
	var names []string
	for _, name := range s.files {
		base, ok := strings.CutSuffix(name, templateSuffix)
		if ext := path.Ext(base); !ok || !relevant(base) && ext != "" && ext != ".tpl" && ext != ".txt" {
			names = append(names, name)
			continue
		}
		names = append(names, base)
		text, err := fs.ReadFile(s.tree, name)
		if err != nil {
			s.errs = append(s.errs, &FileError{File: name, Err: err})
			continue
		}
		data, missing, err := s.renderText(name, string(text))
		if err != nil {
			var te *basefs.TemplateError
			if errors.As(err, &te) {
				err = &FileError{File: name, Line: te.Line, Err: errors.New(te.Text)}
			}
			if f := (findings{file: name, loose: s.loose[base]}); f.loose {
				f.fail(err)
				s.own.skipped = append(s.own.skipped, f.skipped...)
				continue
			}
			s.errs = append(s.errs, err)
			continue
		}
		if len(missing) > 0 && !s.loose[base] {
			s.own.skip(Where{File: name}, fmt.Sprintf("rendered without values for %s: what depends on them may be missing; give them a default by ENV or APPENV", strings.Join(missing, ", ")))
		}
		s.texts[base] = data
	}
	s.files = names
}

// renderText renders one template, and names the values for which it had to put holes.
func (s *search) renderText(name, text string) (data []byte, missing []string, err error) {
	env := maps.Clone(atRun)
	maps.Copy(env, map[string]string{"KUBE_VERSION": s.opts.Metadata.KubernetesVersion(), "ARCH": basefs.GOARCH(s.opts.Metadata.Arch)})
	maps.DeleteFunc(env, func(_, v string) bool { return v == "" })
	maps.Copy(env, s.opts.Env)
	if rest, ok := strings.CutPrefix(name, basefs.AppsDir+"/"); ok {
		app, _, _ := strings.Cut(rest, "/")
		maps.Copy(env, s.opts.Apps[app])
	}
	for range maxHoles {
		data, err = basefs.RenderText(name, text, env)
		var te *basefs.TemplateError
		if err == nil || !errors.As(err, &te) || te.Key == "" {
			return data, missing, err
		}
		missing = append(missing, te.Key)
		env[te.Key] = holeFor(te.Key)
	}
	return nil, nil, err
}
