package builder

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestStages: stages of files alone are packed without a solver.
func TestStages(t *testing.T) {
	archive := string(gz(t, tarOf(t,
		header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 7},
		header{Name: "bin/tool", Linkname: "tool", Mode: 0o4755, Uid: 7, Gid: 8},
		header{Name: "bin/zz", Typeflag: tar.TypeLink, Linkname: "bin/tool"},
		header{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "tool"},
		header{Name: "bin/other", Linkname: "other", Mode: 0o755},
		header{Name: "doc/readme", Linkname: "text", Mode: 0o644},
		header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "doc"},
	)))
	fs := files{"a.tgz": archive, "x": "x", "amd64/y": "amd", "arm64/y": "arm", "dir/one": "1", "dir/two": "2"}
	const stages = "FROM scratch AS tools\nADD a.tgz /\nFROM scratch AS unused\nCOPY nothing /\nFROM tools AS more\nCOPY x /bin/other\nCOPY --from=tools /doc /bin/doc\nFROM scratch\n"
	for _, tt := range []struct {
		name, kubefile string
		want           []string // of the last layer
	}{
		{"directory", stages + "COPY --from=tools /bin /o", []string{
			"0755 0:0 o/", "0755 0:0 o/other other", "o/sh -> tool", "4755 7:8 o/tool tool", "o/zz => o/tool",
		}},
		{"owner and mode", stages + "COPY --from=TOOLS --chown=0:0 --chmod=0755 bin/ /o/", []string{
			"0755 0:0 o/", "0755 0:0 o/other other", "o/sh -> tool", "0755 0:0 o/tool tool", "o/zz => o/tool",
		}},
		{"files", stages + "COPY --from=0 --chown=0:0 /bin/tool /bin/z* /o/", []string{"0755 0:0 o/", "4755 0:0 o/tool tool", "o/zz => o/tool"}},
		{"one of several names", stages + "COPY --from=0 /bin/zz /o", []string{"4755 7:8 o tool"}},
		{"a pattern", stages + "COPY --from=tools /*/[or]* /o/", []string{"0755 0:0 o/", "0755 0:0 o/other other", "0644 0:0 o/readme text"}},
		{"through a link", stages + "COPY --from=tools /lib /bin/sh /o/", []string{"0755 0:0 o/", "0644 0:0 o/readme text", "4755 7:8 o/sh tool"}},
		{"excluded", stages + "COPY --from=tools --exclude=bin --exclude=l* / /o/", []string{"0755 0:0 o/", "0755 0:0 o/doc/", "0644 0:0 o/doc/readme text"}},
		{"parents", stages + "COPY --from=tools --parents --chown=0:0 /bin/o* /doc /o/", []string{
			"0755 0:0 o/", "0755 0:0 o/bin/", "0755 0:0 o/bin/other other", "0755 0:0 o/doc/", "0644 0:0 o/doc/readme text",
		}},
		{"a stage on a stage", stages + "COPY --from=more --exclude=*[hlz] /bin /o", []string{
			"0755 0:0 o/", "0755 0:0 o/doc/", "0644 0:0 o/doc/readme text", "0644 0:0 o/other x",
		}},
		{"the last on a stage", "ARG SOURCE=b\nFROM scratch AS a\nCOPY nothing /\nFROM scratch AS b\nARG D=dir\nENV E=e\nCOPY $D/one /\nFROM ${SOURCE}\nCOPY dir/two /$D$E/", []string{
			"0755 0:0 dire/", "0644 0:0 dire/two 2",
		}},
		{"by platform", "FROM scratch AS tools-amd64\nCOPY amd64 /\nFROM scratch AS tools-arm64\nCOPY none /\nFROM tools-$TARGETARCH AS tools\nFROM scratch\nCOPY --from=tools y /", []string{"0644 0:0 y amd"}},
		{"a heredoc", "FROM scratch AS a\nCOPY <<E /x\nhello\nE\nFROM scratch\nCOPY --from=a x /", []string{"0644 0:0 x hello\n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tb := &testBuild{kubefile: tt.kubefile + "\n", files: fs}
			layers := tb.layers(t, tb.must(t))
			if diff := cmp.Diff(sorted(tt.want), sorted(layers[len(layers)-1])); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestArchivesOfStages: an image archive that a stage holds is one of the image once it is copied there.
func TestArchivesOfStages(t *testing.T) {
	tb := &testBuild{kubefile: "FROM scratch AS a\nCOPY x /images/x.tar\nFROM scratch\nCOPY --from=a /images/x.tar /doc/\n", files: files{"x": "no archive"}}
	if diff := cmp.Diff([]string{"0755 0:0 doc/", "0644 0:0 doc/x.tar no archive"}, tb.layers(t, tb.must(t))[0]); diff != "" {
		t.Error(diff)
	}
}

// TestAddUnpacks: ADD --unpack of a URL with its checksum, and of it what COPY --from chooses.
func TestAddUnpacks(t *testing.T) {
	data := gz(t, tarOf(t, header{Name: "bin/tool", Linkname: "tool", Mode: 0o755, Uid: 1001}, header{Name: "LICENSE", Linkname: "l"}))
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.URL.EscapedPath() != "/v1.2%2Bx/tool-linux-amd64.tar.gz" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	defer server.Close()
	text := "# build-args=versions/${VERSION}.${TARGETARCH}.env\nARG VERSION=v1.2+x\nFROM scratch AS tool\nARG MIRROR VERSION SUM\n" +
		"ADD --unpack=true --checksum=sha256:${SUM} ${MIRROR}/${VERSION/+/%2B}/tool-linux-${TARGETARCH}.tar.gz /\n" +
		"FROM scratch\nCOPY --from=tool --chown=0:0 /bin/ /bin/\n"
	tb := &testBuild{
		kubefile: text, files: files{"versions/v1.2+x.amd64.env": fmt.Sprintf("SUM=%x\n", sha256.Sum256(data))},
		request: func(r *Request) { r.Vars = map[string]string{"MIRROR": server.URL} },
	}
	first := tb.must(t)
	if diff := cmp.Diff([]string{"0755 0:0 bin/", "0755 0:0 bin/tool tool"}, tb.layers(t, first)[0]); diff != "" {
		t.Error(diff)
	}
	server.Close()
	if again := tb.must(t); again.Target.Digest != first.Target.Digest || asked != 1 {
		t.Errorf("asked %d times, %s and %s", asked, first.Target.Digest, again.Target.Digest)
	}
}
