package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// interrupt runs a program that reads standard input, gives it the beginning of what it wants, and then
// nothing more but SIGINT; it must end with 130: cut BEGINNING PROGRAM ARGS...
func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	beginnings := map[string]string{
		"tar":      tarBeginning(ts),
		"Kubefile": "FROM scratch\n",
		"nothing":  "",
	}
	if neg || len(args) < 2 {
		ts.Fatalf("usage: cut BEGINNING PROGRAM ARGS...")
	}
	cmd := exec.Command(lookPath(ts, args[1]), args[2:]...)
	cmd.Dir = ts.Getenv("WORK")
	for _, name := range []string{"HOME", "KEG_ROOT", "DOCKER_CONFIG", "PATH"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	// More than a pipe holds: when it is written, the program is reading.
	_, err = io.WriteString(stdin, beginnings[args[0]]+strings.Repeat("#\n", 1<<17))
	ts.Check(err)
	ts.Check(cmd.Process.Signal(syscall.SIGINT))
	late := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // the code is looked at
	late.Stop()
	if cmd.ProcessState.ExitCode() != exitInterrupted {
		ts.Fatalf("%v ended with %v, %s", args[1:], cmd.ProcessState, &stderr)
	}
	if !strings.HasSuffix(stderr.String(), "keg: interrupted\n") {
		ts.Fatalf("%v said %s", args[1:], &stderr)
	}
}

// tarBeginning is the header of a large blob.
func tarBeginning(ts *testscript.TestScript) string {
	var b bytes.Buffer
	ts.Check(tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "blobs/sha256/" + strings.Repeat("0", 64), Size: 1 << 30, Mode: 0o644}))
	return b.String()
}

func lookPath(ts *testscript.TestScript, program string) string {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if fi, err := os.Stat(filepath.Join(dir, program)); err == nil && fi.Mode().IsRegular() {
			return filepath.Join(dir, program)
		}
	}
	ts.Fatalf("%s is not in PATH", program)
	return ""
}

func TestShorten(t *testing.T) {
	for _, tt := range []struct {
		text  string
		limit int
		want  string
	}{
		{"short", 5, "short"},
		{"longer", 5, "lo..."},
		{"世界世界世界", 5, "世界..."},
	} {
		if got := shorten(tt.text, tt.limit); got != tt.want {
			t.Errorf("shorten(%q, %d) = %q, want %q", tt.text, tt.limit, got, tt.want)
		}
	}
}
