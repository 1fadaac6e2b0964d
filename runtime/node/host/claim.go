package host

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/clusterimage/keg/runtime/node"
)

// netnsDir is where container runtimes keep network namespaces. It is claimed with everything else.
const netnsDir = "/run/netns"

// shared are directories that too much lies in to be claimed.
var shared = []string{"/etc/systemd", "/etc/systemd/system", "/usr/bin", "/usr/lib", "/usr/sbin", "/usr/local", "/usr/local/bin", "/usr/share", "/var/lib", "/var/log", "/var/run", "/run/systemd", "/run/lock"}

// Claim notes what is at the paths and links that the runtime is about to make.
func (h *Host) Claim(ctx context.Context, req node.ClaimRequest) error {
	for _, p := range req.Paths {
		if err := checkTarget(p); err != nil {
			return err
		}
		if filepath.Dir(p) == "/" || slices.Contains(shared, p) || below(node.Dir, p) {
			return node.Errorf(node.KindRequest, "path %s is shared by too many to be claimed", p)
		}
	}
	for _, l := range req.Links {
		if strings.ContainsAny(l, "/\x00") || strings.Trim(l, "*?.") == "" {
			return node.Errorf(node.KindRequest, "%q is no name of a network device", l)
		}
	}
	for _, r := range req.Routes {
		if p, err := netip.ParsePrefix(r); err != nil || p.Bits() < 8 {
			return node.Errorf(node.KindRequest, "%q is no range of addresses to be claimed", r)
		}
	}
	for _, u := range req.Users {
		if !userForm.MatchString(u) || u == "root" {
			return node.Errorf(node.KindRequest, "%q is no name of an account that may come and go", u)
		}
	}
	rec, done, err := h.recording(ctx)
	if err != nil {
		return err
	}
	defer done()
	var records []entry
	for _, p := range append(slices.Clone(req.Paths), netnsDir) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if rec.has(entry{Kind: kindClaim, Name: p}) {
			continue
		}
		parents, err := h.missingDirs(filepath.Dir(p))
		if err != nil {
			return err
		}
		e, err := h.claimOf(rec, p)
		if err != nil {
			return err
		}
		records = append(append(records, parents...), e)
	}
	for _, l := range req.Links {
		records = append(records, entry{Kind: kindLink, Name: l, Names: h.links(l)})
	}
	for _, r := range req.Routes {
		e := entry{Kind: kindRoute, Name: r}
		if rec.has(e) {
			continue
		}
		if e.Names, err = h.routes(ctx, r); err != nil {
			return err
		}
		records = append(records, e)
	}
	accounts, err := h.claimUsers(rec, req.Users)
	if err != nil {
		return err
	}
	records = append(records, accounts...)
	if !rec.has(entry{Kind: kindGroups}) {
		records = append(records, entry{Kind: kindGroups, Names: h.podGroups()})
	}
	for _, f := range filters {
		e := entry{Kind: kindChains, Name: f.list[0]}
		if rec.has(e) {
			continue
		}
		if e.Names, err = h.filterNames(ctx, f); err != nil {
			return err
		}
		records = append(records, e)
	}
	return rec.record(records...)
}

func (h *Host) claimOf(rec *recorder, p string) (entry, error) {
	before, err := take(h.path(p), io.Discard)
	if err != nil {
		return entry{}, err
	}
	e := entry{Kind: kindClaim, Name: p, Before: &snapshot{Type: before.Type}}
	if before.Type != absent && rec.made(p) { // it is keg's
		e.Before.Type = absent
	}
	if e.Before.Type == absent {
		return e, nil
	}
	real := h.real(p)
	for _, m := range h.mounts() {
		if below(m, real) {
			e.Mounts = append(e.Mounts, m)
		}
	}
	if before.Type == symlink {
		if st, err := os.Stat(h.path(real)); err != nil || !st.IsDir() {
			return e, nil
		}
	} else if before.Type != folder {
		return e, nil
	}
	e.Listing, err = rec.keep(func(w io.Writer) error {
		enc := json.NewEncoder(w)
		return h.list(real, func(rel string) error { return enc.Encode(rel) })
	})
	return e, err
}

// list calls fn for everything below dir, relative to it, on the same file system.
func (h *Host) list(dir string, fn func(rel string) error) error {
	root := h.path(dir)
	dev, err := device(root)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone in the meantime
		}
		if err != nil || p == root {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if err := fn(rel); err != nil {
			return err
		}
		if d.IsDir() {
			if other, err := device(p); err == nil && other != dev {
				return fs.SkipDir
			}
		}
		return nil
	})
}

func device(p string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return 0, fmt.Errorf("looking at %s: %w", p, err)
	}
	return st.Dev, nil
}

// listed reads a listing back.
func (r *recorder) listed(d digest.Digest) (map[string]bool, error) {
	known := map[string]bool{}
	f, err := os.Open(r.savedPath(d))
	if err != nil {
		return nil, fmt.Errorf("reading listing: %w", err)
	}
	defer f.Close()
	dec := json.NewDecoder(bufio.NewReader(f))
	for {
		var rel string
		if err := dec.Decode(&rel); errors.Is(err, io.EOF) {
			return known, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading listing: %w", err)
		}
		known[rel] = true
	}
}

// real is p without symlinks on the way; what does not exist stays as it is.
func (h *Host) real(p string) string {
	if p == "/" {
		return p
	}
	q := filepath.Join(h.real(filepath.Dir(p)), filepath.Base(p))
	f, err := h.follow(q)
	if err != nil || f == q {
		return q
	}
	return f
}

// mounts are the mount points of this process's namespace, in the order of /proc/self/mountinfo.
func (h *Host) mounts() []string {
	data, err := os.ReadFile(h.path("/proc/self/mountinfo"))
	if err != nil {
		return nil
	}
	return parseMountinfo(string(data))
}

// parseMountinfo returns the fifth field of each line, unescaped (proc_pid_mountinfo(5)).
func parseMountinfo(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		all = append(all, strings.TrimSuffix(unescape(f[4]), "//deleted"))
	}
	return all
}

// unescape reads \ooo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(s string) bool {
	return strings.Trim(s, "01234567") == "" && s[0] <= '3'
}

// links are the network devices whose name matches pattern.
func (h *Host) links(pattern string) []string {
	entries, err := os.ReadDir(h.path("/sys/class/net"))
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if ok, err := path.Match(pattern, e.Name()); err == nil && ok {
			names = append(names, e.Name())
		}
	}
	return names
}

// podGroups are the control groups that kubelet keeps pods in, of each hierarchy.
func (h *Host) podGroups() []string {
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/kubepods*", "/sys/fs/cgroup/*/kubepods*"} {
		matches, err := filepath.Glob(h.path(pattern))
		if err != nil {
			continue
		}
		for _, m := range matches {
			found = append(found, strings.TrimPrefix(m, strings.TrimSuffix(h.Root, "/")))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
