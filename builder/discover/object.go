package discover

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// podPaths say where objects of Kubernetes' own kinds hold a PodSpec, by group and kind (k8s.io/api; a test
// compares this with the Go types). Versions do not matter: the place has been the same in all of them.
var podPaths = map[string][]string{
	"/Pod":                   {"spec"},
	"/PodTemplate":           {"template", "spec"},
	"/ReplicationController": {"spec", "template", "spec"},
	"apps/Deployment":        {"spec", "template", "spec"},
	"apps/ReplicaSet":        {"spec", "template", "spec"},
	"apps/StatefulSet":       {"spec", "template", "spec"},
	"apps/DaemonSet":         {"spec", "template", "spec"},
	"extensions/Deployment":  {"spec", "template", "spec"},
	"extensions/ReplicaSet":  {"spec", "template", "spec"},
	"extensions/DaemonSet":   {"spec", "template", "spec"},
	"batch/Job":              {"spec", "template", "spec"},
	"batch/CronJob":          {"spec", "jobTemplate", "spec", "template", "spec"},
	"batch/JobTemplate":      {"template", "spec", "template", "spec"}, // of batch/v1beta1
}

// builtinGroups are those of Kubernetes itself; all others are custom resources, also some that end in k8s.io.
var builtinGroups = map[string]bool{
	"": true, "apps": true, "autoscaling": true, "batch": true, "extensions": true, "policy": true,
	"admission.k8s.io": true, "admissionregistration.k8s.io": true, "apiextensions.k8s.io": true, "apiregistration.k8s.io": true,
	"authentication.k8s.io": true, "authorization.k8s.io": true, "certificates.k8s.io": true, "coordination.k8s.io": true,
	"discovery.k8s.io": true, "events.k8s.io": true, "flowcontrol.apiserver.k8s.io": true, "imagepolicy.k8s.io": true,
	"internal.apiserver.k8s.io": true, "lifecycle.k8s.io": true, "networking.k8s.io": true, "node.k8s.io": true, "rbac.authorization.k8s.io": true,
	"resource.k8s.io": true, "scheduling.k8s.io": true, "storage.k8s.io": true, "storagemigration.k8s.io": true,
	// Files that programs of Kubernetes read; they are not applied to a cluster.
	"apiserver.config.k8s.io": true, "audit.k8s.io": true, "client.authentication.k8s.io": true, "credentialprovider.kubelet.k8s.io": true,
	"kubelet.config.k8s.io": true, "kubeproxy.config.k8s.io": true, "kubescheduler.config.k8s.io": true, "kubeadm.k8s.io": true,
}

// object is one Kubernetes object on the way through the search.
type object struct {
	f    *findings
	name string // "Deployment shop/web"
	// claimed are the values that a typed field has explained; they are no candidates any more.
	claimed map[*yaml.Node]bool
	// budget bounds how many values are looked at: aliases can make a small file a very large object.
	budget *int
}

// maxValues is the budget of one document.
const maxValues = 1 << 20

func (o *object) spend() bool {
	*o.budget--
	return *o.budget > 0
}

// document finds the images of one document.
func (f *findings) document(n *yaml.Node) {
	budget := maxValues
	f.object(n, "", "", 0, &budget)
	if budget <= 0 {
		f.errs = append(f.errs, f.errorAt(n.Line, fmt.Errorf("more than %d values: aliases stand for too much", maxValues)))
	}
}

