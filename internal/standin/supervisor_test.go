package standin_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestSupervisor(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "once", "#!/bin/sh\necho hello $MORE\nexit 3\n")
	write(t, dir, "stay", "#!/bin/sh\ntrap 'echo bye; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done\n")
	var log buffer
	s := standin.NewSupervisor(dir, &log)
	defer s.Shutdown()
	if err := s.Start(standin.Process{Name: "absent", Program: "absent"}); err == nil {
		t.Error("a program that is not there was started")
	}
	for _, p := range []standin.Process{{Name: "a", Program: "stay"}, {Name: "b", Program: "stay"}, {Name: "c", Program: "once", Env: []string{"MORE=world"}}} {
		if err := s.Start(p); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := standin.Until(ctx, 20*time.Millisecond, func(context.Context) error {
		if _, starts := s.Running("c"); starts < 2 || strings.Count(log.String(), "up") < 2 {
			return errors.New("c was not started again")
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	s.Shutdown()
	text := log.String()
	if !strings.Contains(text, "c: hello world\n") || !strings.Contains(text, "c ended (exit status 3)") {
		t.Errorf("log:\n%s", text)
	}
	if first, last := strings.Index(text, "b: bye"), strings.Index(text, "a: bye"); first < 0 || last < first {
		t.Errorf("not stopped in the reverse order:\n%s", text)
	}
	if running, _ := s.Running("a"); running {
		t.Error("still running")
	}
}
