package imagestore_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/storetest"
)

// The test binary runs itself as other processes that use a store: KEG_TEST_STORE_WORK says what to do.
func TestMain(m *testing.M) {
	work := os.Getenv("KEG_TEST_STORE_WORK")
	if work == "" {
		os.Exit(m.Run())
	}
	if err := otherProcess(context.Background(), work, os.Getenv("KEG_TEST_STORE_DIR")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func otherProcess(ctx context.Context, work, dir string) error {
	s, err := imagestore.Open(dir)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	kind, number, _ := strings.Cut(work, ":")
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	switch kind {
	case "tag": // 20 names of this process's own
		for i := range 20 {
			if err := makeImage(ctx, s, uint64(i), fmt.Sprintf("process%d:v%d", n, i)); err != nil {
				return err
			}
		}
		return nil
	case "churn": // until killed
		for i := uint64(n); ; i++ {
			if err := churn(ctx, s, i); err != nil {
				return err
			}
		}
	case "finish": // the same, with an end
		for i := range uint64(n) {
			if err := churn(ctx, s, i); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown work %q", work)
}

// churn does what keg does to a store: images come, some by parts, move, go, and remains are removed.
func churn(ctx context.Context, s *imagestore.Store, i uint64) error {
	if err := makeImage(ctx, s, i, fmt.Sprintf("image%d", i%7)); err != nil {
		return err
	}
	if i%5 == 0 {
		images, err := s.Images()
		if err != nil {
			return err
		}
		if err := s.Untag(ctx, images[0].Name); err != nil {
			return err
		}
		if _, err := s.Prune(ctx, imagestore.PruneOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// makeImage writes an image of two layers, the second by way of Resume, and tags it. The same seed gives
// the same image.
func makeImage(ctx context.Context, s *imagestore.Store, seed uint64, name string) error {
	release, err := s.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for i := range uint64(2) {
		data := randomBytes(seed%50*2+i, int(seed*7919%300_000)+1)
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data))}
		var w *imagestore.Writer
		var offset int64
		if i == 0 {
			w, err = s.Writer(ctx)
		} else {
			w, offset, err = s.Resume(ctx, d.Digest)
		}
		if err != nil {
			return err
		}
		for offset < d.Size && err == nil {
			end := min(d.Size, offset+10_000)
			_, err = w.Write(data[offset:end])
			offset = end
		}
		if err == nil {
			_, err = w.Commit(d.Digest, d.Size)
		}
		if cerr := w.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, d)
	}
	if m.Config, err = s.PutJSON(ctx, ocispec.MediaTypeImageConfig, ocispec.Image{Author: fmt.Sprint(seed)}); err != nil {
		return err
	}
	desc, err := s.PutJSON(ctx, m.MediaType, m)
	if err != nil {
		return err
	}
	ref, err := imagestore.ParseName(name)
	if err != nil {
		return err
	}
	return s.Tag(ctx, ref, desc)
}

// start runs the test binary as another process and waits until it has opened the store.
func start(t testing.TB, dir, work string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "KEG_TEST_STORE_WORK="+work, "KEG_TEST_STORE_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("other process: %q, %v", line, err)
	}
	return cmd
}

func TestKilled(t *testing.T) {
	s := storetest.New(t)
	rounds := 40
	if testing.Short() {
		rounds = 5
	}
	for i := range rounds {
		cmd := start(t, s.Dir(), fmt.Sprintf("churn:%d", i*3))
		time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("the other process ended by itself: %v", err)
		}
		storetest.Sound(t, s)
	}
	left := len(names(t, s, "ingest"))
	if err := start(t, s.Dir(), "finish:30").Wait(); err != nil {
		t.Fatal(err)
	}
	storetest.Sound(t, s)
	result := prune(t, s)
	storetest.Sound(t, s)
	if rest := names(t, s, "ingest"); len(rest) != 0 {
		t.Errorf("ingest: %v", rest)
	}
	if rest, err := filepath.Glob(filepath.Join(s.Dir(), ".*")); err != nil || len(rest) != 0 {
		t.Errorf("remains: %v, %v", rest, err)
	}
	t.Logf("%d files in ingest after the last kill; pruned at the end: %+v", left, result)
}

func TestConcurrentTags(t *testing.T) {
	s := storetest.New(t)
	var processes []*exec.Cmd
	for i := range 3 {
		processes = append(processes, start(t, s.Dir(), fmt.Sprintf("tag:%d", i)))
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				if err := makeImage(t.Context(), s, uint64(j), fmt.Sprintf("goroutine%d:v%d", i, j)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() { // nothing of what the others write goes
		for range 5 {
			prune(t, s)
		}
	})
	wg.Wait()
	for _, cmd := range processes {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	storetest.Sound(t, s)
	images, err := s.Images()
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 3*20+8*10 {
		t.Errorf("%d tags", len(images))
	}
}
