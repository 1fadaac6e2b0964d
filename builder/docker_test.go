package builder

import (
	"testing"

	"github.com/clusterimage/keg/imagestore/clusterimage"
)

// TestDockerOnly: an image says that its tree brings docker only, until a child adds containerd.
func TestDockerOnly(t *testing.T) {
	base := &testBuild{tag: "example.com/base:v1", files: files{
		"rootfs/Metadata": `{"version":"v1.37.2","arch":"amd64","ClusterRuntime":"kubernetes"}`, "rootfs/scripts/docker.sh": "x", "rootfs/scripts/init-kube.sh": "x",
	}, kubefile: "FROM scratch\nCOPY rootfs .\n"}
	if l := base.must(t).Platforms[0].Labels; l[clusterimage.LabelDocker] != "only" {
		t.Errorf("labels %v", l)
	}
	for kubefile, want := range map[string]string{"FROM example.com/base:v1\nCOPY other /other\n": "only", "FROM example.com/base:v1\nCOPY other /bin/containerd\n": ""} {
		child := &testBuild{store: base.store, files: files{"other": "x"}, kubefile: kubefile}
		if l := child.must(t).Platforms[0].Labels; l[clusterimage.LabelDocker] != want {
			t.Errorf("%s: labels %v", kubefile, l)
		}
	}
}
