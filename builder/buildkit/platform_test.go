package buildkit_test

import (
	"errors"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/builder/buildkit"
)

// foreign is a platform whose programs this machine cannot start.
func foreign(t *testing.T) string {
	t.Helper()
	p := "linux/arm64"
	if goruntime.GOARCH == "arm64" {
		p = "linux/s390x"
	}
	return p
}

// TestForeign holds that a RUN for a platform that cannot run here is one clear error, and that what runs nothing is
// built for it.
func TestForeign(t *testing.T) {
	r := newRig(t, buildkit.Options{})
	other := foreign(t)
	on := func(list ...string) change {
		return func(_ *builder.Builder, req *builder.Request) { req.Platforms = list }
	}
	r.build("FROM scratch\nCOPY . /\n", busybox(t), "base:v1", on("linux/"+goruntime.GOARCH, other))
	_, err := r.try("FROM base:v1\nRUN true\n", "", "x:v1", on(other))
	var fe *buildkit.ForeignError
	if err == nil {
		t.Skip("this machine emulates " + other)
	}
	if !errors.As(err, &fe) || fe.Want != other || !strings.Contains(err.Error(), "Kubefile:2:1") || !strings.Contains(err.Error(), "binfmt") {
		t.Errorf("a RUN for %s: %v", other, err)
	}
	_, err = r.try("FROM base:v1\nRUN true\n", "", "x:v1", on("linux/"+goruntime.GOARCH, other))
	if !errors.As(err, &fe) || !strings.Contains(err.Error(), "building for "+other) {
		t.Errorf("one of two: %v", err)
	}
	if names := r.names(); len(names) != 1 {
		t.Errorf("images: %v", names)
	}
	// The native stage runs, once for each platform, and files go where programs could not run.
	text := "FROM --platform=$BUILDPLATFORM base:v1 AS made\nARG TARGETARCH\nRUN echo for $TARGETARCH >/out\nFROM scratch\nCOPY --from=made /out /out\n"
	res := r.build(text, "", "x:v1", on("linux/"+goruntime.GOARCH, other))
	var got []string
	for _, p := range res.Platforms {
		got = append(got, r.tree(p.Rootfs)["out"])
	}
	_, arch, _ := strings.Cut(other, "/")
	want := []string{`0 0644 0:0 0 [] "" "for ` + goruntime.GOARCH + `\n"`, `0 0644 0:0 0 [] "" "for ` + arch + `\n"`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
