package runtime

import (
	"bytes"
	"fmt"
	"maps"
	"strings"

	"sigs.k8s.io/yaml"
)

// Document is one document of a runtime's own configuration, as the user gave it.
type Document struct {
	// Source is "FILE:LINE" where it begins.
	Source string         `json:"source"`
	Value  map[string]any `json:"value"`
}

// Kind is the document's kind; "" if it has none, as a configuration of k3s.
func (d Document) Kind() string {
	kind, _ := d.Value["kind"].(string)
	return kind
}

// ParseDocuments reads a stream of YAML documents. Empty ones are left out; one that is no mapping, or
// that names a key twice, is an error with the file and the line where it begins.
func ParseDocuments(file string, data []byte) ([]Document, error) {
	var list []Document
	line := 1
	for i, part := range splitDocuments(data) {
		source := fmt.Sprintf("%s:%d", file, line+leadingLines(part))
		above := line - 1 // as empty lines, so that an error names the line of the file
		line += bytes.Count(part, []byte("\n"))
		if i > 0 || bytes.HasPrefix(part, []byte("---")) {
			_, part, _ = bytes.Cut(part, []byte("\n"))
			above++
		}
		var value any
		if err := yaml.UnmarshalStrict(append(bytes.Repeat([]byte("\n"), above), part...), &value); err != nil {
			return nil, fmt.Errorf("reading %s: %s", source, strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "))
		}
		switch v := value.(type) {
		case nil:
		case map[string]any:
			list = append(list, Document{Source: source, Value: v})
		default:
			return nil, fmt.Errorf("reading %s: it is no mapping of keys to values", source)
		}
	}
	return list, nil
}

// splitDocuments cuts at lines that begin with "---"; each part but the first begins with that line.
func splitDocuments(data []byte) [][]byte {
	var parts [][]byte
	var part []byte
	for l := range bytes.Lines(data) {
		if isSeparator(l) && len(part) > 0 {
			parts = append(parts, part)
			part = nil
		}
		part = append(part, l...)
	}
	return append(parts, part)
}

func isSeparator(line []byte) bool {
	return string(bytes.TrimRight(line, " \t\r\n")) == "---" || bytes.HasPrefix(line, []byte("--- #"))
}

// leadingLines counts what stands before the first line that says something.
func leadingLines(part []byte) int {
	n := 0
	for l := range bytes.Lines(part) {
		text := strings.TrimSpace(string(l))
		if text != "" && !strings.HasPrefix(text, "#") && !isSeparator(l) {
			return n
		}
		n++
	}
	return 0
}

// Merge lays a document over another and changes neither. Mappings are merged key by key, and null takes
// a key away (RFC 7386). Lists are joined: of objects with a name, or of arguments, one of the same name is
// merged; of plain values, those that are not there yet are added. Anything else is replaced.
func Merge(base, over map[string]any) map[string]any {
	out := maps.Clone(base)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range over {
		switch v := v.(type) {
		case nil:
			delete(out, k)
		case map[string]any:
			old, _ := out[k].(map[string]any)
			out[k] = Merge(old, v)
		case []any:
			old, _ := out[k].([]any)
			out[k] = mergeLists(old, v)
		default:
			out[k] = v
		}
	}
	return out
}

func mergeLists(base, over []any) []any {
	out := append([]any{}, base...)
	for _, v := range over {
		i := indexLike(out, v)
		switch object, ok := v.(map[string]any); {
		case i < 0:
			out = append(out, v)
		case ok:
			old, _ := out[i].(map[string]any)
			out[i] = Merge(old, object)
		}
	}
	return out
}

// indexLike finds what an element of a list stands for: the object of the same name, or the same value.
func indexLike(list []any, v any) int {
	object, ok := v.(map[string]any)
	for i, o := range list {
		other, otherOK := o.(map[string]any)
		switch {
		case ok && otherOK && object["name"] != nil && object["name"] == other["name"]:
			return i
		case !ok && !otherOK && fmt.Sprint(o) == fmt.Sprint(v):
			return i
		}
	}
	return -1
}
