package transfer

import (
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// acceptable lists the platforms that can run on a wanted one, best first: "linux/arm/v7" also runs
// v6, "linux/amd64/v3" also plain amd64.
func acceptable(want string) ([]string, error) {
	parts := strings.Split(want, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return nil, fmt.Errorf("reading platform %q: it is not OS/ARCH or OS/ARCH/VARIANT", want)
	}
	p := ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
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

// choose returns the position of the platform that suits best, -1 if none does; the first of equals.
func choose(want string, have []string) (int, error) {
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
