package lockfile_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterimage/keg/internal/lockfile"
)

// The test binary runs itself as a process that takes a lock and keeps it until it is killed.
func TestMain(m *testing.M) {
	path := os.Getenv("KEG_TEST_LOCK")
	if path == "" {
		os.Exit(m.Run())
	}
	release, err := lockfile.Acquire(context.Background(), path, lockfile.Exclusive, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("locked")
	time.Sleep(time.Minute)
	release()
}

func try(t *testing.T, path string, mode lockfile.Mode) (release func(), ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	waited := 0
	release, err := lockfile.Acquire(ctx, path, mode, func() { waited++ })
	switch {
	case err == nil && waited == 0:
		return release, true
	case errors.Is(err, context.DeadlineExceeded) && waited == 1:
		return nil, false
	}
	t.Fatalf("waited %d times, %v", waited, err)
	return nil, false
}

func TestModes(t *testing.T) {
	for _, tt := range []struct {
		held, wanted lockfile.Mode
		want         bool
	}{
		{lockfile.Shared, lockfile.Shared, true},
		{lockfile.Shared, lockfile.Exclusive, false},
		{lockfile.Exclusive, lockfile.Shared, false},
		{lockfile.Exclusive, lockfile.Exclusive, false},
	} {
		path := filepath.Join(t.TempDir(), "lock")
		release, ok := try(t, path, tt.held)
		if !ok {
			t.Fatal("a new lock is held")
		}
		if r, ok := try(t, path, tt.wanted); ok != tt.want {
			t.Errorf("%v while %v is held: %v", tt.wanted, tt.held, ok)
		} else if ok {
			r()
		}
		release()
		if r, ok := try(t, path, lockfile.Exclusive); !ok {
			t.Error("held after release")
		} else {
			r()
		}
	}
}

func TestExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var wg sync.WaitGroup
	var inside, n atomic.Int32 // atomic, since the race detector knows nothing of flock
	for range 8 {
		wg.Go(func() {
			for range 10 {
				release, err := lockfile.Acquire(t.Context(), path, lockfile.Exclusive, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if !inside.CompareAndSwap(0, 1) {
					t.Error("two hold the lock")
				}
				n.Add(1)
				inside.Store(0)
				release()
			}
		})
	}
	wg.Wait()
	if n.Load() != 80 {
		t.Errorf("counted %d", n.Load())
	}
}

func TestKilledHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "KEG_TEST_LOCK="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, ok := try(t, path, lockfile.Shared); ok {
		t.Error("another process holds the lock, and so do we")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	release, err := lockfile.Acquire(t.Context(), path, lockfile.Exclusive, nil)
	if err != nil {
		t.Fatal(err)
	}
	release()
}

func TestTryLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() }) // closed before in places
		return f
	}
	a, b := open(), open()
	if ok, err := lockfile.TryLock(a, lockfile.Exclusive); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if ok, err := lockfile.TryLock(b, lockfile.Shared); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if ok, err := lockfile.TryLock(b, lockfile.Shared); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if _, err := lockfile.TryLock(a, lockfile.Shared); err == nil {
		t.Error("locked a closed file")
	}
}

func TestAcquireErrors(t *testing.T) {
	if _, err := lockfile.Acquire(t.Context(), filepath.Join(t.TempDir(), "none", "lock"), lockfile.Shared, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
