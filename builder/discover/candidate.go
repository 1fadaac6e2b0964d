package discover

import (
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// candidates finds what looks like an image in an object's texts: environment, arguments, annotations, the data of
// ConfigMaps, and fields of custom resources that are called like images.
func (o *object) candidates(n *yaml.Node, kind string) {
	if kind == "CustomResourceDefinition" {
		o.defaults(n, "", 0)
		return
	}
	o.look(n, "", "", 0)
}

// notRead are fields whose texts are for people, or are copies.
var notRead = map[string]bool{
	"description": true, "managedFields": true, "kubectl.kubernetes.io/last-applied-configuration": true,
	"artifacthub.io/images": true, "icon": true,
}

// look walks down. key is the last field's name, without the indexes after it.
func (o *object) look(n *yaml.Node, key, at string, depth int) {
	if n == nil || n.Kind == yaml.AliasNode || depth > maxDepth || !o.spend() { // an alias's values are looked at where they stand
		return
	}
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!str" && !o.claimed[n] {
			o.scalar(n, key, at)
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			o.look(c, key, elem(at, i), depth+1)
		}
	case yaml.MappingNode:
		if name, value := field(n, "name"), field(n, "value"); text(name) != "" && value != nil && value.Kind == yaml.ScalarNode {
			o.variable(name.Value, value, at) // of an environment
			o.claimed[value] = true
		}
		o.parts(n, key, at)
		for i := 0; i+1 < len(n.Content); i += 2 {
			if k := n.Content[i]; k.Kind == yaml.ScalarNode && !notRead[k.Value] {
				o.look(n.Content[i+1], k.Value, join(at, k.Value), depth+1)
			}
		}
	}
}

// defaults looks at the defaults in a CustomResourceDefinition's schema.
func (o *object) defaults(n *yaml.Node, at string, depth int) {
	if n == nil || n.Kind == yaml.AliasNode || depth > maxDepth || !o.spend() {
		return
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, c := range n.Content {
			o.defaults(c, elem(at, i), depth+1)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Value == "default" {
				o.look(n.Content[i+1], parentName(at), join(at, k.Value), depth+1)
				continue
			}
			o.defaults(n.Content[i+1], join(at, k.Value), depth+1)
		}
	}
}

func parentName(at string) string { return at[strings.LastIndexByte(at, '.')+1:] }

var (
	// strong is a text that can hardly be anything but an image: a registry, a path, and a tag or a digest.
	strong = regexp.MustCompile(`(?:^|[\s"'=,;(\[{>|` + "`" + `])((?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+|localhost)(?::[0-9]{1,5})?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)+(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(?:@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64}))`)
	// imageName is how fields, flags and variables are called that hold an image.
	imageName = regexp.MustCompile(`(?i)(?:^|[._-]|[a-z0-9])image(?:[._-]?(?:name|ref|reference|url))?$`)
	// imageLine is a line of a manifest inside a text.
	imageLine = regexp.MustCompile(`(?m)(?:^|[{,])[\s"-]*[A-Za-z_]*[iI]mage"?:[ \t]*["']?([^\s"'#,}{]+)`)
	flagValue = regexp.MustCompile(`^(--?[A-Za-z0-9][A-Za-z0-9._-]*)=(.+)$`)
)

// pinned says whether a text that may be an image has a tag or a digest; without one it is mostly something else.
func pinned(s string) bool {
	return strings.Contains(s, "@sha256:") || strings.Contains(s[strings.LastIndexByte(s, '/')+1:], ":")
}

func (o *object) scalar(n *yaml.Node, key, at string) {
	value := strings.TrimSpace(n.Value)
	if value == "" {
		return
	}
	w := Where{File: o.f.file, Line: n.Line, Object: o.name, Field: at}
	if !strings.ContainsAny(value, " \t\n") {
		switch m := flagValue.FindStringSubmatch(value); {
		case m != nil && imageName.MatchString(m[1]):
			o.f.candidate(m[2], High, "value of the flag "+m[1], w)
			return
		case imageName.MatchString(key) && (pinned(value) || strings.Contains(value, "/")):
			o.f.candidate(value, High, "a field named "+key, w)
			return
		case key == "image" && o.name == "":
			o.f.candidate(value, Low, "a field named image, outside of any object", w)
			return
		}
	}
	o.prose(n, value, at)
}

