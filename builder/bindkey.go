package builder

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/internal/ctxio"
)

// mounted is a digest over the files of directories that RUNs of a group mount, so that what they made can be
// found elsewhere. It is "" where a group depends on more, such as a git repository.
func (a *assembly) mounted(ctx context.Context, g group) (string, error) {
	h := sha256.New()
	for _, d := range g.docker {
		switch c := d.Command.(type) {
		case *instructions.AddCommand:
			return "", nil
		case *instructions.RunCommand:
			for _, m := range instructions.GetMounts(c) {
				from := a.context
				if m.From != "" {
					from = a.contexts[strings.ToLower(m.From)]
				}
				if m.Type != instructions.MountTypeBind || from == nil {
					continue // an image or a stage, which its digest names
				}
				if strings.Contains(m.Source, "$") {
					return "", nil
				}
				if err := from.sum(ctx, h, m.Source); err != nil {
					return "", err
				}
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// sum writes what a mount of a directory or file of the context shows to w: names, modes, links and contents.
func (c *buildContext) sum(ctx context.Context, w io.Writer, source string) error {
	if c.root == nil {
		return nil // the solver says so
	}
	name, err := contextPath(source)
	if err != nil {
		return err
	}
	real, err := c.real(name)
	if err != nil {
		return fmt.Errorf("%s: %w", source, plain(err))
	}
	fi, err := c.root.Stat(real)
	if err != nil {
		return fmt.Errorf("%s: %w", source, plain(err))
	}
	scan := &pack.Scanner{Root: c.root, Filter: func(rel string, _ fs.DirEntry) (bool, bool) {
		out, err := c.ignored(rel)
		return err != nil || !out, err != nil || !out || c.ignore.Exclusions()
	}}
	var list []pack.Entry
	if fi.IsDir() {
		list, err = scan.Dir(ctx, real)
	} else {
		var e pack.Entry
		e, err = scan.File(real)
		list = append(list, e)
	}
	if err != nil {
		return err
	}
	note := json.NewEncoder(w)
	for _, e := range list {
		if err := note.Encode([]any{source, e.Name, e.Type, e.Mode, e.Linkname, e.Size, e.Xattrs}); err != nil {
			return err
		}
		if e.Type != tar.TypeReg || e.Open == nil {
			continue
		}
		r, err := e.Open()
		if err != nil {
			return plain(err)
		}
		_, err = io.Copy(w, ctxio.Reader(ctx, r))
		_ = r.Close()
		if err != nil {
			return fmt.Errorf("reading %s: %w", e.Name, err)
		}
	}
	return nil
}
