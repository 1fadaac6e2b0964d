package builder

import (
	"context"
	"errors"

	"github.com/clusterimage/keg/imagestore/transfer"
)

// MissingImage is an image that a build met that does not exist for its platform.
type MissingImage struct {
	// Name is the image's full name.
	Name string `json:"name"`
	// Have are the platforms it has.
	Have []string `json:"have"`
	// Taken is the one of them that is embedded; "" if the image was left out.
	Taken string `json:"taken,omitempty"`
}

// pullImage pulls one image to embed. missing is not nil where it is not for the platform and the
// request has an answer to that; without Taken nothing was pulled.
func (a *assembly) pullImage(ctx context.Context, w wish) (p transfer.Pulled, missing *MissingImage, err error) {
	p, err = a.b.Images.PullImage(ctx, a.b.Store, w.ref, a.res.Platform)
	var pe *transfer.PlatformError
	if !errors.As(err, &pe) {
		return p, nil, err
	}
	missing = &MissingImage{Name: w.name, Have: pe.Have}
	switch a.req.MissingPlatform {
	case transfer.MissingSkip:
		return transfer.Pulled{}, missing, nil
	case transfer.MissingAny:
		if missing.Taken = transfer.Nearest(a.res.Platform, pe.Have); missing.Taken != "" {
			p, err = a.b.Images.PullImage(ctx, a.b.Store, w.ref, missing.Taken)
			return p, missing, err
		}
	}
	return transfer.Pulled{}, nil, err
}
