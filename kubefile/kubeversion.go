package kubefile

import (
	"strings"

	"github.com/Masterminds/semver/v3"
)

const (
	rangeExample = "KUBEVERSION >=1.30, <1.38"
	rangeHint    = "write instead: " + rangeExample
)

// kubeVersion reads KUBEVERSION range.
func (c *clause) kubeVersion() (Instruction, *Error) {
	if c.args == "" {
		return nil, c.errorf(c.nameOff(), rangeHint, "KUBEVERSION has no range")
	}
	if e := c.noArray(rangeExample); e != nil {
		return nil, e
	}
	if _, e := c.words(); e != nil {
		return nil, e
	}
	w := word{c.args, c.off}
	in := &KubeVersion{at: c.at(), Range: strings.TrimSpace(c.plain(w)), word: w}
	if !strings.Contains(w.raw, "$") {
		if e := in.check(in.Range); e != nil {
			return nil, e
		}
	}
	return in, nil
}

func (k *KubeVersion) check(text string) *Error {
	if text == "" {
		return k.line.errorf(k.word.off, rangeHint, "KUBEVERSION has no range")
	}
	if _, err := semver.NewConstraint(text); err != nil {
		return k.line.errorf(k.word.off, rangeHint, "KUBEVERSION: %q is not a range of versions", clip(text))
	}
	return nil
}
