package basefs

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Level is how bad a finding is.
type Level string

const (
	// LevelError is for what makes a build or a run fail.
	LevelError Level = "error"
	// LevelWarning is for what is likely not meant.
	LevelWarning Level = "warning"
)

// Finding is something about a tree that is not as it should be.
type Finding struct {
	Level Level  `json:"level"`
	Path  string `json:"path"`
	Text  string `json:"text"`           // what is wrong
	Cure  string `json:"cure,omitempty"` // what to do about it
}

// Check says what is wrong with a tree, errors first, each group by path. It reads no file as a whole
// but small ones. Trees of sealer pass: what those keep elsewhere is not missed.
func Check(tree fs.FS) []Finding {
	c := &checker{tree: tree}
	c.metadata()
	c.topLevel()
	c.required()
	c.programs("bin")
	c.programs("opt/cni/bin")
	c.scripts()
	c.templates()
	for _, name := range ImageLists() {
		c.imageList(name)
	}
	c.archives()
	slices.SortStableFunc(c.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.Path, b.Path)) // "error" < "warning"
	})
	return c.found
}

// checker collects findings.
type checker struct {
	tree  fs.FS
	md    Metadata
	found []Finding
}

func (c *checker) err(path, text, cure string) {
	c.found = append(c.found, Finding{LevelError, path, text, cure})
}

func (c *checker) warn(path, text, cure string) {
	c.found = append(c.found, Finding{LevelWarning, path, text, cure})
}

// metadata checks what Load does, and what a person should know besides.
func (c *checker) metadata() {
	md, err := Load(c.tree)
	c.md = md
	var unknown *RuntimeError
	var wrong *MetadataError
	switch {
	case errors.Is(err, ErrNoMetadata):
		c.err(MetadataFile, "missing", "write one, such as "+example)
		return
	case errors.As(err, &unknown):
		c.err(MetadataFile, fmt.Sprintf("ClusterRuntime %q is unknown", unknown.Name), "use "+strings.Join(unknown.Known, ", "))
	case errors.As(err, &wrong) && wrong.Line > 0:
		c.err(fmt.Sprintf("%s:%d", MetadataFile, wrong.Line), wrong.Text, "")
		return
	case errors.As(err, &wrong):
		c.err(MetadataFile, wrong.Text, "")
		return
	case err != nil:
		c.err(MetadataFile, err.Error(), "")
		return
	}
	if md.Runtime == "" {
		c.warn(MetadataFile, "ClusterRuntime is not set; the image needs a label that says it", "add \"ClusterRuntime\": "+strings.Join(Runtimes(), ", or "))
	}
	if v := md.KubernetesVersion(); v == "" {
		c.warn(MetadataFile, "version is not set", `add "version": "v1.37.2"`)
	} else if !strings.HasPrefix(v, "v") || strings.Count(v, ".") < 2 {
		c.warn(MetadataFile, fmt.Sprintf("version %q is not like those of Kubernetes", v), "write it like v1.37.2")
	}
	if _, known := machineOf(md.Arch); md.Arch == "" {
		c.warn(MetadataFile, "arch is not set; programs are not checked against it", `add "arch": "amd64"`)
	} else if !known {
		c.err(MetadataFile, fmt.Sprintf("arch %q is unknown", md.Arch), "use Go's names: amd64, arm64")
	}
	c.unknownKeys()
}

func (c *checker) unknownKeys() {
	text, err := fs.ReadFile(c.tree, MetadataFile)
	if err != nil {
		return // Load has said so
	}
	keys := map[string]json.RawMessage{}
	if json.Unmarshal([]byte(strings.TrimPrefix(string(text), "\uFEFF")), &keys) != nil {
		return
	}
	known := []string{"version", "arch", "variant", "kubeversion", "clusterruntime", "nydusflag"}
	var unknown []string
	for k := range keys {
		if !slices.Contains(known, strings.ToLower(k)) {
			unknown = append(unknown, k)
		}
	}
	slices.Sort(unknown)
	for _, k := range unknown {
		c.warn(MetadataFile, fmt.Sprintf("key %q is not used", k), "")
	}
}

// topLevel warns of entries that neither keg nor sealer's scripts use.
func (c *checker) topLevel() {
	entries, err := fs.ReadDir(c.tree, ".")
	if err != nil {
		c.err(".", err.Error(), "")
		return
	}
	known := []string{
		"bin", "etc", "opt", "manifests", "charts", "application", "scripts", "images", "statics", "plugins",
		"registry", "registry.tar.gz", "imageList", MetadataFile,
		"applications", "cri", "lib", "rpm", "deb", "tgz", "certs", "pki", "cache", // sealer's
		"Kubefile", "Kubefile.lock", "Dockerfile", "LICENSE", "versions", // of a build context
	}
	for _, e := range entries {
		name := e.Name()
		if slices.Contains(known, name) || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "README") || strings.HasPrefix(name, "Metadata.") {
			continue
		}
		c.warn(name, "not a name that keg knows: it goes into the image and nothing uses it but your own scripts", closest(name, known))
	}
}

