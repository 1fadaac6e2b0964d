package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Waiting for processes to go.
const (
	grace    = 3 * time.Second  // between SIGTERM and SIGKILL
	patience = 10 * time.Second // after SIGKILL
	pause    = 50 * time.Millisecond
)

// cameGroups are the control groups of pods that came after the claim.
func (h *Host) cameGroups(e entry) []string {
	return slices.DeleteFunc(h.podGroups(), func(g string) bool { return slices.Contains(e.Names, g) })
}

// endPods kills every process in the control groups of pods. Their data is about to go: there is nothing
// to be gentle for.
func (h *Host) endPods(ctx context.Context, e entry) error {
	groups := h.cameGroups(e)
	return h.end(ctx, 0, func() []int {
		var pids []int
		for _, g := range groups {
			pids = append(pids, h.groupProcesses(g)...)
		}
		return pids
	})
}

// groupProcesses are the processes of a control group and those below it.
func (h *Host) groupProcesses(group string) []int {
	var pids []int
	_ = filepath.WalkDir(h.path(group), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return nil // it is going away, or is no list
		}
		data, _ := os.ReadFile(p)
		for word := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 1 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// undoGroups removes the empty control groups of pods, in each hierarchy.
func (h *Host) undoGroups(ctx context.Context, e entry) (restored bool, err error) {
	groups := h.cameGroups(e)
	if len(groups) == 0 {
		return false, nil
	}
	if h.init() == "systemd" {
		for _, g := range groups {
			if name := filepath.Base(g); strings.HasSuffix(name, ".slice") {
				_, _ = h.run(ctx, "systemctl", "stop", name) // those that systemd does not know are removed below
			}
		}
	}
	for deadline := time.Now().Add(patience); ; {
		err = nil
		for _, g := range h.cameGroups(e) {
			h.step("rmdir %s", g)
			err = errors.Join(err, removeGroup(h.path(g)))
		}
		if err == nil || time.Now().After(deadline) || !sleep(ctx, pause) {
			return true, err
		}
	}
}

// removeGroup removes a control group with those in it. Its files are the kernel's and go with it.
func removeGroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing control group %s: %w", dir, err)
	}
	return nil
}

// endProcesses ends the processes whose program keg installed: what systemd leaves of a unit with
// KillMode=process, such as the shims of containers.
func (h *Host) endProcesses(ctx context.Context, entries []entry) error {
	return h.end(ctx, grace, func() []int { return h.processesOf(entries) })
}

// processesOf finds processes by their executable. Those in another mount namespace have other files
// under the same names. Its own ancestors are left out.
func (h *Host) processesOf(entries []entry) []int {
	proc := h.path("/proc")
	space, err := os.Readlink(filepath.Join(proc, "self/ns/mnt"))
	if err != nil {
		return nil
	}
	dirs, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	own := h.ancestors()
	var pids []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid <= 1 || slices.Contains(own, pid) {
			continue
		}
		exe, err := os.Readlink(filepath.Join(proc, d.Name(), "exe"))
		if err != nil {
			continue // a thread of the kernel, or gone
		}
		if s, err := os.Readlink(filepath.Join(proc, d.Name(), "ns/mnt")); err != nil || s != space {
			continue
		}
		exe, deleted := strings.CutSuffix(exe, " (deleted)")
		if slices.ContainsFunc(entries, func(e entry) bool {
			switch e.Kind {
			case kindFile: // a replaced program's old processes are not keg's
				return exe == h.path(e.Name) && (e.Before.Type == absent || !deleted)
			case kindClaim:
				return e.Before.Type == absent && below(exe, h.path(e.Name))
			}
			return false
		}) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// ancestors are this process and those it comes from.
func (h *Host) ancestors() []int {
	var pids []int
	for pid := os.Getpid(); pid > 1 && len(pids) < 100; {
		pids = append(pids, pid)
		stat := h.text(fmt.Sprintf("/proc/%d/stat", pid))
		// proc_pid_stat(5): the second field, in parentheses, may hold anything; state and parent follow.
		f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
		if len(f) < 2 {
			break
		}
		pid, _ = strconv.Atoi(f[1])
	}
	return pids
}

// end ends the processes that find finds, until it finds none: SIGTERM first if there is a grace.
func (h *Host) end(ctx context.Context, grace time.Duration, find func() []int) error {
	begin := time.Now()
	termed := map[int]bool{}
	for {
		pids := find()
		if len(pids) == 0 {
			return nil
		}
		if time.Since(begin) > grace+patience {
			return fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			switch {
			case time.Since(begin) >= grace:
				_ = unix.Kill(pid, unix.SIGKILL)
			case !termed[pid]:
				termed[pid] = true
				_ = unix.Kill(pid, unix.SIGTERM)
			}
		}
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

// sleep waits; false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