// prose looks for images inside a longer text: an argument, a script, a file in a ConfigMap.
func (o *object) prose(n *yaml.Node, value, at string) {
	if len(value) > maxProse {
		o.f.skip(Where{File: o.f.file, Line: n.Line, Object: o.name, Field: at}, "the text is too long to look for images in it")
		return
	}
	start := n.Line
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		start++ // the text begins on the line after its | or >
	}
	where := func(offset int) Where {
		w := Where{File: o.f.file, Line: n.Line, Object: o.name, Field: at}
		if n.Style&yaml.LiteralStyle != 0 {
			w.Line = start + strings.Count(value[:offset], "\n")
		}
		return w
	}
	seen := map[string]bool{}
	for _, m := range imageLine.FindAllStringSubmatchIndex(value, -1) {
		if ref := value[m[2]:m[3]]; pinned(ref) && !seen[ref] {
			seen[ref] = true
			o.f.candidate(ref, High, "a line of a manifest inside a text", where(m[2]))
		}
	}
	for _, m := range strong.FindAllStringSubmatchIndex(value, -1) {
		if ref := value[m[2]:m[3]]; !seen[ref] && !isAddress(ref) {
			seen[ref] = true
			o.f.candidate(ref, Medium, "a text that looks like an image", where(m[2]))
		}
	}
}

// maxProse bounds a text that is searched.
const maxProse = 4 << 20

// isAddress says whether a text is a URL's host and path: the "tag" is a port.
func isAddress(ref string) bool {
	_, last, _ := strings.Cut(ref[strings.LastIndexByte(ref, '/')+1:], ":")
	return last != "" && len(last) <= 5 && strings.Trim(last, "0123456789") == "" && strings.Contains(ref, ".svc/")
}

// variable looks at a variable of an environment.
func (o *object) variable(name string, value *yaml.Node, at string) {
	ref := strings.TrimSpace(value.Value)
	if value.Tag != "!!str" || ref == "" || o.claimed[value] {
		return
	}
	w := Where{File: o.f.file, Line: value.Line, Object: o.name, Field: join(at, "value")}
	switch {
	case strings.HasPrefix(name, "RELATED_IMAGE_") && !strings.ContainsAny(ref, " \n"):
		o.f.candidate(ref, High, "the variable "+name, w)
	case strings.Contains(name, "IMAGE") && pinned(ref) && !strings.ContainsAny(ref, " \n="):
		o.f.candidate(ref, High, "the variable "+name, w)
	default:
		o.prose(value, ref, join(at, "value"))
	}
}

// parts looks at a mapping that holds the parts of a name.
func (o *object) parts(n *yaml.Node, key, at string) {
	repository := field(n, "repository")
	if repository == nil || repository.Tag != "!!str" || o.claimed[n] {
		return
	}
	ref, parts, err := combine(n)
	if len(parts) == 0 {
		return
	}
	for _, p := range parts {
		if o.claimed[p] {
			return
		}
	}
	w := Where{File: o.f.file, Line: n.Line, Object: o.name, Field: at}
	if err != nil {
		if imageName.MatchString(key) {
			o.f.skip(w, err.Error())
		}
		return
	}
	for _, p := range parts {
		o.claimed[p] = true
	}
	o.f.candidate(ref, High, "a repository and a tag", w)
}

func (f *findings) candidate(ref string, c Confidence, reason string, w Where) {
	f.add(strings.TrimPrefix(strings.TrimPrefix(ref, "docker://"), "oci://"), Candidate, c, reason, w)
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}
