// Command embednode builds keg-node for the architectures of hosts and leaves it, compressed, where
// cmd/keg embeds it. `make build` runs it; it is no part of keg.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "embednode:", err)
		os.Exit(1)
	}
}

// run builds into the directory args[0] for each architecture that follows.
func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: embednode DIR ARCHITECTURES")
	}
	tmp, err := os.MkdirTemp("", "embednode")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, arch := range args[1:] {
		bin := filepath.Join(tmp, arch)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "github.com/clusterimage/keg/cmd/keg-node")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("building keg-node for %s: %w", arch, err)
		}
		data, err := os.ReadFile(bin)
		if err != nil {
			return err
		}
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
		if err != nil {
			return err
		}
		out := filepath.Join(args[0], "keg-node-linux-"+arch+".zst")
		packed := enc.EncodeAll(data, nil)
		if old, err := os.ReadFile(out); err == nil && string(old) == string(packed) {
			continue // keeps the time, and with it Go's build cache
		}
		if err := os.WriteFile(out, packed, 0o644); err != nil {
			return err
		}
	}
	return nil
}
