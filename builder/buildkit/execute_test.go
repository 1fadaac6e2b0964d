package buildkit_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/builder/buildkit"
	"github.com/clusterimage/keg/kubefile"
)

func write(t testing.TB, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// added is what a tree has beyond the base's.
func added(base, tree map[string]string) map[string]string {
	out := map[string]string{}
	for n, v := range tree {
		if base[n] != v {
			out[n] = v
		}
	}
	for n := range base {
		if _, ok := tree[n]; !ok {
			out[n] = "gone"
		}
	}
	return out
}

func TestExecute(t *testing.T) {
	r := newRig(t, buildkit.Options{Secrets: map[string][]byte{"token": []byte("sesame")}})
	ctx := write(t, t.TempDir(), map[string]string{"data/a": "a", "data/b": "b", "app.yaml": "kind: x", ".dockerignore": "secret\n", "secret": "s"})
	other := write(t, t.TempDir(), map[string]string{"o": "other"})
	r.build("FROM base:v1\nONBUILD ARG WHO=trigger\nONBUILD RUN echo $WHO >/onbuild\nONBUILD COPY data /onbuild.d\n", ctx, "triggers:v1")
	base := r.tree(r.build("FROM base:v1\n", ctx, "same:v1").Platforms[0].Rootfs)
	file := func(mode, owner, content string) string {
		return fmt.Sprintf("0 %s %s 0 [] \"\" %q", mode, owner, content)
	}
	dir := func(mode, owner string) string { return fmt.Sprintf("5 %s %s 0 [] \"\" \"\"", mode, owner) }
	for _, tt := range []struct {
		name, text string
		change     change
		want       map[string]string
		log        string
	}{
		{name: "nothing", text: "FROM base:v1\nRUN true\n", want: map[string]string{}},
		{name: "what it writes", text: "FROM base:v1\nRUN mkdir -p /d/e && echo x >/d/f && chmod 4751 /d/f && chown 1:2 /d/e\n", want: map[string]string{
			"d": dir("0755", "0:0"), "d/e": dir("0755", "1:2"), "d/f": file("4751", "0:0", "x\n"),
		}},
		{name: "what it deletes", text: "FROM base:v1\nCOPY data /data\nRUN rm /data/a /bin/wget\n", want: map[string]string{
			"data": dir("0755", "0:0"), "data/b": file("0644", "0:0", "b"), "bin/wget": "gone",
		}},
		{name: "a directory that becomes another", text: "FROM base:v1\nCOPY data /data\nRUN rm -r /data && mkdir -m 700 /data && echo c >/data/c\n", want: map[string]string{
			"data": dir("0700", "0:0"), "data/c": file("0644", "0:0", "c\n"),
		}},
		{name: "a directory that becomes a file", text: "FROM base:v1\nCOPY data /data\nRUN rm -r /data && echo c >/data\nCOPY app.yaml /x\n", want: map[string]string{
			"data": file("0644", "0:0", "c\n"), "x": file("0644", "0:0", "kind: x"),
		}},
		{name: "links", text: "FROM base:v1\nRUN echo x >/one && ln /one /two && ln -s one /three\n", want: map[string]string{
			"one": file("0644", "0:0", "x\n"), "two": file("0644", "0:0", "x\n"), "three": `2 0777 0:0 0 [] "one" ""`,
		}},
		{name: "sees what stands before", text: "FROM base:v1\nAPP shop app.yaml\nLAUNCH shop\nWORKDIR /w\nRUN cat /application/apps/shop/app.yaml >app\nCOPY data/a .\n", want: map[string]string{
			"application": dir("0755", "0:0"), "application/apps": dir("0755", "0:0"), "application/apps/shop": dir("0755", "0:0"),
			"application/apps/shop/app.yaml": file("0644", "0:0", "kind: x"),
			"w":                              dir("0755", "0:0"), "w/app": file("0644", "0:0", "kind: x"), "w/a": file("0644", "0:0", "a"),
		}},
		{name: "variables", text: "FROM base:v1\nARG A=arg B=arg C\nENV A=env\nRUN echo $A $B $C >/one\nENV D=$A-$B B=env\nARG A=again E=e\nRUN echo $A $B $C $D $E >/two\n",
			change: func(_ *builder.Builder, req *builder.Request) {
				req.Vars = map[string]string{"C": "a b \"c\" $d", "E": "given"}
			},
			want: map[string]string{"one": file("0644", "0:0", "env arg a b \"c\" $d\n"), "two": file("0644", "0:0", "again env a b \"c\" $d env-arg given\n")}},
		{name: "user, shell, heredoc", text: "FROM base:v1\nWORKDIR /w\nRUN chmod 777 .\nUSER 7:8\nRUN <<EOF\necho one >a\necho two >>a\nEOF\nSHELL [\"/bin/sh\", \"-c\", \"echo by shell >b; $0\"]\nRUN true\nUSER root\n", want: map[string]string{
			"w": dir("0777", "0:0"), "w/a": file("0644", "7:8", "one\ntwo\n"), "w/b": file("0644", "7:8", "by shell\n"),
		}},
		{name: "escape and comments", text: "# syntax=docker/dockerfile:1\n# escape=`\nFROM base:v1\nARG X=1\nRUN echo one `\n  # a comment\n  two >/x\n", want: map[string]string{"x": file("0644", "0:0", "one two\n")}},
		{name: "mounts", text: "FROM base:v1 AS tools\nRUN mkdir /made && echo tool >/made/tool\nFROM scratch AS files\nCOPY data /pure\nFROM base:v1\n" +
			"RUN --mount=type=secret,id=token --mount=type=cache,target=/c --mount=target=/ctx --mount=from=tools,source=/made,target=/m0 " +
			"--mount=type=bind,from=1,source=/pure,target=/m1 cat /run/secrets/token /ctx/data/a /m0/tool /m1/b >/all; echo x >/c/x; ls /ctx >/ls\n",
			want: map[string]string{"all": file("0644", "0:0", "sesameatool\nb"), "ls": file("0644", "0:0", "app.yaml\ndata\n")}},
		{name: "tmpfs and no network", text: "FROM base:v1\nRUN --mount=type=tmpfs,target=/t --network=none echo x >/t/x; ls /sys/class/net >/net\n", want: map[string]string{"net": file("0644", "0:0", "lo\n")}},
		{name: "copy from stages that run", text: "FROM base:v1 AS one\nRUN mkdir /m && echo x >/m/x && chmod 700 /m/x && chown -R 3:4 /m\nFROM one AS two\nRUN echo y >/m/y\nFROM scratch\n" +
			"COPY --from=two /m /m\nCOPY --from=0 --chown=5:6 --chmod=640 /m/x /x\nCOPY data /data\n", change: func(*builder.Builder, *builder.Request) {}, want: nil},
		{name: "copy from an image", text: "FROM base:v1\nCOPY --from=base:v1 /bin/busybox /opt/b/\nRUN test -x /opt/b/busybox && rm -r /opt\n", want: map[string]string{}},
		{name: "build contexts", text: "FROM alias\nCOPY --from=other o /o\nCOPY --from=alias /bin/sh /sh2\nRUN --mount=from=other,target=/t cat /t/o /o >/p && rm /sh2\n",
			change: func(_ *builder.Builder, req *builder.Request) {
				req.BuildContexts = map[string]string{"other": other, "alias": "docker-image://base:v1"}
			}, want: map[string]string{"o": file("0644", "0:0", "other"), "p": file("0644", "0:0", "otherother")}},
		{name: "triggers of the base", text: "FROM triggers:v1\n", want: map[string]string{
			"onbuild": file("0644", "0:0", "trigger\n"), "onbuild.d": dir("0755", "0:0"), "onbuild.d/a": file("0644", "0:0", "a"), "onbuild.d/b": file("0644", "0:0", "b"),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changes := []change{}
			if tt.change != nil {
				changes = append(changes, tt.change)
			}
			sub := *r
			sub.t = t
			res := sub.build(tt.text, ctx, "x:v1", changes...)
			got := sub.tree(res.Platforms[0].Rootfs)
			if tt.want != nil {
				if diff := cmp.Diff(tt.want, added(base, got)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			} else if diff := cmp.Diff(map[string]string{
				"m": dir("0755", "0:0"), "m/x": file("0700", "3:4", "x\n"), "m/y": file("0644", "0:0", "y\n"), "x": file("0640", "5:6", "x\n"),
				"data": dir("0755", "0:0"), "data/a": file("0644", "0:0", "a"), "data/b": file("0644", "0:0", "b"),
			}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if again := sub.build(tt.text, ctx, "x:v1", changes...); again.Target.Digest != res.Target.Digest {
				t.Errorf("built again it is %s, was %s", again.Target.Digest, res.Target.Digest)
			}
			fresh := append(changes, func(_ *builder.Builder, req *builder.Request) { req.NoCache = true })
			if again := sub.build(tt.text, ctx, "x:v1", fresh...); again.Target.Digest != res.Target.Digest {
				t.Errorf("without the cache it is %s, was %s", again.Target.Digest, res.Target.Digest)
			}
		})
	}
}

// TestNothingElse holds that a RUN changes nothing but what its command does: random trees, random Kubefiles, with
// and without one.
func TestNothingElse(t *testing.T) {
	r := newRig(t, buildkit.Options{})
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 6 {
		dir := t.TempDir()
		for range 1 + random.IntN(12) {
			at := filepath.Join(dir, fmt.Sprintf("d%d", random.IntN(3)), fmt.Sprintf("e%d", random.IntN(2)))
			if err := os.MkdirAll(at, 0o700|os.FileMode(random.IntN(0o100))); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(at, fmt.Sprintf("f%d", random.IntN(9)))
			_ = os.Remove(file)
			if err := os.WriteFile(file, []byte(strings.Repeat("x", random.IntN(5000))), 0o600); err != nil {
				t.Fatal(err)
			}
			mode := os.FileMode(random.IntN(0o1000))
			if random.IntN(3) == 0 {
				mode |= os.ModeSetuid
			}
			if err := os.Chmod(file, mode); err != nil {
				t.Fatal(err)
			}
			_ = os.Link(file, file+".hard")
			_ = os.Symlink("f0", file+".soft")
		}
		pick := func(list ...string) string { return list[random.IntN(len(list))] }
		var lines []string
		for i := range 2 + random.IntN(5) {
			lines = append(lines, pick(
				fmt.Sprintf("COPY --chown=%d:%d . /x%d/", random.IntN(3), random.IntN(70000), random.IntN(2)),
				fmt.Sprintf("COPY --chmod=%04o . /y%d", random.IntN(0o10000), random.IntN(2)),
				fmt.Sprintf("WORKDIR /w%d/z", i), "COPY . .", "COPY <<EOF /etc/doc\ntext\nEOF", "ENV A=b", "ARG B=c", "USER 5", "LABEL a=b",
				"COPY . /dev/", "COPY . /tmp/a", fmt.Sprintf("COPY --link . /l%d", i), "VOLUME /v",
			))
		}
		epoch := func(_ *builder.Builder, req *builder.Request) {
			req.Vars = map[string]string{"SOURCE_DATE_EPOCH": "1700000000"}
		}
		plain := "FROM base:v1\n" + strings.Join(lines, "\n") + "\n"
		at := random.IntN(len(lines) + 1)
		withRun := "FROM base:v1\n" + strings.Join(slices.Insert(slices.Clone(lines), at, "RUN true"), "\n") + "\n"
		want := r.tree(r.build(plain, dir, "plain:v1", epoch).Platforms[0].Rootfs)
		got := r.tree(r.build(withRun, dir, "run:v1", epoch).Platforms[0].Rootfs)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d, round %d:\n%s\n(-without RUN +with):\n%s", seed, round, withRun, diff)
		}
	}
}

func TestRunTools(t *testing.T) {
	r := newRig(t, buildkit.Options{})
	ctx := write(t, t.TempDir(), map[string]string{"Metadata": "{}", "bin/kubeadm": "x"})
	text := "FROM scratch\nCOPY bin /bin\nRUN echo made >/bin/tool && chmod 755 /bin/tool && rm /bin/kubeadm\nRUN mkdir /etc/empty\n"
	want := map[string]string{
		"bin": `5 0755 0:0 0 [] "" ""`, "bin/tool": `0 0755 0:0 0 [] "" "made\n"`, "etc": `5 0755 0:0 0 [] "" ""`, "etc/empty": `5 0755 0:0 0 [] "" ""`,
	}
	for name, tools := range map[string]string{"image": "base:v1", "directory": busybox(t)} {
		t.Run(name, func(t *testing.T) {
			res := r.build(text, ctx, "x:v1", func(_ *builder.Builder, req *builder.Request) { req.RunTools = tools })
			if diff := cmp.Diff(want, r.tree(res.Platforms[0].Rootfs)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	_, err := r.try(text, ctx, "x:v1", func(_ *builder.Builder, req *builder.Request) { req.RunTools = builder.NoRunTools })
	if !errors.Is(err, builder.ErrNoShell) || !strings.Contains(err.Error(), "Kubefile:3:1") {
		t.Errorf("without tools: %v", err)
	}
	if _, err = r.try(text, ctx, "x:v1"); !errors.Is(err, builder.ErrNoPuller) || !strings.Contains(err.Error(), builder.DefaultRunTools) {
		t.Errorf("default tools: %v", err)
	}
}

func TestFails(t *testing.T) {
	r := newRig(t, buildkit.Options{})
	ctx := write(t, t.TempDir(), map[string]string{"a": "a"})
	for _, tt := range []struct {
		name, text string
		code       int
		want       []string
	}{
		{"exit code", "FROM base:v1\nENV X=1\nRUN true\nRUN echo out; echo err >&2; \\\n  exit 3\n", 3, []string{
			"Kubefile:4:1: the command ended with exit code 3", "    4 | RUN echo out", "    5 |   exit 3", "it printed last:", "    out", "    err",
		}},
		{"heredoc", "FROM base:v1\nRUN <<EOF\ntrue\nfalse\nEOF\n", 1, []string{"Kubefile:2:1: the command ended with exit code 1", "    4 | false", "printed nothing"}},
		{"in a stage", "FROM base:v1 AS one\nRUN exit 7\nFROM scratch\nCOPY --from=one /x /\n", 7, []string{"Kubefile:2:1", "exit code 7"}},
		{"copies nothing", "FROM base:v1 AS one\nRUN true\nFROM scratch\nCOPY --from=one /nowhere /\n", 0, []string{"Kubefile:4:1", "/nowhere", "not found"}},
		{"no secret", "FROM base:v1\nRUN --mount=type=secret,id=x,required=true true\n", 0, []string{"Kubefile:2:1", "secret x: not found"}},
		{"entitlement", "FROM base:v1\nRUN --security=insecure true\n", 0, []string{"security.insecure"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.try(tt.text, ctx, "x:v1")
			if err == nil {
				t.Fatal("it was built")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q:\n%v", want, err)
				}
			}
			var exec *builder.ExecError
			if tt.code != 0 && (!errors.As(err, &exec) || exec.ExitCode != tt.code) {
				t.Errorf("no exit code %d: %#v", tt.code, err)
			}
			var placed *kubefile.Error
			if !errors.As(err, &placed) {
				t.Error("it has no place")
			}
			if images, err := r.store.Images(); err != nil || len(images) != 1 {
				t.Errorf("images: %v, %v", images, err)
			}
		})
	}
}
