package basefs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// MetadataFile is the name of the file at the root of a tree that says what it is.
const MetadataFile = "Metadata"

const (
	// metadataLimit bounds what is read of it.
	metadataLimit = 1 << 20
	// example is what one looks like.
	example = `{"version": "v1.37.2", "arch": "amd64", "ClusterRuntime": "kubernetes"}`
)

// ErrNoMetadata says that a tree has no file Metadata.
var ErrNoMetadata = errors.New("the tree has no file Metadata: add one at its root, such as " + example)

// Runtimes are the names that ClusterRuntime may have.
func Runtimes() []string { return []string{"kubernetes", "k3s", "k0s"} }

// MetadataError says that the file Metadata cannot be read as what it should be.
type MetadataError struct {
	Line int // from 1; 0 if the file as a whole is wrong
	Text string
}

// Error names the file, the line and what is wrong.
func (e *MetadataError) Error() string {
	if e.Line == 0 {
		return MetadataFile + ": " + e.Text
	}
	return fmt.Sprintf("%s:%d: %s", MetadataFile, e.Line, e.Text)
}

// RuntimeError says that a tree is for a runtime that nobody knows.
type RuntimeError struct {
	Name  string
	Known []string
}

// Error names the runtime and those there are.
func (e *RuntimeError) Error() string {
	return fmt.Sprintf("%s: ClusterRuntime %q is unknown: use %s", MetadataFile, e.Name, strings.Join(e.Known, ", "))
}

// Load reads the file Metadata of a tree. Keys that keg does not know are skipped, since other tools
// have more of them; ClusterRuntime may be missing, for a label may say it. The errors are
// ErrNoMetadata, *MetadataError and *RuntimeError.
func Load(tree fs.FS) (Metadata, error) {
	f, err := tree.Open(MetadataFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Metadata{}, ErrNoMetadata
	}
	if err != nil {
		return Metadata{}, fmt.Errorf("reading %s: %w", MetadataFile, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, metadataLimit+1))
	if err != nil {
		return Metadata{}, fmt.Errorf("reading %s: %w", MetadataFile, err)
	}
	return ParseMetadata(text)
}

// ParseMetadata is Load of the file's text.
func ParseMetadata(text []byte) (Metadata, error) {
	var md Metadata
	if len(text) > metadataLimit {
		return md, &MetadataError{Text: fmt.Sprintf("larger than %d bytes: it should be a small JSON object", metadataLimit)}
	}
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	if err := json.Unmarshal(text, &md); err != nil {
		return Metadata{}, jsonError(text, err)
	}
	if md.Runtime != "" && !slices.Contains(Runtimes(), md.Runtime) {
		return md, &RuntimeError{Name: md.Runtime, Known: Runtimes()}
	}
	return md, nil
}

// jsonError adds the line, and says it in words of this file.
func jsonError(text []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return &MetadataError{Text: "empty: write a JSON object such as " + example}
	case errors.As(err, &syntax):
		return &MetadataError{Line: lineAt(text, syntax.Offset), Text: "not JSON: " + syntax.Error()}
	case errors.As(err, &kind) && kind.Field == "":
		return &MetadataError{Line: lineAt(text, kind.Offset), Text: fmt.Sprintf("a JSON object is wanted, not this %s", kind.Value)}
	case errors.As(err, &kind):
		want := "a string"
		if kind.Type.Kind().String() == "bool" {
			want = "true or false"
		}
		return &MetadataError{Line: lineAt(text, kind.Offset), Text: fmt.Sprintf("%s: %s is wanted, not this %s", kind.Field, want, kind.Value)}
	}
	return &MetadataError{Text: err.Error()}
}

func lineAt(text []byte, offset int64) int {
	return 1 + bytes.Count(text[:max(0, min(offset, int64(len(text))))], []byte("\n"))
}

// GOARCH is an architecture in Go's name, also where the kernel's was given.
func GOARCH(arch string) string {
	switch arch {
	case "x86_64", "x86-64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return arch
}

// KubernetesVersion is the version of the Kubernetes in the tree, such as "v1.37.2".
func (m Metadata) KubernetesVersion() string {
	if m.Version != "" {
		return m.Version
	}
	return m.KubeVersion
}
