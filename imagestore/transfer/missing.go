package transfer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// MissingPlatform says what becomes of an image that does not exist for a platform that is wanted.
type MissingPlatform string

// Values of MissingPlatform; "" is MissingError.
const (
	MissingError MissingPlatform = "error" // a *PlatformError
	MissingSkip  MissingPlatform = "skip"  // the image is left out for that platform
	MissingAny   MissingPlatform = "any"   // the Nearest of the platforms that it has is taken
)

// Check says what is wrong with a value that is none of these.
func (m MissingPlatform) Check() error {
	if !slices.Contains([]MissingPlatform{"", MissingError, MissingSkip, MissingAny}, m) {
		return fmt.Errorf("%q is none of %s, %s, %s", string(m), MissingError, MissingSkip, MissingAny)
	}
	return nil
}

func (m MissingPlatform) orError() MissingPlatform { return cmp.Or(m, MissingError) }

// Nearest is the platform of have that is most like want: of the same architecture, else linux/amd64, which
// emulators know best, else of the same system, else the first by name. "" if there is none.
func Nearest(want string, have []string) string {
	if len(have) == 0 {
		return ""
	}
	have = slices.Sorted(slices.Values(have))
	system, rest, _ := strings.Cut(want, "/")
	arch, _, _ := strings.Cut(rest, "/")
	for _, like := range []string{system + "/" + arch, "linux/amd64", system} {
		if i := slices.IndexFunc(have, func(h string) bool { return strings.HasPrefix(h+"/", like+"/") }); i >= 0 {
			return have[i]
		}
	}
	return have[0]
}
