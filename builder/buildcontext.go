package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Errors of the build context that callers tell apart.
var (
	// ErrNoContext says that an instruction needs files and the build has no context.
	ErrNoContext = errors.New("this build has no context directory")
	// ErrOutside says that a path, or a symbolic link on it, leads out of the context.
	ErrOutside = errors.New("leads out of the build context")
	// ErrSource says that a source is not in the context, or is left out by the ignore file.
	ErrSource = errors.New("not in the build context")
)

// buildContext is the directory that COPY, ADD and APP read from. It is never left, and what the ignore rules
// leave out is not there.
type buildContext struct {
	dir    string
	root   *os.Root
	ignore *patternmatcher.PatternMatcher
	rules  string // the text of ignore
}

// openContext opens the context; rules is the text of an ignore file, or "" for the one in the context:
// NAME.dockerignore for a Kubefile of that base name, else .dockerignore.
func openContext(dir, rules, kubefile string) (*buildContext, error) {
	c := &buildContext{dir: dir}
	if dir != "" {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, fmt.Errorf("opening build context: %w", err)
		}
		c.root = root
	}
	if err := c.readRules(rules, kubefile); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *buildContext) close() error {
	if c.root == nil {
		return nil
	}
	return c.root.Close()
}

func (c *buildContext) readRules(rules, kubefile string) error {
	name := "ignore file"
	if rules == "" && c.root != nil {
		for _, name = range []string{filepath.Base(kubefile) + ".dockerignore", ".dockerignore"} {
			data, err := c.root.ReadFile(name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("reading %s: %w", name, err)
			}
			if err == nil {
				rules = string(data)
				break
			}
		}
	}
	c.rules = rules
	patterns, err := ignorefile.ReadAll(strings.NewReader(rules))
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if c.ignore, err = patternmatcher.New(patterns); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

// ignored says whether the rules leave a path out.
func (c *buildContext) ignored(name string) (bool, error) {
	if name == "." {
		return false, nil
	}
	out, err := c.ignore.MatchesOrParentMatches(filepath.FromSlash(name))
	if err != nil {
		return false, fmt.Errorf("matching %s against the ignore rules: %w", name, err)
	}
	return out, nil
}

// real follows the symbolic links of a path. What leads out of the context, or through a link to an
// absolute path, is ErrOutside.
func (c *buildContext) real(name string) (string, error) {
	var done []string
	todo := split(name)
	for links := 0; len(todo) > 0; {
		elem := todo[0]
		todo = todo[1:]
		if elem == "" || elem == "." {
			continue
		}
		if elem == ".." {
			if len(done) == 0 {
				return "", fmt.Errorf("%s: %w", name, ErrOutside)
			}
			done = done[:len(done)-1]
			continue
		}
		next := append(done[:len(done):len(done)], elem)
		at := strings.Join(next, "/")
		fi, err := c.root.Lstat(at)
		if err != nil {
			return "", err
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: %w", name, errLinkLoop)
		}
		target, err := c.root.Readlink(at)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			return "", fmt.Errorf("%s: the link to %s %w", at, target, ErrOutside)
		}
		todo = append(strings.Split(filepath.ToSlash(target), "/"), todo...)
	}
	if len(done) == 0 {
		return ".", nil
	}
	return strings.Join(done, "/"), nil
}

// found is one source that a pattern named.
type found struct {
	name string // as it was named: it gives the file its name in the image
	real string // with links followed
	info fs.FileInfo
}

