package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func resetCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "reset", Short: "Uninstall k0s. Must be run with elevated privileges", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		v, err := newVars(cmd)
		if err != nil {
			return err
		}
		if err := requireRoot(); err != nil {
			return err
		}
		locked, err := v.locked()
		if err != nil {
			return err
		}
		if locked {
			return fmt.Errorf("%w, please stop k0s before reset", errStillRunning)
		}
		config, err := v.loadConfig(cmd.InOrStdin())
		if err != nil {
			return err
		}
		err = v.reset(cmd.Context(), config)
		fmt.Fprintln(cmd.ErrOrStderr(), `level=warning msg="To ensure a full reset, a node reboot is recommended."`)
		if err != nil {
			return fmt.Errorf("errors occurred during clean-up: %w", err)
		}
		return nil
	}}
	debugFlags(cmd.PersistentFlags())
	dataFlags(cmd.Flags())
	configFlag(cmd.Flags())
	cmd.Flags().String("cri-socket", "", "container runtime socket to use, default to internal containerd. Format: [remote|docker]:[path-to-socket]")
	cmd.Flags().String("kubelet-root-dir", "", "Kubelet root directory for k0s")
	return cmd
}

// reset takes away containers, users, services, directories, k0s' own CNI configuration and its bridge. The binary,
// /etc/k0s, rules of iptables, sysctls and other CNI configurations stay, as they do with k0s.
func (v *vars) reset(ctx context.Context, config *ClusterConfig) error {
	v.stopContainers(ctx)
	deleteUsers(ctx, config.Spec.Install.Users)
	init := detectInit()
	var problems []error
	for _, role := range []string{roleController, roleWorker} {
		if _, err := os.Stat(init.file("k0s" + role)); err == nil {
			problems = append(problems, init.disable(ctx, "k0s"+role))
		}
	}
	for _, dir := range []string{v.kubeletRoot, v.data, v.run} {
		if err := unmountBelow(dir); err != nil {
			return errors.Join(append(problems, err)...)
		}
	}
	for _, dir := range []string{v.kubeletRoot, v.data, v.run} {
		if err := os.RemoveAll(dir); err != nil {
			problems = append(problems, fmt.Errorf("failed to delete %s: %w", dir, err))
		}
	}
	for _, file := range []string{"10-calico.conflist", "calico-kubeconfig", "10-kuberouter.conflist"} {
		if err := os.Remove(under("/etc/cni/net.d/" + file)); err != nil && !errors.Is(err, os.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	if os.Getenv(rootEnv) == "" {
		_, _ = run(ctx, "ip", "link", "delete", "kube-bridge")
	}
	return errors.Join(problems...)
}

// stopContainers kills shims and what runs in them: those whose program or arguments are of this data directory.
func (v *vars) stopContainers(ctx context.Context) {
	if os.Getenv(rootEnv) != "" {
		return
	}
	for range 20 {
		shims := shimsOf(v.bin, filepath.Join(v.run, "containerd.sock"))
		if len(shims) == 0 {
			return
		}
		for _, pid := range shims {
			for _, child := range childrenOf(pid) {
				_ = syscall.Kill(child, syscall.SIGKILL)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func shimsOf(bin, socket string) []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		data, err := os.ReadFile(file)
		args := strings.Split(string(data), "\x00")
		if err != nil || len(args) < 2 || !strings.HasSuffix(args[0], "containerd-shim-runc-v2") {
			continue
		}
		if strings.HasPrefix(args[0], bin) || slices.Contains(args, socket) {
			var pid int
			if _, err := fmt.Sscanf(file, "/proc/%d/cmdline", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func childrenOf(parent int) []int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return nil
	}
	var list []int
	for _, field := range strings.Fields(string(data)) {
		var pid int
		if _, err := fmt.Sscan(field, &pid); err == nil {
			list = append(list, append(childrenOf(pid), pid)...)
		}
	}
	return list
}

// unmountBelow unmounts what is mounted below dir, the last mounted first; dir itself stays.
func unmountBelow(dir string) error {
	if os.Getenv(rootEnv) != "" {
		return nil
	}
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[1], dir+"/") {
			continue
		}
		path := strings.ReplaceAll(fields[1], `\040`, " ")
		if syscall.Unmount(path, 0) != nil {
			if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
				return fmt.Errorf("failed unmount %s: %w", path, err)
			}
		}
	}
	return nil
}
