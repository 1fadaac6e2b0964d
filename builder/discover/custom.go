package discover

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// custom finds the images of a custom resource: in the fields that are known of its kind, and in every PodSpec
// inside it.
func (o *object) custom(n *yaml.Node, group, kind string) {
	for _, op := range operators {
		if op.group != group || len(op.kinds) > 0 && !slices.Contains(op.kinds, kind) {
			continue
		}
		found := o.paths(n, op.paths)
		where := Where{File: o.f.file, Line: n.Line, Object: o.name}
		switch {
		case op.elsewhere != "" && !found:
			o.f.skip(where, op.elsewhere+": name the images in imageList")
		case op.chosen && !found:
			o.f.skip(where, fmt.Sprintf("it sets none of %s, so its operator chooses the images: name them in imageList", strings.Join(op.paths, ", ")))
		}
	}
	o.embedded(n, "", 0)
}

// paths takes what paths lead to as images, and says whether there was one.
func (o *object) paths(n *yaml.Node, paths []string) bool {
	found := false
	for _, s := range paths {
		p, err := parsePath(s)
		if err != nil { // those of users are checked before, ours by a test
			o.f.fail(o.f.errorAt(0, err))
			return found
		}
		p.each(o, n, "", func(v *yaml.Node, at string) {
			if o.claimed[v] {
				found = true
				return
			}
			switch v.Kind {
			case yaml.ScalarNode:
				if v.Tag == "!!null" {
					return
				}
				o.image(v, at)
				found = true
			case yaml.MappingNode:
				ref, parts, err := combine(v)
				if len(parts) == 0 {
					return
				}
				where := Where{File: o.f.file, Line: v.Line, Object: o.name, Field: at}
				if err != nil {
					o.f.skip(where, err.Error())
					return
				}
				for _, part := range parts {
					o.claimed[part] = true
				}
				o.f.add(ref, Typed, Certain, "", where)
				found = true
			}
		})
	}
	return found
}

// combine makes one name of a mapping that holds its parts: {registry, repository, tag, digest} and what else is
// common. Without a repository there are no parts.
func combine(n *yaml.Node) (ref string, parts []*yaml.Node, err error) {
	part := func(keys ...string) string {
		for _, k := range keys {
			if v := field(n, k); text(v) != "" && v.Tag != "!!bool" {
				parts = append(parts, v)
				return v.Value
			}
		}
		return ""
	}
	repository := part("repository", "repo")
	image := part("image", "imageName")
	switch {
	case repository != "" && image != "":
		ref = strings.TrimSuffix(repository, "/") + "/" + image
	case repository != "":
		ref = repository
		if name := field(n, "name"); text(name) != "" && field(n, "tag") != nil && !strings.Contains(repository, "/") {
			parts = append(parts, name)
			ref += "/" + name.Value
		}
	case image != "":
		ref = image
	default:
		return "", nil, nil
	}
	if registry := part("registry", "hub", "imageRegistry"); registry != "" && !strings.HasPrefix(ref, registry+"/") {
		ref = strings.TrimSuffix(registry, "/") + "/" + ref
	}
	tag, digest := part("tag", "imageTag", "version"), part("digest", "sha")
	switch {
	case strings.Contains(ref, "@"):
		return ref, parts, nil
	case digest != "":
		if !strings.Contains(digest, ":") {
			digest = "sha256:" + digest
		}
		if tag != "" {
			ref += ":" + tag
		}
		return ref + "@" + digest, parts, nil
	case tag != "":
		return ref + ":" + tag, parts, nil
	case strings.Contains(ref[strings.LastIndex(ref, "/")+1:], ":"):
		return ref, parts, nil
	}
	return "", parts, fmt.Errorf("%s has no tag here: somebody adds one later", ref)
}

// embedded finds PodSpecs inside a custom resource: mappings that have a list "containers" whose elements have
// a name and an image.
func (o *object) embedded(n *yaml.Node, at string, depth int) {
	if n = follow(n); n == nil || depth > 100 || !o.spend() {
		return
	}
	if list := items(field(n, "containers")); len(list) > 0 && isContainer(list[0]) {
		for _, key := range containerLists {
			for i, c := range items(field(n, key)) {
				if image := field(c, "image"); image != nil && !o.claimed[image] {
					o.image(image, strings.TrimPrefix(fmt.Sprintf("%s.%s[%d].image", at, key, i), "."))
				}
			}
		}
		for i, v := range items(field(n, "volumes")) {
			if ref := field(field(v, "image"), "reference"); ref != nil && !o.claimed[ref] {
				o.image(ref, strings.TrimPrefix(fmt.Sprintf("%s.volumes[%d].image.reference", at, i), "."))
			}
		}
	}
	children(n, at, func(c *yaml.Node, at string) { o.embedded(c, at, depth+1) })
}

func isContainer(n *yaml.Node) bool {
	image := field(n, "image")
	return text(field(n, "name")) != "" && image != nil && image.Kind == yaml.ScalarNode && image.Tag == "!!str"
}

// userPaths takes what the user's paths lead to.
func (s *search) userPaths(o *object, n *yaml.Node, group, kind string) {
	for _, p := range s.paths {
		if p.Kind == kind && (p.Group == "" || p.Group == group) {
			o.paths(n, p.Images)
		}
	}
}