// find resolves a source as the Kubefile writes it: a path or a pattern, relative to the context with or
// without a leading slash. The result is sorted and never empty.
func (c *buildContext) find(ctx context.Context, source string) ([]found, error) {
	if c.root == nil {
		return nil, fmt.Errorf("%s: %w", source, ErrNoContext)
	}
	pattern, err := contextPath(source)
	if err != nil {
		return nil, err
	}
	names := []string{pattern}
	if hasWildcard(pattern) {
		if names, err = c.glob(ctx, ".", split(pattern)); err != nil {
			return nil, fmt.Errorf("%s: %w", source, err)
		}
		slices.Sort(names)
		names = slices.Compact(names)
	}
	var out []found
	for _, n := range names {
		skip, err := c.ignored(n)
		if err != nil {
			return nil, err
		}
		if skip && !c.mayHoldMore(n) {
			if !hasWildcard(pattern) {
				return nil, fmt.Errorf("%s: the ignore file leaves it out: %w", source, ErrSource)
			}
			continue
		}
		f := found{name: n}
		if f.real, err = c.real(n); err == nil {
			f.info, err = c.root.Stat(f.real)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, c.missing(source, n)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", source, plain(err))
		}
		if f.real != n {
			if skip, err = c.ignored(f.real); err != nil || skip {
				return nil, errors.Join(err, fmt.Errorf("%s: the ignore file leaves its target %s out: %w", source, f.real, ErrSource))
			}
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s matches nothing%s: %w", source, c.near(pattern), ErrSource)
	}
	return out, nil
}

// contextPath makes a source a clean path relative to the context.
func contextPath(source string) (string, error) {
	trimmed := strings.TrimLeft(source, "/")
	clean := path.Clean("./" + trimmed)
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("%s: %w", source, ErrOutside)
	}
	return clean, nil
}

// mayHoldMore says whether the rules take back ("!") something below a directory they leave out.
func (c *buildContext) mayHoldMore(name string) bool {
	if !c.ignore.Exclusions() {
		return false
	}
	fi, err := c.root.Stat(name)
	return err == nil && fi.IsDir()
}

// hasWildcard says whether a name is a pattern of path.Match.
func hasWildcard(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

// glob matches a pattern element by element; "**" stands for any number of directories.
func (c *buildContext) glob(ctx context.Context, dir string, elems []string) ([]string, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if len(elems) == 0 {
		return []string{dir}, nil
	}
	elem, rest := elems[0], elems[1:]
	if !hasWildcard(elem) {
		next := path.Join(dir, elem)
		if _, err := c.root.Lstat(next); err != nil {
			return nil, nil // a pattern that leads nowhere matches nothing; find says so
		}
		return c.glob(ctx, next, rest)
	}
	list, err := c.readDir(dir)
	if err != nil {
		return nil, nil // not a directory
	}
	var out []string
	if elem == "**" && len(rest) > 0 {
		if out, err = c.glob(ctx, dir, rest); err != nil {
			return nil, err
		}
	}
	for _, e := range list {
		next := path.Join(dir, e.Name())
		var more []string
		if elem == "**" && len(rest) > 0 {
			if e.IsDir() {
				more, err = c.glob(ctx, next, elems)
			}
		} else {
			var ok bool
			if ok, err = path.Match(elem, e.Name()); ok {
				more, err = c.glob(ctx, next, rest)
			}
		}
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

func (c *buildContext) readDir(name string) ([]fs.DirEntry, error) {
	f, err := c.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.ReadDir(-1)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}

// open opens a regular file, never out of the context.
func (c *buildContext) open(name string) (io.ReadCloser, error) {
	f, err := c.root.Open(name)
	if err != nil {
		return nil, plain(err)
	}
	return f, nil
}

func (c *buildContext) missing(source, name string) error {
	return fmt.Errorf("%s: no such file or directory%s: %w", source, c.near(name), ErrSource)
}

// near says what else a missing name may have meant: "; did you mean app.yaml?", or "".
func (c *buildContext) near(name string) string {
	dir, base := path.Split(name)
	for {
		list, err := c.readDir(path.Clean("./" + dir))
		if err != nil { // the directory is missing itself: look for that
			dir, base = path.Split(strings.TrimSuffix(dir, "/"))
			if base == "" {
				return ""
			}
			continue
		}
		best, least := "", 1+len(base)/3
		for _, e := range list {
			d := levenshtein.Distance(strings.ToLower(base), strings.ToLower(e.Name()), nil)
			if e.Name()[0] != base[0] {
				d++ // people rarely mistake the first letter
			}
			if skip, err := c.ignored(path.Join(dir, e.Name())); err == nil && !skip && d <= least && (best == "" || d < least) {
				best, least = path.Join(dir, e.Name()), d
			}
		}
		if best == "" {
			return ""
		}
		return "; did you mean " + best + "?"
	}
}

// plain takes the words of the operating system's call out of an error and keeps the path.
func plain(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) && strings.HasSuffix(pe.Op, "at") {
		if strings.Contains(pe.Err.Error(), "escapes") {
			return fmt.Errorf("%s %w", pe.Path, ErrOutside)
		}
		return fmt.Errorf("%s: %w", pe.Path, pe.Err)
	}
	return err
}
