package host

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Types of a snapshot.
const (
	absent  = "absent"
	regular = "file"
	symlink = "link"
	folder  = "dir"
	special = "special" // a device, a socket, a pipe
)

// snapshot is what lies at a path: enough of it to put it back.
type snapshot struct {
	Type   string            `json:"type"`
	Mode   uint32            `json:"mode,omitempty"` // permission bits with setuid, setgid, sticky
	UID    int               `json:"uid,omitempty"`
	GID    int               `json:"gid,omitempty"`
	MTime  int64             `json:"mtime,omitempty"` // nanoseconds
	Digest digest.Digest     `json:"digest,omitempty"`
	Target string            `json:"target,omitempty"` // of a symlink
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
}

// take looks at path, which is not followed if it is a symlink. The content of a regular file goes to
// save as well, if that is not nil.
func take(path string, save io.Writer) (snapshot, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if err != nil && gone(err) {
		return snapshot{Type: absent}, nil
	}
	if err != nil {
		return snapshot{}, fmt.Errorf("looking at %s: %w", path, err)
	}
	s := snapshot{
		Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid),
		MTime: st.Mtim.Nano(),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		s.Type = folder
		return s, nil
	case unix.S_IFLNK:
		s.Type, s.Mode = symlink, 0
		s.Target, err = os.Readlink(path)
		return s, err
	case unix.S_IFREG:
		s.Type = regular
	default:
		s.Type = special
		return s, nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return snapshot{}, fmt.Errorf("looking at %s: %w", path, err)
	}
	defer f.Close()
	if save == nil {
		save = io.Discard
	}
	hash := digest.SHA256.Digester()
	if _, err := io.Copy(io.MultiWriter(hash.Hash(), save), f); err != nil {
		return snapshot{}, fmt.Errorf("reading %s: %w", path, err)
	}
	s.Digest = hash.Digest()
	s.Xattrs = xattrs(path)
	return s, nil
}

// equal says whether two snapshots are of the same state. Times count for regular files alone: a
// restored symlink has its own.
func (s snapshot) equal(o snapshot) bool {
	if s.Type != o.Type {
		return false
	}
	switch s.Type {
	case absent:
		return true
	case symlink:
		return s.Target == o.Target && s.UID == o.UID && s.GID == o.GID
	case regular:
		return s.Digest == o.Digest && s.Mode == o.Mode && s.UID == o.UID && s.GID == o.GID && s.MTime == o.MTime &&
			maps.EqualFunc(s.Xattrs, o.Xattrs, slices.Equal)
	}
	return s.Mode == o.Mode && s.UID == o.UID && s.GID == o.GID
}

// describe says in words how o differs from s, what was there before.
func (s snapshot) describe(o snapshot) string {
	switch {
	case s.Type == absent:
		return "was not there before"
	case o.Type == absent:
		return "is gone"
	case s.Type != o.Type:
		return "was a " + s.Type + " and is a " + o.Type
	case s.Digest != o.Digest || s.Target != o.Target:
		return "has other content than before"
	}
	return "has another mode, owner, time or attributes than before"
}

// xattrs reads the extended attributes of path, those that cannot be read left out.
func xattrs(path string) map[string][]byte {
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(path, names)
	if err != nil || n == 0 {
		return nil
	}
	all := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 65536)
		if n, err := unix.Lgetxattr(path, name, value); err == nil {
			all[name] = value[:n]
		}
	}
	return all
}
