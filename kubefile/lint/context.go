package lint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/clusterimage/keg/kubefile"
)

// Context is a build context: a directory, and what its ignore file leaves out.
type Context struct {
	files  fs.FS
	ignore *patternmatcher.PatternMatcher
}

// OpenContext reads the ignore file of a build context: NAME.dockerignore for a Kubefile of that base name, else
// .dockerignore.
func OpenContext(files fs.FS, name string) (*Context, error) {
	c := &Context{files: files}
	var text []byte
	for _, n := range []string{filepath.Base(name) + ".dockerignore", ".dockerignore"} {
		data, err := fs.ReadFile(files, n)
		if err == nil {
			name, text = n, data
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading %s: %w", n, err)
		}
	}
	patterns, err := ignorefile.ReadAll(strings.NewReader(string(text)))
	if err == nil {
		c.ignore, err = patternmatcher.New(patterns)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return c, nil
}

func (c *Context) ignored(name string) bool {
	if name == "." {
		return false
	}
	out, err := c.ignore.MatchesOrParentMatches(filepath.FromSlash(name))
	return err == nil && out
}

// find lists what a source names in the context, without what is ignored. A source that names nothing has
// an empty list: the build says more of that.
func (c *Context) find(ctx context.Context, source string) ([]string, error) {
	pattern := clean(source)
	if !strings.ContainsAny(pattern, `*?[\`) {
		if _, err := fs.Stat(c.files, pattern); err != nil {
			return nil, nil //nolint:nilerr // the build says what is wrong with it
		}
		return []string{pattern}, nil
	}
	// A "**" stands for any number of directories: everything below is looked at.
	if before, _, deep := strings.Cut(pattern, "**"); deep {
		pattern = path.Clean(before + "*")
	}
	names, err := fs.Glob(c.files, pattern)
	if err != nil {
		return nil, nil //nolint:nilerr // as above
	}
	return names, context.Cause(ctx)
}

// clean is a source relative to the context.
func clean(source string) string {
	return strings.TrimLeft(path.Clean("/"+source), "/") + map[bool]string{true: "."}[strings.Trim(path.Clean("/"+source), "/") == ""]
}

// file is a regular file that a source names.
type file struct {
	name string
	info fs.FileInfo
}

// walk lists the regular files that a source takes. What cannot be read is left to the build.
func (c *Context) walk(ctx context.Context, source string, each func(file) error) error {
	roots, err := c.find(ctx, source)
	if err != nil {
		return err
	}
	for _, root := range roots {
		err := fs.WalkDir(c.files, root, func(name string, d fs.DirEntry, err error) error {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			if err != nil {
				return nil //nolint:nilerr // as above
			}
			if c.ignored(name) {
				if d.IsDir() && !c.ignore.Exclusions() {
					return fs.SkipDir
				}
				return nil
			}
			info, err := d.Info()
			if err != nil || !info.Mode().IsRegular() {
				return nil //nolint:nilerr // as above
			}
			return each(file{name, info})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// maxText is how much of a file is looked at for secrets; a larger file is no key and no kubeconfig.
const maxText = 256 << 10

// read is the text of a small file, else its beginning.
func (c *Context) read(f file) []byte {
	r, err := c.files.Open(f.name)
	if err != nil {
		return nil
	}
	defer r.Close()
	most := int64(maxText)
	if f.info.Size() > most {
		most = elfHeader
	}
	text, _ := io.ReadAll(io.LimitReader(r, most)) // what cannot be read is left to the build
	return text
}

// ignoredSources finds sources that the ignore file leaves out. As BuildKit, it does not try where the file
// takes something back.
func (p *stageRun) ignoredSources(what string, list []string, in kubefile.Instruction) {
	ignore := p.o.Context.ignore
	if ignore.Exclusions() {
		return
	}
	for _, src := range list {
		name := clean(src)
		if strings.Contains(name, "$") {
			continue
		}
		out := name != "." && p.o.Context.ignored(name)
		if name == "." {
			out = slices.ContainsFunc(ignore.Patterns(), func(pattern *patternmatcher.Pattern) bool {
				return slices.Contains([]string{"*", "**", "**/*"}, pattern.String())
			})
		}
		if out {
			p.say(&copyIgnoredFile, in, "%s", linter.RuleCopyIgnoredFile.Format(what, path.Clean(src)))
		}
	}
}

// sources looks at the files that an instruction takes from the context.
func (p *stageRun) sources(what string, list []string, in, written kubefile.Instruction) error {
	if p.o.Context == nil || len(list) == 0 {
		return nil
	}
	if what == "COPY" || what == "ADD" {
		p.ignoredSources(what[:1]+strings.ToLower(what[1:]), list, in)
	}
	if err := p.otherPlatforms(what, in, written); err != nil {
		return err
	}
	secrets, strange := 0, 0
	for _, src := range list {
		if strings.Contains(src, "$") {
			continue
		}
		err := p.o.Context.walk(p.ctx, src, func(f file) error {
			content, ok := p.looked[f.name]
			if !ok {
				text := p.o.Context.read(f)
				content = look{secretFile(f.name, text), program(text)}
				p.looked[f.name] = content
			}
			if kind := content.secret; kind != "" {
				if secrets++; secrets <= maxOfOne {
					p.say(&secretInLayer, in, "%s takes %s, which is %s", what, f.name, kind)
				}
			}
			if arch := p.strange(content.arch); arch != "" {
				if strange++; strange <= maxOfOne {
					p.say(&missingArchitecture, in, "%s takes %s, which is a program for %s, into the image for %s", what, f.name, arch, p.platform)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// look is what the content of a file shows.
type look struct{ secret, arch string }

// maxOfOne is how many findings of a rule one instruction has.
const maxOfOne = 5
