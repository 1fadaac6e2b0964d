package runtime

import (
	"fmt"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// sameVersion says whether a kubelet's version is the one wanted. A kubelet that names no build, as in
// "v1.37.2", is of any build, such as "v1.37.2+k3s1", and "v1.37.2+k0s" is of each of "v1.37.2+k0s.0" and so on.
func sameVersion(got, want string) bool {
	if !strings.Contains(got, "+") {
		want, _, _ = strings.Cut(want, "+")
		return got == want
	}
	return got == want || strings.HasPrefix(want, got+".")
}

// maxKubeletSkew is how many minor versions a kubelet may be behind its API, and maxUpgrade how many an
// upgrade goes (Kubernetes' version skew policy).
const (
	maxKubeletSkew = 3
	maxUpgrade     = 1
)

// upgradePath judges going from one version of the control plane to another: no minor version is left
// out, and none goes back.
func upgradePath(from, to string) error {
	f, err := semver.NewVersion(from)
	if err != nil {
		return fmt.Errorf("reading version %q: %w", from, err)
	}
	t, err := semver.NewVersion(to)
	if err != nil {
		return fmt.Errorf("reading version %q: %w", to, err)
	}
	switch {
	case t.LessThan(f):
		return fmt.Errorf("%s is older than %s", to, from)
	case t.Major() != f.Major() || t.Minor() > f.Minor()+maxUpgrade:
		return fmt.Errorf("from %s to %s leaves out a minor version: go to v%d.%d first", from, to, f.Major(), f.Minor()+1)
	}
	return nil
}

// kubeletSkew judges a kubelet's version beside that of the API it is going to talk to.
func kubeletSkew(kubelet, api string) error {
	k, err := semver.NewVersion(kubelet)
	if err != nil {
		return fmt.Errorf("reading version %q: %w", kubelet, err)
	}
	a, err := semver.NewVersion(api)
	if err != nil {
		return fmt.Errorf("reading version %q: %w", api, err)
	}
	switch {
	case k.Major() != a.Major() || k.Minor() > a.Minor():
		return fmt.Errorf("kubelet %s is newer than the API %s", kubelet, api)
	case k.Minor()+maxKubeletSkew < a.Minor():
		return fmt.Errorf("kubelet %s is more than %d minor versions behind the API %s", kubelet, maxKubeletSkew, api)
	}
	return nil
}
