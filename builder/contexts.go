package builder

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/clusterimage/keg/kubefile"
)

// How build contexts that are images begin.
const (
	imageContext  = "docker-image://"
	layoutContext = "oci-layout://"
)

// contexts are the directories among the named build contexts.
type contexts map[string]*buildContext

func openContexts(named map[string]string) (contexts, error) {
	list := contexts{}
	for name, value := range named {
		if isImageContext(value) {
			continue
		}
		if strings.Contains(value, "://") {
			return nil, errors.Join(fmt.Errorf("build context %s: %s is neither a directory nor %sIMAGE nor %sDIR", name, value, imageContext, layoutContext), list.close())
		}
		c, err := openContext(value, "", "")
		if err != nil {
			return nil, errors.Join(fmt.Errorf("build context %s: %w", name, err), list.close())
		}
		list[name] = c
	}
	return list, nil
}

func (l contexts) close() error {
	var err error
	for _, c := range l {
		err = errors.Join(err, c.close())
	}
	return err
}

// isImageContext says whether the value of a named build context is an image.
func isImageContext(value string) bool {
	return strings.HasPrefix(value, imageContext) || strings.HasPrefix(value, layoutContext)
}

// contextImage is the image that a name stands for by a named build context.
func (r *Request) contextImage(name string) (string, bool) {
	return strings.CutPrefix(r.BuildContexts[strings.ToLower(name)], imageContext)
}

// needsSolver is what the Kubefile calls an instruction that packing files cannot do, or "".
func (r *Request) needsSolver(file *kubefile.File, stage *kubefile.Stage, d *kubefile.Docker) string {
	if c, ok := d.Command.(*instructions.CopyCommand); ok && c.From != "" {
		if value, named := r.BuildContexts[strings.ToLower(c.From)]; named {
			if isImageContext(value) {
				return "COPY --from"
			}
			return ""
		}
	}
	return file.NeedsSolver(stage, d)
}
