package kubefile

import (
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// images reads IMAGES ref..., IMAGES --list=FILE and IMAGES --ignore ref...
func (c *clause) images() (Instruction, *Error) {
	const forms = "write instead: IMAGES REFERENCE..., IMAGES --list=FILE or IMAGES --ignore REFERENCE..."
	if e := c.noArray("IMAGES REFERENCE..."); e != nil {
		return nil, e
	}
	words, e := c.words()
	if e != nil {
		return nil, e
	}
	in := &Images{at: c.at()}
	for _, w := range words {
		flag, value, hasValue := strings.Cut(w.raw, "=")
		switch {
		case !strings.HasPrefix(w.raw, "-"):
			in.words = append(in.words, w)
		case flag == "--list" && in.list.raw != "", flag == "--ignore" && in.Ignore:
			return nil, c.errorf(w.off, "", "IMAGES: %s stands here twice", flag)
		case flag == "--list" && value == "":
			return nil, c.errorf(w.off, "write instead: IMAGES --list=FILE", "IMAGES: --list has no file")
		case flag == "--list":
			in.list = word{value, w.off + len("--list=")}
			in.List = c.plain(in.list)
		case flag == "--ignore" && hasValue:
			return nil, c.errorf(w.off, "write instead: IMAGES --ignore "+clip(value), "IMAGES: --ignore takes no value")
		case flag == "--ignore":
			in.Ignore = true
		default:
			hint := didYouMean(strings.TrimLeft(flag, "-"), []string{"list", "ignore"}, "--")
			if hint == "" {
				hint = forms
			}
			return nil, c.errorf(w.off, hint, "IMAGES: unknown flag %s", clip(flag))
		}
	}
	in.Refs = c.plainAll(in.words)
	switch {
	case in.list.raw != "" && (in.Ignore || len(in.Refs) > 0):
		return nil, c.errorf(in.list.off-len("--list="), "write two IMAGES lines", "IMAGES: --list stands alone")
	case in.list.raw == "" && len(in.Refs) == 0:
		return nil, c.errorf(c.nameOff(), forms, "IMAGES names no image")
	}
	for i, w := range in.words {
		if !strings.Contains(w.raw, "$") {
			if e := in.checkRef(w, in.Refs[i]); e != nil {
				return nil, e
			}
		}
	}
	if in.list.raw != "" && !strings.Contains(in.list.raw, "$") {
		if e := in.checkList(in.List); e != nil {
			return nil, e
		}
	}
	return in, nil
}

func (in *Images) checkRef(w word, ref string) *Error {
	if _, err := name.ParseReference(ref); err != nil {
		return in.line.errorf(w.off, "an image is written [REGISTRY/]NAME[:TAG][@DIGEST], in lower case", "IMAGES: %q is not the name of an image", clip(ref))
	}
	return nil
}

func (in *Images) checkList(file string) *Error {
	if clean := path.Clean(file); file == "" || clean == "." || clean == ".." || strings.HasPrefix(clean, "../") {
		return in.line.errorf(in.list.off, "", "IMAGES: --list=%s is not a file in the build context", clip(file))
	}
	return nil
}
