package builder

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/builder/pack"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/kubefile"
)

// wish is one container image that the Kubefile or a list wants embedded.
type wish struct {
	name  string // full, as it will be known in the cluster
	ref   name.Reference
	where string // the list and line that names it, or ""
	pos   kubefile.Pos
}

// wanted are the images that instructions ask for.
type wanted struct {
	list   []wish
	ignore map[string]bool // by full name
}

// want carries out IMAGES.
func (a *assembly) want(ctx context.Context, in *kubefile.Images) error {
	if in.List != "" {
		list, err := a.context.find(ctx, in.List)
		if err != nil {
			return err
		}
		for _, f := range list {
			data, err := a.readList(f)
			if err != nil {
				return err
			}
			wishes, err := parseList(f.name, data, in.Pos())
			if err != nil {
				return err
			}
			a.images.list = append(a.images.list, wishes...)
		}
	}
	for _, s := range in.Refs {
		w, err := parseWish(s)
		if err != nil {
			return err
		}
		w.pos = in.Pos()
		if in.Ignore {
			set(&a.images.ignore, w.name, true)
		} else {
			a.images.list = append(a.images.list, w)
		}
	}
	return nil
}

func (a *assembly) readList(f found) ([]byte, error) {
	if !f.info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: it is not a file", f.name)
	}
	return readEntry(pack.Entry{Size: f.info.Size(), Open: func() (io.ReadCloser, error) { return a.context.open(f.real) }}, maxHeld)
}

// parseWish reads a name as it is written. NAME:TAG@DIGEST is known as NAME:TAG and pulled by digest.
func parseWish(s string) (wish, error) {
	ref, err := imagestore.ParseName(s)
	if err != nil {
		return wish{}, fmt.Errorf("%q is %w: %w", s, ErrImageName, err)
	}
	w := wish{name: imagestore.FullName(ref), ref: ref}
	if before, _, ok := strings.Cut(s, "@"); ok && strings.Contains(before[strings.LastIndex(before, "/")+1:], ":") {
		tag, err := imagestore.ParseName(before)
		if err != nil {
			return wish{}, fmt.Errorf("%q is %w: %w", s, ErrImageName, err)
		}
		w.name = imagestore.FullName(tag)
	}
	return w, nil
}

// parseList reads a list of images. All lines that are wrong are in the error.
func parseList(file string, data []byte, pos kubefile.Pos) ([]wish, error) {
	list, err := basefs.ParseImageList(file, bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImageName, err)
	}
	var out []wish
	for _, l := range list {
		where := fmt.Sprintf("%s:%d", file, l.LineNo)
		w, err := parseWish(l.Ref)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		w.where, w.pos = where, pos
		out = append(out, w)
	}
	return out, nil
}

// blame says which list and which instruction named an image.
func (a *assembly) blame(w wish, err error) error {
	if err != nil && w.where != "" {
		err = fmt.Errorf("%s: %w", w.where, err)
	}
	return a.at(w.pos, err)
}
