package builder

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
	"github.com/clusterimage/keg/imagestore/transfer"
	"github.com/clusterimage/keg/internal/compression"
	"github.com/clusterimage/keg/kubefile"
)

// files are a context: by path, "dir/" is a directory, "-> x" a link to x, all else content. A mode
// stands before it: "0755 content".
type files map[string]string

func writeFiles(t *testing.T, fs files) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var names []string
	for n := range fs {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		p, content := filepath.Join(dir, n), fs[n]
		for up := path.Dir(strings.TrimSuffix(n, "/")); ; up = path.Dir(up) {
			if err := os.MkdirAll(filepath.Join(dir, up), 0o755); err != nil {
				t.Fatal(err)
			}
			if up == "." {
				break
			}
		}
		mode := os.FileMode(0o644)
		if strings.HasSuffix(n, "/") {
			mode = 0o755
		}
		if m, rest, ok := strings.Cut(content, " "); ok && len(m) == 4 && m[0] == '0' {
			var bits uint32
			if _, err := fmt.Sscanf(m, "%o", &bits); err == nil {
				mode, content = os.FileMode(bits), rest
			}
		}
		var err error
		switch target, isLink := strings.CutPrefix(content, "-> "); {
		case isLink:
			err = os.Symlink(target, p)
		case strings.HasSuffix(n, "/"):
			err = errors.Join(os.MkdirAll(p, 0o755), os.Chmod(p, mode))
		default:
			err = errors.Join(os.WriteFile(p, []byte(content), 0o644), os.Chmod(p, mode), os.Chtimes(p, old, old))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var old = time.Now().Add(-time.Hour)

// testBuild is one build in a test; zero fields get what is useful.
type testBuild struct {
	store    *imagestore.Store
	kubefile string
	files    files
	context  string // over files
	tag      string
	builder  func(*Builder)
	request  func(*Request)
	ctx      context.Context
}

func (tb *testBuild) run(t *testing.T) (Result, error) {
	t.Helper()
	if tb.store == nil {
		tb.store = storetest.New(t)
	}
	if tb.context == "" && tb.files != nil {
		tb.context = writeFiles(t, tb.files)
	}
	file, err := kubefile.Parse("Kubefile", strings.NewReader(tb.kubefile))
	if err != nil {
		return Result{}, err
	}
	b := &Builder{Store: tb.store, Images: transfer.New(transfer.Options{}), Fetch: HTTP{}}
	if tb.builder != nil {
		tb.builder(b)
	}
	req := Request{File: file, Context: tb.context, Platforms: []string{"linux/amd64"}}
	if tb.tag == "" {
		tb.tag = "example.com/built:v1"
	}
	ref, err := imagestore.ParseName(tb.tag)
	if err != nil {
		t.Fatal(err)
	}
	req.Tags = []name.Reference{ref}
	if tb.request != nil {
		tb.request(&req)
	}
	ctx := tb.ctx
	if ctx == nil {
		ctx = t.Context()
	}
	res, err := b.Build(ctx, req)
	tags, tagErr := tb.store.Images()
	if tagErr != nil {
		t.Fatal(tagErr)
	}
	tagged := slices.ContainsFunc(tags, func(x imagestore.Tagged) bool { return x.Name == tb.tag && x.Target.Digest == res.Target.Digest })
	if tagged != (err == nil) {
		t.Errorf("error %v, and tags are %v", err, tags)
	}
	if err == nil {
		if err := tb.store.Whole(t.Context(), res.Target); err != nil {
			t.Errorf("the built image is not whole: %v", err)
		}
	}
	return res, err
}

func (tb *testBuild) must(t *testing.T) Result {
	t.Helper()
	res, err := tb.run(t)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// config reads the rootfs image's config of the first platform.
func (tb *testBuild) config(t *testing.T, res Result) (ocispec.Manifest, map[string]any) {
	t.Helper()
	var m ocispec.Manifest
	var config map[string]any
	if err := errors.Join(tb.store.ReadJSON(res.Platforms[0].Rootfs.Digest, &m), tb.store.ReadJSON(m.Config.Digest, &config)); err != nil {
		t.Fatal(err)
	}
	return m, config
}

// layers lists the entries of each layer: "0644 0:0 path content", "0755 0:0 dir/", "path -> link",
// "path => hard link".
func (tb *testBuild) layers(t *testing.T, res Result) [][]string {
	t.Helper()
	m, _ := tb.config(t, res)
	var all [][]string
	for _, l := range m.Layers {
		blob, err := tb.store.Open(l.Digest)
		if err != nil {
			t.Fatal(err)
		}
		defer blob.Close()
		r, err := compression.NewReader(blob)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for tr := tar.NewReader(r); ; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if !h.ModTime.Equal(time.Unix(0, 0)) {
				t.Errorf("%s has time %s", h.Name, h.ModTime)
			}
			switch h.Typeflag {
			case tar.TypeSymlink:
				list = append(list, fmt.Sprintf("%s -> %s", h.Name, h.Linkname))
			case tar.TypeLink:
				list = append(list, fmt.Sprintf("%s => %s", h.Name, h.Linkname))
			case tar.TypeDir:
				list = append(list, fmt.Sprintf("%04o %d:%d %s/", h.Mode, h.Uid, h.Gid, strings.TrimSuffix(h.Name, "/")))
			default:
				data, err := io.ReadAll(tr)
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, strings.TrimRight(fmt.Sprintf("%04o %d:%d %s %s", h.Mode, h.Uid, h.Gid, h.Name, data), " "))
			}
		}
		all = append(all, list)
	}
	return all
}

func lines(s string) []string {
	var out []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func TestTrees(t *testing.T) {
	app := files{
		"a.txt": "a", "b.txt": "b", "c.md": "0600 c", "run.sh": "0755 #!", "sub/d.txt": "d", "sub/deep/e.md": "e",
		"private/": "0700 ", "private/key": "0400 k", "link": "-> sub/d.txt", "sub/up": "-> ../a.txt", "dirlink": "-> sub",
		"[x].txt": "brackets",
	}
	tests := []struct{ name, kubefile, want string }{
		{"file to file", "COPY a.txt /etc/x", "0755 0:0 etc/\n0644 0:0 etc/x a"},
		{"file to directory", "COPY a.txt /etc/", "0755 0:0 etc/\n0644 0:0 etc/a.txt a"},
		{"leading slash and dots", "COPY /sub/../a.txt ./", "0644 0:0 a.txt a"},
		{"modes are those on disk", "COPY run.sh c.md private /", "0600 0:0 c.md c\n0400 0:0 key k\n0755 0:0 run.sh #!"},
		{"contents of a directory", "COPY private /p", "0755 0:0 p/\n0400 0:0 p/key k"},
		{"whole directory keeps the modes below", "COPY --exclude=* --exclude=!private . /", "0700 0:0 private/\n0400 0:0 private/key k"},
		{"several sources", "COPY a.txt sub/d.txt /x/", "0755 0:0 x/\n0644 0:0 x/a.txt a\n0644 0:0 x/d.txt d"},
		{"glob", "COPY *.txt /x/", "0755 0:0 x/\n0644 0:0 x/[x].txt brackets\n0644 0:0 x/a.txt a\n0644 0:0 x/b.txt b"},
		{"glob in the middle", "COPY s*/*.txt /", "0644 0:0 d.txt d"},
		{"glob of any depth", "COPY **/*.md /", "0600 0:0 c.md c\n0644 0:0 e.md e"},
		{"escaped glob", `COPY [[]x].txt /`, "0644 0:0 [x].txt brackets"},
		{"json form", `COPY ["a.txt", "/with space/"]`, "0755 0:0 with space/\n0644 0:0 with space/a.txt a"},
		{"links at the end of a source are followed", "COPY link /l", "0644 0:0 l d"},
		{"links to directories too", "COPY dirlink/deep /l/", "0755 0:0 l/\n0644 0:0 l/e.md e"},
		{"links inside stay links", "COPY sub /s", "0755 0:0 s/\n0644 0:0 s/d.txt d\n0755 0:0 s/deep/\n0644 0:0 s/deep/e.md e\ns/up -> ../a.txt"},
		{"exclude", "COPY --exclude=*.txt --exclude=up sub /s/", "0755 0:0 s/\n0755 0:0 s/deep/\n0644 0:0 s/deep/e.md e"},
		{"exclude with exception", "COPY --exclude=deep --exclude=up --exclude=d.txt --exclude=!deep/e.md sub /s/", "0755 0:0 s/\n0755 0:0 s/deep/\n0644 0:0 s/deep/e.md e"},
		{"exclude among files", "COPY --exclude=b* a.txt b.txt /", "0644 0:0 a.txt a"},
		{"parents", "COPY --parents sub/d.txt private/key /o/", "0755 0:0 o/\n0700 0:0 o/private/\n0400 0:0 o/private/key k\n0755 0:0 o/sub/\n0644 0:0 o/sub/d.txt d"},
		{"parents from a pivot", "COPY --parents sub/./deep/*.md /o/", "0755 0:0 o/\n0755 0:0 o/deep/\n0644 0:0 o/deep/e.md e"},
		{"parents of a directory", "COPY --parents sub/deep /o/", "0755 0:0 o/\n0755 0:0 o/sub/\n0755 0:0 o/sub/deep/\n0644 0:0 o/sub/deep/e.md e"},
		{"chown number", "COPY --chown=7 a.txt /x/y", "0755 7:7 x/\n0644 7:7 x/y a"},
		{"chown numbers", "COPY --chown=7:8 sub/deep /x", "0755 7:8 x/\n0644 7:8 x/e.md e"},
		{"chown root", "COPY --chown=root:root a.txt /x", "0644 0:0 x a"},
		{"chmod", "COPY --chmod=0750 a.txt private /x/", "0755 0:0 x/\n0750 0:0 x/a.txt a\n0750 0:0 x/key k"},
		{"chmod in letters", "COPY --chmod=u=rwX,go=rX run.sh c.md /x/", "0755 0:0 x/\n0644 0:0 x/c.md c\n0755 0:0 x/run.sh #!"},
		{"link flag", "COPY --link a.txt /x/", "0755 0:0 x/\n0644 0:0 x/a.txt a"},
		{"heredoc", "COPY <<EOF /etc/motd\nhello\nEOF\n", "0755 0:0 etc/\n0644 0:0 etc/motd hello"},
		{"heredocs", "COPY <<one <<\"two\" /etc/\n1\none\n$2\ntwo\n", "0755 0:0 etc/\n0644 0:0 etc/one 1\n0644 0:0 etc/two $2"},
		{"variables", "ARG NAME=a\nCOPY ${NAME}.txt /$TARGETARCH/", "0755 0:0 amd64/\n0644 0:0 amd64/a.txt a"},
		{"add is like copy", "ADD a.txt sub/deep /x/", "0755 0:0 x/\n0644 0:0 x/a.txt a\n0644 0:0 x/e.md e"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tb := &testBuild{kubefile: "FROM scratch\n" + tt.kubefile + "\n", files: app}
			got := tb.layers(t, tb.must(t))
			if len(got) != 1 {
				t.Fatalf("layers: %q", got)
			}
			var trimmed []string
			for _, l := range got[0] {
				trimmed = append(trimmed, strings.TrimSpace(l))
			}
			if diff := cmp.Diff(lines(tt.want), trimmed); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWorkdir(t *testing.T) {
	tb := &testBuild{
		kubefile: "FROM scratch\nWORKDIR /opt/app\nCOPY a /\nCOPY a .\nWORKDIR lib\nCOPY a x\nWORKDIR /opt\n",
		files:    files{"a": "1"},
	}
	res := tb.must(t)
	want := [][]string{
		{"0755 0:0 opt/", "0755 0:0 opt/app/"},
		{"0644 0:0 a 1"},
		{"0755 0:0 opt/", "0755 0:0 opt/app/", "0644 0:0 opt/app/a 1"},
		{"0755 0:0 opt/", "0755 0:0 opt/app/", "0755 0:0 opt/app/lib/"},
		{"0755 0:0 opt/", "0755 0:0 opt/app/", "0755 0:0 opt/app/lib/", "0644 0:0 opt/app/lib/x 1"},
	}
	if diff := cmp.Diff(want, tb.layers(t, res)); diff != "" {
		t.Error(diff)
	}
	_, config := tb.config(t, res)
	if got := config["config"].(map[string]any)["WorkingDir"]; got != "/opt" {
		t.Errorf("working directory %v", got)
	}
}

func TestHardLinks(t *testing.T) {
	dir := writeFiles(t, files{"d/one": "same", "d/other": "o", "e/one": "new"})
	if err := errors.Join(os.Link(filepath.Join(dir, "d/one"), filepath.Join(dir, "d/two")), os.Link(filepath.Join(dir, "d/one"), filepath.Join(dir, "d/zoo"))); err != nil {
		t.Fatal(err)
	}
	tb := &testBuild{kubefile: "FROM scratch\nCOPY d /x/\nCOPY d e /x/\n", context: dir}
	want := [][]string{
		{"0755 0:0 x/", "0644 0:0 x/one same", "0644 0:0 x/other o", "x/two => x/one", "x/zoo => x/one"},
		{"0755 0:0 x/", "0644 0:0 x/one new", "0644 0:0 x/other o", "0644 0:0 x/two same", "x/zoo => x/two"},
	}
	if diff := cmp.Diff(want, tb.layers(t, tb.must(t))); diff != "" {
		t.Error(diff)
	}
}

func TestIgnore(t *testing.T) {
	all := files{
		"a.txt": "a", "a.log": "l", "node_modules/x/index.js": "0755 x", "node_modules/keep/k": "0600 k", "node_modules/keep/": "0711 ",
		"deep/x.log": "x", "deep/y": "y", "build.Kubefile": "", ".dockerignore": "*.Kubefile\n.dockerignore\n**/*.log\nnode_modules\n!node_modules/keep/k\n",
	}
	tests := []struct {
		name, kubefile, rules string
		add                   files
		want                  string
	}{
		{name: "from the context", kubefile: "COPY . /", want: "0644 0:0 a.txt a\n0755 0:0 deep/\n0644 0:0 deep/y y\n0755 0:0 node_modules/\n0711 0:0 node_modules/keep/\n0600 0:0 node_modules/keep/k k"},
		{name: "given", kubefile: "COPY . /", rules: "*\n!a.*\n", want: "0644 0:0 a.log l\n0644 0:0 a.txt a"},
		{name: "of the Kubefile", kubefile: "COPY . /", add: files{"Kubefile.dockerignore": "*\n!deep\n"}, want: "0755 0:0 deep/\n0644 0:0 deep/x.log x\n0644 0:0 deep/y y"},
		{name: "glob", kubefile: "COPY a* /x/", want: "0755 0:0 x/\n0644 0:0 x/a.txt a"},
		{name: "inside what is ignored", kubefile: "COPY node_modules /n", want: "0755 0:0 n/\n0711 0:0 n/keep/\n0600 0:0 n/keep/k k"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fs := files{}
			for _, m := range []files{all, tt.add} {
				for k, v := range m {
					fs[k] = v
				}
			}
			tb := &testBuild{kubefile: "FROM scratch\n" + tt.kubefile, files: fs, request: func(r *Request) { r.IgnoreFile = tt.rules }}
			if diff := cmp.Diff(lines(tt.want), tb.layers(t, tb.must(t))[0]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	ctx := files{
		"app.yaml": "a: b", "dir/x": "x", "out": "-> ../../etc/passwd", "abs": "-> /etc/passwd", "loop": "-> loop", "dangling": "-> nowhere",
		"outdir": "-> ..", "secret.key": "k", ".dockerignore": "secret.key\n", ".wh.x": "w", "helm/readme": "x",
		"bad/Metadata": `{"ClusterRuntime":"nomad"}`, "arm/Metadata": `{"ClusterRuntime":"k3s","arch":"arm64"}`, "none/Metadata": `{"version":"v1"}`,
		"broken/Metadata": "{\n", "lists/imageList": "nginx\nNot An Image\nUPPER\n", "lists2/manifests/imageList": "UPPER/case:1 # x\n", "images/x.tar": "no archive",
	}
	tests := []struct {
		name, kubefile string
		want           []string // in the message
		is             error
	}{
		{"missing file", "COPY app.yml /", []string{"Kubefile:2:1", "app.yml", "did you mean app.yaml?"}, ErrSource},
		{"missing directory", "COPY dri/x /", []string{"dri/x", "did you mean dir?"}, ErrSource},
		{"glob of nothing", "COPY *.json /", []string{"*.json matches nothing"}, ErrSource},
		{"ignored file", "COPY secret.key /", []string{"secret.key", "ignore file"}, ErrSource},
		{"dots", "COPY ../x /", []string{"../x"}, ErrOutside},
		{"link out", "COPY out /", []string{"out"}, ErrOutside},
		{"absolute link", "COPY abs /", []string{"abs", "/etc/passwd"}, ErrOutside},
		{"through a link out", "COPY outdir/etc /", []string{"outdir"}, ErrOutside},
		{"link loop", "COPY loop /", []string{"loop"}, errLinkLoop},
		{"dangling link", "COPY dangling /", []string{"dangling"}, ErrSource},
		{"whiteout", "COPY .wh.x /", []string{".wh.x"}, ErrWhiteout},
		{"several sources, no slash", "COPY app.yaml dir/x /y", []string{"write /y/"}, nil},
		{"file over directory", "COPY dir /y/\nCOPY dir /app.yaml\nCOPY app.yaml /", []string{"/app.yaml", "Kubefile:4:1"}, ErrKind},
		{"directory over file", "COPY app.yaml /dir\nCOPY dir /dir", []string{"/dir"}, ErrKind},
		{"user name", "COPY --chown=nginx dir /", []string{"nginx", "--chown"}, errNoOwner},
		{"chmod", "COPY --chmod=99999 dir /", []string{"--chmod=99999"}, nil},
		{"run", "COPY dir /\nRUN true", []string{"Kubefile:3:1", "RUN needs a BuildKit solver, which this build does not have"}, ErrSolver},
		{"copy from", "COPY --from=nginx /x /y", []string{"COPY --from"}, ErrSolver},
		{"git", "ADD https://github.com/a/b.git /y", []string{"git"}, ErrSolver},
		{"git by a variable", "ARG REPO=git@github.com:a/b\nADD $REPO /y", []string{"Kubefile:3:1", "ADD of a git repository"}, ErrSolver},
		{"git by ENV", "ARG HOST=https://github.com\nENV R=$HOST/a/b.git\nADD ${R}#main:d /y", []string{"Kubefile:4:1", "git"}, ErrSolver},
		{"stage", "COPY dir /\nFROM scratch AS two\nRUN true\nFROM two", []string{"Kubefile:4:1"}, ErrSolver},
		{"copy from a stage that runs", "RUN true\nFROM scratch\nCOPY --from=0 /x /y", []string{"Kubefile:4:1"}, ErrSolver},
		{"not in the stage", "COPY dir /\nFROM scratch\nCOPY --from=0 /y /z", []string{"Kubefile:4:1", "/y"}, ErrNotInStage},
		{"no match in the stage", "COPY dir /\nFROM scratch\nCOPY --from=0 /y* /z", []string{"Kubefile:4:1", "/y*"}, ErrNotInStage},
		{"fault in a stage", "COPY nothing /\nFROM scratch\nCOPY --from=0 /y /z", []string{"Kubefile:2:1"}, ErrSource},
		{"build args", "", []string{"Kubefile:1:14", "v/x.env, which is not in the build context"}, nil},
		{"build args out", "", []string{"../x"}, ErrOutside},
		{"app of a file not there", "APP x local://ap.yaml", []string{"ap.yaml", "did you mean app.yaml?"}, ErrSource},
		{"app of no type", "APP x dir helm", []string{"Kubefile:2:1", "APPCMDS x"}, ErrAppType},
		{"app by oci", "APP x oci://reg/chart", []string{"oci://reg/chart"}, nil},
		{"launch of no app", "APP x app.yaml\nLAUNCH y", []string{"Kubefile:3"}, nil},
		{"unknown runtime", "COPY bad /", []string{"nomad", "kubernetes, k3s, k0s", "Kubefile:2:1"}, ErrMetadata},
		{"other architecture", "COPY arm /", []string{"arm64", "linux/amd64"}, ErrMetadata},
		{"no runtime", "COPY none /", []string{"ClusterRuntime"}, ErrMetadata},
		{"Metadata is no JSON", "COPY broken /", []string{"Metadata:2: not JSON"}, ErrMetadata},
		{"runtime label", "LABEL io.clusterimage.runtime=swarm\nCOPY dir /", []string{"swarm"}, ErrMetadata},
		{"image list", "COPY lists /", []string{"imageList:2", "Not An Image", "imageList:3", "Kubefile:2:1"}, ErrImageName},
		{"image list with upper case", "COPY lists2 /", []string{"manifests/imageList:1"}, ErrImageName},
		{"image list of IMAGES", "IMAGES --list=lists/imageList", []string{"lists/imageList:2"}, ErrImageName},
		{"image archive", "COPY images /images/", []string{"images/x.tar"}, nil},
		{"base image", "FROM example.com/none:1\nCOPY dir /", []string{"example.com/none:1", "Kubefile:2"}, ErrNoPuller},
		{"image", "IMAGES example.com/none:1\nCOPY dir /", []string{"example.com/none:1", "Kubefile:2"}, ErrNoPuller},
		{"download", "ADD https://127.0.0.1:1/x /", []string{"https://127.0.0.1:1/x"}, ErrNoFetcher},
		{"plain http", "ADD http://example.com/x /", []string{"plain HTTP"}, nil},
		{"exposed port", "EXPOSE http\nCOPY dir /", []string{"EXPOSE"}, nil},
		{"platform", "FROM --platform=linux/s390x scratch\nCOPY dir /", []string{"linux/s390x"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tb := &testBuild{
				kubefile: "FROM scratch\n" + tt.kubefile, files: ctx, builder: func(b *Builder) { b.Images, b.Fetch = nil, nil },
				request: func(r *Request) { r.Labels = map[string]string{"x": "y"} },
			}
			if file, ok := map[string]string{"build args": "v/x.env", "build args out": "../x"}[tt.name]; ok {
				tb.kubefile = "# build-args=" + file + "\n" + tb.kubefile
			}
			_, err := tb.run(t)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error does not say %q:\n%v", w, err)
				}
			}
			if strings.Contains(err.Error(), tb.context) {
				t.Errorf("error shows this machine's path:\n%v", err)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error is no %v:\n%v", tt.is, err)
			}
			var where *kubefile.Error
			if !errors.As(err, &where) {
				t.Errorf("error has no position:\n%v", err)
			}
		})
	}
}

func TestNoContext(t *testing.T) {
	tb := &testBuild{kubefile: "FROM scratch\nCOPY <<EOF /x\nhi\nEOF\n"}
	tb.must(t)
	tb = &testBuild{kubefile: "FROM scratch\nCOPY x /x\n"}
	if _, err := tb.run(t); !errors.Is(err, ErrNoContext) {
		t.Errorf("got %v", err)
	}
}

func TestSocketRefused(t *testing.T) {
	dir := writeFiles(t, files{"d/a": "a"})
	if err := mkfifo(filepath.Join(dir, "d", "pipe")); err != nil {
		t.Skip("no named pipes here:", err)
	}
	tb := &testBuild{kubefile: "FROM scratch\nCOPY d /x\n", context: dir}
	if _, err := tb.run(t); err == nil || !strings.Contains(err.Error(), "d/pipe is a named pipe") {
		t.Errorf("got %v", err)
	}
}
