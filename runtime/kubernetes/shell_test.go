package kubernetes

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestEndProgram ends a real process by its path, and leaves one alone that has another.
func TestEndProgram(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("no sleep(1): ", err)
	}
	data, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	start := func(name string) (path string, ended chan struct{}) {
		path = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(t.Context(), path, "600")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		ended = make(chan struct{})
		go func() { _ = c.Wait(); close(ended) }()
		return path, ended
	}
	kubeadm, gone := start("kubeadm")
	_, stays := start("kubeadm2")
	if out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", endProgram, "sh", kubeadm).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	<-gone
	select {
	case <-stays:
		t.Error("the other program was ended, too")
	case <-time.After(10 * time.Millisecond):
	}
}

// TestScripts has the shell look at what is run on hosts.
func TestScripts(t *testing.T) {
	for name, script := range map[string]string{
		"stopPods": stopPods, "endProgram": endProgram, "runEtcdTool": runEtcdTool, "mendManifests": mendManifests, "restartStatic": restartStatic,
		"renewKubelet": renewKubelet, "beginSign": beginSign, "endSign": endSign, "makeDir": makeDir, "packTree": packTree, "unpackTree": unpackTree,
		"placeState": placeState, "restartStale": restartStale,
	} {
		if out, err := exec.CommandContext(t.Context(), "/bin/sh", "-n", "-c", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}
