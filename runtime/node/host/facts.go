package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/runtime/node"
)

// Facts looks at the host and changes nothing.
func (h *Host) Facts(ctx context.Context, req node.FactsRequest) (node.Facts, error) {
	var f node.Facts
	for _, p := range req.Paths {
		if err := checkPath(p); err != nil {
			return f, err
		}
		if h.occupied(p) {
			f.Existing = append(f.Existing, p)
		}
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return f, fmt.Errorf("asking the kernel for its name: %w", err)
	}
	var err error
	if f.Hostname, err = os.Hostname(); err != nil {
		return f, fmt.Errorf("asking for the host name: %w", err)
	}
	if f.State, err = h.GetState(ctx); err != nil {
		return f, err
	}
	if f.DiskFree, err = h.free(node.Dir); err != nil {
		return f, err
	}
	f.Kernel = unix.ByteSliceToString(uts.Release[:])
	f.MachineID = strings.TrimSpace(h.text("/etc/machine-id"))
	f.Arch = goruntime.GOARCH
	f.OS = prettyName(h.text("/etc/os-release"))
	f.Init = h.init()
	f.Cgroup = h.cgroup()
	f.CPUs = goruntime.NumCPU()
	f.Memory = memTotal(h.text("/proc/meminfo"))
	f.Swap = swapTotal(h.text("/proc/swaps"))
	f.UnixNano = time.Now().UnixNano()
	f.Addresses = addresses()
	f.DefaultRoute = defaultRoute(h.text("/proc/net/route"), h.text("/proc/net/ipv6_route"))
	f.Listening = listening(h.text("/proc/net/tcp"), h.text("/proc/net/tcp6"))
	f.OOMScoreAdj = h.oomScoreAdj()
	return f, nil
}

// text is the content of a file, or nothing.
func (h *Host) text(path string) string {
	data, _ := os.ReadFile(h.path(path))
	return string(data)
}

// occupied says whether there is something at p: not an empty directory.
func (h *Host) occupied(p string) bool {
	st, err := os.Lstat(h.path(p))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	if !st.IsDir() {
		return true
	}
	f, err := os.Open(h.path(p))
	if err != nil {
		return true
	}
	defer f.Close()
	names, _ := f.Readdirnames(1)
	return len(names) > 0
}

// prettyName is PRETTY_NAME of os-release(5).
func prettyName(text string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

// cgroup is 2 where the unified hierarchy alone is mounted.
func (h *Host) cgroup() int {
	if _, err := os.Stat(h.path("/sys/fs/cgroup/cgroup.controllers")); err == nil {
		return 2
	}
	return 1
}

func memTotal(meminfo string) int64 {
	for line := range strings.Lines(meminfo) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// swapTotal adds the sizes of /proc/swaps, whose first line is a heading.
func swapTotal(swaps string) int64 {
	var sum int64
	for line := range strings.Lines(swaps) {
		if f := strings.Fields(line); len(f) >= 3 {
			kib, err := strconv.ParseInt(f[2], 10, 64)
			if err == nil {
				sum += kib << 10
			}
		}
	}
	return sum
}

// addresses are those of this host that others can reach it by.
func addresses() []string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	return out
}

// defaultRoute reads /proc/net/route and /proc/net/ipv6_route. A route that rejects is none.
func defaultRoute(v4, v6 string) bool {
	const up, reject = 0x1, 0x200 // RTF_UP, RTF_REJECT of linux/route.h
	usable := func(flags string) bool {
		n, err := strconv.ParseUint(flags, 16, 32)
		return err == nil && n&up != 0 && n&reject == 0
	}
	for line := range strings.Lines(v4) {
		if f := strings.Fields(line); len(f) >= 8 && f[1] == "00000000" && f[7] == "00000000" && usable(f[3]) {
			return true
		}
	}
	for line := range strings.Lines(v6) {
		f := strings.Fields(line)
		if len(f) >= 10 && strings.Trim(f[0], "0") == "" && f[1] == "00" && f[9] != "lo" && usable(f[8]) {
			return true
		}
	}
	return false
}

// listening reads /proc/net/tcp and tcp6: local ports in state 0A, LISTEN.
func listening(texts ...string) []int {
	var ports []int
	for _, text := range texts {
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != "0A" {
				continue
			}
			if i := strings.LastIndexByte(f[1], ':'); i >= 0 {
				if port, err := strconv.ParseUint(f[1][i+1:], 16, 16); err == nil {
					ports = append(ports, int(port))
				}
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// oomScoreAdj tries it on keg-node itself: capabilities alone do not tell, since the kernel wants them
// in the first user namespace.
func (h *Host) oomScoreAdj() bool {
	const file = "/proc/self/oom_score_adj"
	now, err := strconv.Atoi(strings.TrimSpace(h.text(file)))
	if err != nil {
		return false
	}
	if os.WriteFile(h.path(file), []byte(strconv.Itoa(max(-1000, now-1))), 0) != nil {
		return false
	}
	_ = os.WriteFile(h.path(file), []byte(strconv.Itoa(now)), 0)
	return true
}