// object finds the images of one object; items of a list may leave out what the list says of them.
func (f *findings) object(n *yaml.Node, apiVersion, kind string, depth int, budget *int) {
	n = follow(n)
	if n == nil {
		return
	}
	if v := text(field(n, "apiVersion")); v != "" {
		apiVersion = v
	}
	if v := text(field(n, "kind")); v != "" {
		kind = v
	}
	o := &object{f: f, claimed: map[*yaml.Node]bool{}, budget: budget}
	if !o.spend() {
		return
	}
	if n.Kind == yaml.SequenceNode && depth < 16 { // a file of JSON objects in an array
		for _, item := range n.Content {
			f.object(item, "", "", depth+1, budget)
		}
		return
	}
	if apiVersion == "" || kind == "" {
		f.unknown(o, n)
		return
	}
	group, _, hasGroup := strings.Cut(apiVersion, "/")
	if !hasGroup {
		group = ""
	}
	list := field(n, "items")
	if base, ok := strings.CutSuffix(kind, "List"); ok && list != nil && depth < 16 {
		itemVersion := apiVersion
		if base == "" { // a List of anything
			itemVersion = ""
		}
		for _, item := range items(list) {
			if !o.spend() {
				return
			}
			f.object(item, itemVersion, base, depth+1, budget)
		}
		return
	}
	o.name = kind
	meta := field(n, "metadata")
	if name := text(field(meta, "name")) + text(field(meta, "generateName")); name != "" {
		o.name += " " + name
		if ns := text(field(meta, "namespace")); ns != "" {
			o.name = kind + " " + ns + "/" + name
		}
	}
	o.typed(n, group, kind, depth)
	f.search.userPaths(o, n, group, kind)
	o.candidates(n, kind)
}

// typed looks at the fields that are images by definition.
func (o *object) typed(n *yaml.Node, group, kind string, depth int) {
	at := podPaths[group+"/"+kind]
	switch {
	case at != nil:
		spec := n
		for _, key := range at {
			spec = field(spec, key)
		}
		if spec != nil {
			o.podSpec(spec, strings.Join(at, "."))
		}
	case group == "apps" && kind == "ControllerRevision":
		if data := field(n, "data"); data != nil && depth < 16 {
			o.f.object(data, "", "", depth+1, o.budget)
		}
	case builtinGroups[group]:
	default:
		o.custom(n, group, kind)
	}
}

// containerLists are the fields of a PodSpec that hold containers.
var containerLists = []string{"initContainers", "containers", "ephemeralContainers"}

// podSpec finds the images of a PodSpec: of its containers of all sorts, and its volumes that are images.
func (o *object) podSpec(spec *yaml.Node, at string) {
	for _, key := range containerLists {
		for i, c := range items(field(spec, key)) {
			if !o.spend() {
				return
			}
			where := fmt.Sprintf("%s.%s[%d].image", at, key, i)
			image := field(c, "image")
			if image == nil || image.Tag == "!!null" {
				o.f.skip(Where{File: o.f.file, Line: line(c), Object: o.name, Field: where}, "the container has no image")
				continue
			}
			o.image(image, where)
		}
	}
	for i, v := range items(field(spec, "volumes")) {
		if !o.spend() {
			return
		}
		if ref := field(field(v, "image"), "reference"); ref != nil {
			o.image(ref, fmt.Sprintf("%s.volumes[%d].image.reference", at, i))
		}
	}
}

func line(n *yaml.Node) int {
	if n = follow(n); n == nil {
		return 0
	}
	return n.Line
}

// image takes the value of a field that is an image by definition.
func (o *object) image(n *yaml.Node, at string) {
	n = follow(n)
	if n == nil {
		return
	}
	o.claimed[n] = true
	where := Where{File: o.f.file, Line: n.Line, Object: o.name, Field: at}
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		o.f.skip(where, fmt.Sprintf("the image is not a text but %s", describe(n)))
		return
	}
	o.f.add(n.Value, Typed, Certain, "", where)
}

// describe says what a node is, for errors.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return strconv.Quote(n.Value)
}

// unknown is a document that is no object of Kubernetes: values of something, or part of an object.
func (f *findings) unknown(o *object, n *yaml.Node) {
	switch {
	case f.loose:
	case n.Kind != yaml.MappingNode:
		f.skip(Where{File: f.file, Line: n.Line}, "this is no object of Kubernetes but "+describe(n))
	case len(n.Content) > 0:
		f.skip(Where{File: f.file, Line: n.Line}, "this is no object of Kubernetes: it has no apiVersion and kind")
		o.candidates(n, "")
	}
}
