package builder

import (
	"fmt"
	"path"
	"path/filepath"

	"github.com/moby/patternmatcher"
)

// filter matches the paths of one walk against patterns; what a pattern says of a directory holds for
// what is in it, until a later pattern takes it back.
type filter struct {
	pm   *patternmatcher.PatternMatcher
	dirs map[string]patternmatcher.MatchInfo
}

func newFilter(pm *patternmatcher.PatternMatcher) *filter {
	return &filter{pm: pm, dirs: map[string]patternmatcher.MatchInfo{}}
}

// match says whether a path is left out, and whether a walk has to look below it.
func (f *filter) match(name string, dir bool) (out, descend bool, err error) {
	if len(f.pm.Patterns()) == 0 {
		return false, true, nil
	}
	up := path.Dir(name)
	parent, ok := f.dirs[up]
	if !ok && up != "." { // the walk began below: ask about what is above it first
		if _, _, err := f.match(up, true); err != nil {
			return false, false, err
		}
		parent = f.dirs[up]
	}
	out, info, err := f.pm.MatchesUsingParentResults(filepath.FromSlash(name), parent)
	if err != nil {
		return false, false, fmt.Errorf("matching %s: %w", name, err)
	}
	if dir {
		f.dirs[name] = info
	}
	return out, !out || f.pm.Exclusions(), nil
}
