package client_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/node/client"
	"github.com/clusterimage/keg/runtime/remote"
)

// silent is a host that takes the lock and then says nothing more. It hears words.
type silent struct{ words int }

func (s *silent) Run(ctx context.Context, c remote.Cmd) error {
	_, _ = io.WriteString(c.Stdout, node.Locked+"\n")
	buf := make([]byte, 100)
	for {
		n, err := c.Stdin.Read(buf)
		if err != nil {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		if n > 0 {
			s.words++
		}
	}
}

// TestLockOnASilentHost: the owner speaks all the time, and does not wait for ever to be heard.
func TestLockOnASilentHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &silent{}
		release, err := (&client.Client{Runner: host}).Lock(t.Context(), node.LockRequest{Owner: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*node.LockBeat + time.Second)
		synctest.Wait()
		if host.words != 1+10 {
			t.Errorf("%d words", host.words)
		}
		if err := release(); err == nil || !strings.Contains(err.Error(), "no answer within 5s") {
			t.Errorf("releasing: %v", err)
		}
	})
}
