package basefs

import (
	"path"
	"slices"
	"strings"
)

// ImageLists are the files of a tree that name images to embed, one a line. The last is what "COPY imageList
// manifests", which stands in trees for sealer, makes where there is no directory of that name.
func ImageLists() []string { return []string{"imageList", "manifests/imageList", "manifests"} }

// RegistryTree is where a distribution registry, which has registry/ for its storage, keeps everything.
const RegistryTree = "registry/docker"

// archiveEnds are how the names of image archives end: tar, plain or compressed in a way that keg reads.
var archiveEnds = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2"}

// IsImageArchive says whether a file of the tree is taken for an archive of images, by its path:
// images/*.tar* and registry.tar*.
func IsImageArchive(name string) bool {
	dir, base := path.Split(name)
	return (dir == "images/" || dir == "" && strings.HasPrefix(base, "registry.t")) &&
		slices.ContainsFunc(archiveEnds, func(end string) bool { return strings.HasSuffix(base, end) })
}
