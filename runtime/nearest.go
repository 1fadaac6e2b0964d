package runtime

import (
	"iter"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

// Nearest is the known word that a wrong one was probably meant to be: the one that is least different, of
// several the first by the alphabet; "" if none is near.
func Nearest(wrong string, known iter.Seq[string]) string {
	best, least := "", len(wrong)/2+1
	for _, k := range slices.Sorted(known) {
		if d := levenshtein.Distance(strings.ToLower(wrong), strings.ToLower(k), nil); d < least {
			best, least = k, d
		}
	}
	return best
}