// closest proposes a known name that differs in case or in one letter at the end.
func closest(name string, known []string) string {
	for _, k := range known {
		if strings.EqualFold(name, k) || strings.EqualFold(name+"s", k) || strings.EqualFold(name, k+"s") {
			return "rename it to " + k + " if that was meant"
		}
	}
	return ""
}

// required are the files without which a runtime cannot be.
func (c *checker) required() {
	switch c.md.Runtime {
	case "kubernetes":
		c.programsThere("kubeadm", "kubelet", "kubectl")
		if DockerOnly(c.there) {
			c.err("scripts/docker.sh", "the only container runtime, which a kubelet of today cannot use: keg run refuses the image", "add containerd, containerd-shim-runc-v2 and runc to bin/, or a scripts/containerd.sh that installs them")
		} else if !c.bringsContainerd() {
			c.programsThere("containerd", "runc", "containerd-shim-runc-v2")
		}
		for _, name := range []string{"etc/kubeadm.yaml.tmpl", "etc/kubeadm.yml.tmpl", "etc/kubeadm.yaml", "etc/kubeadm.yml"} {
			if c.there(name) {
				return
			}
		}
		c.err("etc/kubeadm.yaml.tmpl", "missing: the runtime kubernetes needs kubeadm's configuration", "start from the one in keg's basefs/kubernetes")
	case "k3s", "k0s":
		c.programsThere(c.md.Runtime)
	}
}

// bringsContainerd says whether a container runtime comes as an archive that scripts install, as in
// sealer's trees.
func (c *checker) bringsContainerd() bool {
	for _, dir := range []string{"cri", "tgz"} {
		for _, pattern := range []string{"docker*", "containerd*", "cri-*"} {
			if m, _ := fs.Glob(c.tree, dir+"/"+pattern); len(m) > 0 {
				return true
			}
		}
	}
	return false
}

func (c *checker) there(name string) bool {
	info, err := fs.Stat(c.tree, name)
	return err == nil && info.Mode().IsRegular()
}

func (c *checker) programsThere(names ...string) {
	for _, name := range names {
		if file := "bin/" + name; !c.there(file) {
			c.err(file, "missing: the runtime "+c.md.Runtime+" needs it", "put the program for "+cmp.Or(c.md.Arch, "the hosts' architecture")+" there")
		}
	}
}

// each calls visit for the regular files directly in dir, and complains of links to nowhere.
func (c *checker) each(dir string, visit func(name string, info fs.FileInfo, head []byte)) {
	entries, err := fs.ReadDir(c.tree, dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.err(dir, err.Error(), "")
		}
		return
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		info, err := fs.Stat(c.tree, name)
		switch {
		case err != nil && e.Type()&fs.ModeSymlink != 0:
			c.err(name, "a link to nowhere", "replace it by the file, or take it out")
		case err != nil:
			c.err(name, err.Error(), "")
		case info.Mode().IsRegular():
			head, err := c.head(name)
			if err != nil {
				c.err(name, err.Error(), "make the file readable")
				continue
			}
			visit(name, info, head)
		case !info.IsDir():
			c.err(name, "neither a file nor a directory but "+info.Mode().Type().String(), "take it out")
		}
	}
}

// head is the beginning of a file: enough for any magic number, tar's included.
func (c *checker) head(name string) ([]byte, error) {
	f, err := c.tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, 512)
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return buf[:n], nil
}

// templates parses them all.
func (c *checker) templates() {
	err := walkTemplates(c.tree, func(name string, _ fs.FileMode, text string) error {
		c.template(parseOnly(name, text))
		return nil
	})
	var wrong *TemplateError
	if err != nil && !errors.As(err, &wrong) {
		c.err(".", err.Error(), "")
	} else {
		c.template(err)
	}
}

func parseOnly(name, text string) error {
	_, err := parseTemplate(name, text)
	return err
}

func (c *checker) template(err error) {
	var wrong *TemplateError
	if !errors.As(err, &wrong) {
		return
	}
	where := wrong.File
	if wrong.Line > 0 {
		where = fmt.Sprintf("%s:%d", where, wrong.Line)
	}
	c.err(where, wrong.Text, "")
}

// imageList checks every line.
func (c *checker) imageList(name string) {
	if info, err := fs.Stat(c.tree, "manifests"); err == nil && (name == "manifests" && info.IsDir() || strings.HasPrefix(name, "manifests/") && !info.IsDir()) {
		return
	}
	f, err := c.tree.Open(name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.err(name, err.Error(), "")
		}
		return
	}
	defer f.Close()
	_, err = ParseImageList(name, f)
	for _, e := range unjoin(err) {
		var line *LineError
		if errors.As(e, &line) {
			c.err(fmt.Sprintf("%s:%d", name, line.LineNo), fmt.Sprintf("%q: %v", line.Text, line.Err), "")
			continue
		}
		c.err(name, e.Error(), "")
	}
}

func unjoin(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}
