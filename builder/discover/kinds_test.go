package discover

import (
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
)

// TestKinds compares podPaths, and the lists of containers, with Kubernetes' own Go types: there is no kind that holds a
// PodSpec and is not known, and no field of a PodSpec that holds an image and is not looked at.
func TestKinds(t *testing.T) {
	spec := reflect.TypeFor[corev1.PodSpec]()
	groups := map[string]bool{}
	for gvk, typ := range scheme.Scheme.AllKnownTypes() {
		groups[gvk.Group] = true
		if strings.HasSuffix(gvk.Kind, "List") {
			continue
		}
		var found []string
		walkType(typ, nil, map[reflect.Type]bool{}, func(typ reflect.Type, path []string) bool {
			if typ == spec {
				found = append(found, strings.Join(path, "."))
			}
			return typ != spec
		})
		if want := strings.Join(podPaths[gvk.Group+"/"+gvk.Kind], "."); strings.Join(found, " ") != want {
			t.Errorf("%s has PodSpecs at %q, and podPaths says %q", gvk, found, want)
		}
	}
	for g := range groups {
		if !builtinGroups[g] {
			t.Errorf("builtinGroups lacks %s", g)
		}
	}
	var images []string
	walkType(spec, nil, map[reflect.Type]bool{}, func(typ reflect.Type, path []string) bool {
		last := ""
		if len(path) > 0 {
			last = path[len(path)-1]
		}
		if typ.Kind() == reflect.String && (last == "image" || last == "reference") && strings.Join(path, ".") != "volumes.rbd.image" { // a disk of Ceph
			images = append(images, strings.Join(path, "."))
		}
		return true
	})
	want := "volumes.image.reference initContainers.image containers.image ephemeralContainers.image"
	if got := strings.Join(images, " "); got != want {
		t.Errorf("a PodSpec has images at %q, and %q are known", got, want)
	}
}

// walkType visits the fields of a type by their JSON names; elements of lists have the name of the list.
func walkType(typ reflect.Type, path []string, above map[reflect.Type]bool, visit func(reflect.Type, []string) bool) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
		typ = typ.Elem()
	}
	if above[typ] || !visit(typ, path) || typ.Kind() != reflect.Struct {
		return
	}
	above[typ] = true
	defer delete(above, typ)
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		sub := path
		if name != "" {
			sub = append(path[:len(path):len(path)], name)
		}
		walkType(f.Type, sub, above, visit)
	}
}
