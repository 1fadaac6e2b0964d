package basefs_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/basefs"
)

func TestLoad(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want basefs.Metadata
		kube string
	}{
		"ours":    {`{"version":"v1.37.2","arch":"amd64","ClusterRuntime":"k3s"}`, basefs.Metadata{Version: "v1.37.2", Arch: "amd64", Runtime: "k3s"}, "v1.37.2"},
		"sealer":  {`{"version":"v1.19.8","arch":"amd64","ClusterRuntime":"kubernetes","NydusFlag":false,"kubeVersion":"","variant":""}`, basefs.Metadata{Version: "v1.19.8", Arch: "amd64", Runtime: "kubernetes"}, "v1.19.8"},
		"second":  {`{"kubeVersion":"v1.20.0"}`, basefs.Metadata{KubeVersion: "v1.20.0"}, "v1.20.0"},
		"unknown": {"\xEF\xBB\xBF" + `{"version":"v1.1.1","more":[1]}`, basefs.Metadata{Version: "v1.1.1"}, "v1.1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := basefs.Load(fstest.MapFS{"Metadata": {Data: []byte(test.text)}})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if v := got.KubernetesVersion(); v != test.kube {
				t.Errorf("version %q", v)
			}
		})
	}
}

func TestLoadFails(t *testing.T) {
	if _, err := basefs.Load(fstest.MapFS{}); !errors.Is(err, basefs.ErrNoMetadata) || !strings.Contains(err.Error(), "ClusterRuntime") {
		t.Errorf("missing: %v", err)
	}
	for name, test := range map[string]struct{ text, want string }{
		"empty":       {" \n", "Metadata: empty: write"},
		"syntax":      {"{\n\"version\": \"v1\",\n}", "Metadata:3: not JSON:"},
		"cut":         {"{\n\"version\": \"v1\"", "Metadata:2: not JSON: unexpected end"},
		"trailing":    {"{}\n{}", "Metadata:2: not JSON:"},
		"array":       {"[]", "Metadata:1: a JSON object is wanted, not this array"},
		"number":      {"{\n\"version\": 1.37}", "Metadata:2: version: a string is wanted, not this number"},
		"flag":        {`{"NydusFlag": "no"}`, "Metadata:1: NydusFlag: true or false is wanted, not this string"},
		"runtime":     {`{"ClusterRuntime": "k8s"}`, `ClusterRuntime "k8s" is unknown: use kubernetes, k3s, k0s`},
		"huge":        {strings.Repeat(" ", 1<<20) + "{}", "larger than"},
		"wrong under": {`{"arch": {"x": 1}}`, "arch: a string is wanted, not this object"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := basefs.Load(fstest.MapFS{"Metadata": {Data: []byte(test.text)}})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error is %v", err)
			}
			var wrong *basefs.MetadataError
			var runtime *basefs.RuntimeError
			if !errors.As(err, &wrong) && !errors.As(err, &runtime) {
				t.Errorf("error is of type %T", err)
			}
		})
	}
}

func TestParseImageList(t *testing.T) {
	text := "\xEF\xBB\xBF# images\r\nnginx\r\n\r\n  registry.k8s.io/pause:3.10 # the sandbox\n\t\nsea.hub:5000/a/b@sha256:" + strings.Repeat("0", 64) + "#no comment, no digest"
	if _, err := basefs.ParseImageList("list", strings.NewReader(text)); err == nil {
		t.Error("a # inside a word is no comment")
	}
	text = strings.TrimSuffix(text, "#no comment, no digest")
	got, err := basefs.ParseImageList("list", strings.NewReader(text))
	want := []basefs.Line{{Ref: "nginx", LineNo: 2}, {Ref: "registry.k8s.io/pause:3.10", LineNo: 4}, {Ref: "sea.hub:5000/a/b@sha256:" + strings.Repeat("0", 64), LineNo: 6}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	_, err = basefs.ParseImageList("list", strings.NewReader("ok\nNot:OK:at all\nUPPER\nok:2\nhttp://x/y\n"))
	var line *basefs.LineError
	if !errors.As(err, &line) || line.LineNo != 2 {
		t.Fatalf("error is %v", err)
	}
	for _, want := range []string{"list:2: ", "more than one word", `list:3: "UPPER"`, `list:5: "http://x/y"`, "registry.example.com"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	if _, err := basefs.ParseImageList("list", strings.NewReader("a\n"+strings.Repeat("x", 1<<17))); err == nil || !strings.Contains(err.Error(), "list:2") {
		t.Errorf("long line: %v", err)
	}
}

func FuzzParseImageList(f *testing.F) {
	f.Add("nginx\n# x\r\nquay.io/a/b:c # d\n")
	f.Add("a b\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := basefs.ParseImageList("list", strings.NewReader(text))
		if err != nil && lines != nil {
			t.Error("both")
		}
		for _, l := range lines {
			if l.Ref == "" || l.LineNo < 1 || !strings.Contains(text, l.Ref) {
				t.Errorf("%+v", l)
			}
		}
	})
}

func FuzzParseMetadata(f *testing.F) {
	f.Add([]byte(`{"version":"v1.37.2","arch":"amd64","ClusterRuntime":"k3s"}`))
	f.Add([]byte("{\n\"version\": 1"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		if _, err := basefs.ParseMetadata(text); err != nil {
			_ = err.Error()
		}
	})
}
