package discover

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

var bom = []byte("\uFEFF")

// lineError is an error at a line of a text.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }

func (e *lineError) Unwrap() error { return e.err }

// readDocuments reads the documents of a YAML or JSON text: streams of several, with comments, anchors, merge keys,
// a byte order mark, any line ends. Nodes know their lines. An error may be a *lineError.
func readDocuments(data []byte) (docs []*yaml.Node, err error) {
	// The parser panics at a few texts that are no YAML; see its issue tracker. A build must not.
	defer func() {
		if r := recover(); r != nil {
			docs, err = nil, fmt.Errorf("this is no YAML: %v", r)
		}
	}()
	data = bytes.TrimPrefix(data, bom)
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') {
		// JSON is YAML but for some escapes, and several values one after the other are a stream only in JSON.
		if docs, err := readJSON(data); err == nil {
			return docs, nil
		}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, yamlError(data, err)
		}
		if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 && doc.Content[0].Tag != "!!null" {
			docs = append(docs, doc.Content[0])
		}
	}
}

var (
	yamlPlace  = regexp.MustCompile(`^yaml: (?:[a-z ]*error: )?line (\d+): (.*)$`)
	yamlAnchor = regexp.MustCompile(`unknown anchor '([^']+)' referenced`)
)

// yamlError takes the line out of the text of the parser's errors, which have no fields.
func yamlError(data []byte, err error) error {
	if m := yamlAnchor.FindStringSubmatch(err.Error()); m != nil {
		if i := bytes.Index(data, []byte("*"+m[1])); i >= 0 {
			return &lineError{line: 1 + bytes.Count(data[:i], []byte("\n")), err: errors.New(m[0])}
		}
	}
	m := yamlPlace.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	line, _ := strconv.Atoi(m[1])
	if strings.HasPrefix(m[2], "did not find expected") { // these count lines from 0
		line++
	}
	return &lineError{line: line, err: errors.New(m[2])}
}

// maxDepth bounds how deep values are nested in each other.
const maxDepth = 1000

// readJSON reads a stream of JSON values.
func readJSON(data []byte) ([]*yaml.Node, error) {
	var lines []int // offsets of line ends
	for i, c := range data {
		if c == '\n' {
			lines = append(lines, i)
		}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var value func(depth int) (*yaml.Node, error)
	value = func(depth int) (*yaml.Node, error) {
		if depth > maxDepth {
			return nil, errors.New("nested too deep")
		}
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		n := &yaml.Node{Kind: yaml.ScalarNode, Line: 1 + sort.SearchInts(lines, int(dec.InputOffset())-1)}
		switch t := t.(type) {
		case json.Delim:
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
			if t == '[' {
				n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
			}
			for dec.More() {
				item, err := value(depth + 1)
				if err != nil {
					return nil, err
				}
				n.Content = append(n.Content, item)
				if t == '{' {
					if item, err = value(depth + 1); err != nil {
						return nil, err
					}
					n.Content = append(n.Content, item)
				}
			}
			_, err = dec.Token()
		case string:
			n.Tag, n.Value = "!!str", t
		case json.Number:
			n.Tag, n.Value = "!!float", t.String()
		case bool:
			n.Tag, n.Value = "!!bool", strconv.FormatBool(t)
		case nil:
			n.Tag = "!!null"
		}
		return n, err
	}
	var docs []*yaml.Node
	for {
		n, err := value(0)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, err
		}
		if n.Tag != "!!null" {
			docs = append(docs, n)
		}
	}
}

// follow replaces an alias by what it stands for.
func follow(n *yaml.Node) *yaml.Node {
	for range 8 { // an alias cannot stand for an alias, but hostile nodes are cheap to bound
		if n == nil || n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return nil
}

// field is the value of a key of a mapping, or nil. The last of several wins, as it does for kubectl; a key of its own
// wins over merged ones, and the first of several merged mappings over later ones.
func field(n *yaml.Node, key string) *yaml.Node { return fieldAt(n, key, 0) }

func fieldAt(n *yaml.Node, key string, depth int) *yaml.Node {
	n = follow(n)
	if n == nil || n.Kind != yaml.MappingNode || depth > 16 {
		return nil
	}
	for i := len(n.Content) - 2; i >= 0; i -= 2 {
		if k := follow(n.Content[i]); k != nil && k.Kind == yaml.ScalarNode && k.Tag != "!!merge" && k.Value == key {
			return follow(n.Content[i+1])
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag != "!!merge" {
			continue
		}
		merged := follow(n.Content[i+1])
		if merged == nil {
			continue
		}
		list := []*yaml.Node{merged}
		if merged.Kind == yaml.SequenceNode {
			list = merged.Content
		}
		for _, m := range list {
			if v := fieldAt(m, key, depth+1); v != nil {
				return v
			}
		}
	}
	return nil
}

// text is the value of a scalar, or "".
func text(n *yaml.Node) string {
	if n = follow(n); n != nil && n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		return n.Value
	}
	return ""
}

// items are the elements of a sequence; of anything else there are none.
func items(n *yaml.Node) []*yaml.Node {
	if n = follow(n); n != nil && n.Kind == yaml.SequenceNode {
		return n.Content
	}
	return nil
}
