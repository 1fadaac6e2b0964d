package transfer

import (
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// acceptable lists the platforms that can run on a wanted one, best first: "linux/arm/v7" also runs
// v6, "linux/amd64/v3" also plain amd64.
func acceptable(want string) ([]string, error) {
	p, err := clusterimage.ParsePlatform(want)
	if err != nil {
		return nil, err
	}
	base := p.OS + "/" + p.Architecture
	var ladder []string // variants from new to old
	switch p.Architecture {
	case "arm":
		ladder = []string{"v8", "v7", "v6", "v5"}
		if p.Variant == "" {
			p.Variant = "v7"
		}
	case "arm64":
		if p.Variant == "" {
			p.Variant = "v8"
		}
		ladder = []string{"v9", "v8"}
	case "amd64":
		if p.Variant == "" {
			p.Variant = "v1"
		}
		ladder = []string{"v4", "v3", "v2", "v1"}
	}
	list := []string{clusterimage.PlatformString(&p)}
	if i := slices.Index(ladder, p.Variant); i >= 0 {
		for _, v := range ladder[i+1:] {
			list = append(list, clusterimage.PlatformString(&ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: v}))
		}
	}
	if len(ladder) > 0 && !slices.Contains(list, base) {
		list = append(list, base) // an image that does not say its variant
	}
	return list, nil
}

// Choose returns the position of the platform in have, as clusterimage.PlatformString writes them, whose
// image runs best where want is; -1 if none does, the first of equals.
func Choose(want string, have []string) (int, error) {
	list, err := acceptable(want)
	if err != nil {
		return -1, err
	}
	for _, p := range list {
		if i := slices.Index(have, p); i >= 0 {
			return i, nil
		}
	}
	return -1, nil
}
