package host

import (
	"bufio"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterimage/keg/runtime/node"
)

// TestLockOfASilentOwner: who cannot even end its connection loses the lock, and who says a word now and
// then keeps it.
func TestLockOfASilentOwner(t *testing.T) {
	h, _ := newHost(t, nil)
	synctest.Test(t, func(t *testing.T) {
		in, owner := io.Pipe()
		answers, out := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- h.Lock(t.Context(), in, out); _ = in.Close() }()
		_, _ = io.WriteString(owner, `{"owner": "ann"}`+"\n")
		if line, err := bufio.NewReader(answers).ReadString('\n'); err != nil || line != node.Locked+"\n" {
			t.Fatalf("it says %q, %v", line, err)
		}
		for range 100 {
			time.Sleep(node.LockBeat)
			if _, err := io.WriteString(owner, "\n"); err != nil {
				t.Fatalf("the lock was given up: %v", err)
			}
		}
		last := time.Now()
		err := <-ended
		if err == nil || !strings.Contains(err.Error(), "without a word") || time.Since(last) != node.LockSilence {
			t.Errorf("after %s: %v", time.Since(last), err)
		}
		again := h.Lock(t.Context(), strings.NewReader(`{"owner": "bob"}`), io.Discard)
		if again != nil {
			t.Errorf("afterwards: %v", again)
		}
	})
	if text, err := os.ReadFile(h.path(node.LockFile)); err != nil || !strings.Contains(string(text), "bob") {
		t.Errorf("the lock file says %q, %v", text, err)
	}
}

// TestLockOfAForgottenHost: who waits for a lock must not think to hold it when the one before has removed
// the file that others will lock.
func TestLockOfAForgottenHost(t *testing.T) {
	h, _ := newHost(t, nil)
	synctest.Test(t, func(t *testing.T) {
		in, owner := io.Pipe()
		answers, out := io.Pipe()
		ended := make(chan error, 2)
		go func() { ended <- h.Lock(t.Context(), in, out) }()
		_, _ = io.WriteString(owner, `{"owner": "ann"}`+"\n")
		if line, err := bufio.NewReader(answers).ReadString('\n'); err != nil || line != node.Locked+"\n" {
			t.Fatalf("it says %q, %v", line, err)
		}
		waiting := make(chan error, 1)
		go func() {
			waiting <- h.Lock(t.Context(), strings.NewReader(`{"owner": "bob", "waitSeconds": 15}`), io.Discard)
		}()
		time.Sleep(time.Second)
		if err := h.Forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = owner.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := <-waiting; kind(err) != node.KindForgotten {
			t.Errorf("error %v", err)
		}
	})
}

// TestLockWaitsForAVerb: a verb of a keg that was killed may still be at work when the lock is free.
func TestLockWaitsForAVerb(t *testing.T) {
	h, _ := newHost(t, nil)
	synctest.Test(t, func(t *testing.T) {
		release, err := h.alone(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		in, owner := io.Pipe()
		said := make(words, 1)
		ended := make(chan error, 1)
		go func() { ended <- h.Lock(t.Context(), in, said) }()
		_, _ = io.WriteString(owner, `{"owner": "ann"}`+"\n")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if len(said) > 0 {
			t.Errorf("while a verb is at work it says %q", <-said)
		}
		release()
		if text := <-said; text != node.Locked+"\n" {
			t.Errorf("afterwards it says %q", text)
		}
		_ = owner.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// words is a writer that passes on what is written.
type words chan string

func (w words) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}
