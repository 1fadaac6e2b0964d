package builder

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// owner is a numeric owner of files.
type owner struct{ uid, gid int }

// errNoOwner says that a name is in no file that could tell its number.
var errNoOwner = errors.New("no such name in the image")

// parseOwner reads the value of --chown: "USER", "USER:GROUP", each a number or a name that is looked up in the
// image's own /etc/passwd and /etc/group. A number alone is the group too; a name alone has the group
// of its passwd line. "" is root.
func parseOwner(spec string, file func(name string) []byte) (owner, error) {
	if spec == "" {
		return owner{}, nil
	}
	user, group, hasGroup := strings.Cut(spec, ":")
	ids, err := numbers("user", user, "etc/passwd", 2, file)
	if err != nil {
		return owner{}, err
	}
	o := owner{ids[0], ids[1]}
	if hasGroup {
		if ids, err = numbers("group", group, "etc/group", 1, file); err != nil {
			return owner{}, err
		}
		o.gid = ids[0]
	}
	return o, nil
}

// numbers are n IDs that a name stands for: those of its line in passwd(5) or group(5), from the third field
// on. A number stands for itself; root needs no line.
func numbers(what, name, from string, n int, file func(name string) []byte) ([]int, error) {
	if name == "root" {
		return make([]int, n), nil
	}
	if id, err := parseID(name); err == nil {
		return slices.Repeat([]int{id}, n), nil
	}
	line, ok := lookup(file(from), name, 2+n)
	if !ok {
		return nil, fmt.Errorf("%s %q: %w (/%s): use a number", what, name, errNoOwner, from)
	}
	var ids []int
	for _, field := range line[2 : 2+n] {
		id, err := parseID(field)
		if err != nil {
			return nil, fmt.Errorf("%s %q in /%s: %w", what, name, from, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 { // (uid_t)-1 means "leave it" to chown(2)
		return 0, fmt.Errorf("%q is not a numeric ID", s)
	}
	return int(n), nil
}

// lookup finds a line of passwd(5) or group(5) by its first field.
func lookup(data []byte, name string, fields int) ([]string, bool) {
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		f := strings.Split(sc.Text(), ":")
		if len(f) >= fields && f[0] == name {
			return f, true
		}
	}
	return nil, false
}

// modeChange is --chmod: from a file's own mode to the one it gets in the image.
type modeChange func(mode int64, dir bool) int64

// parseMode reads --chmod: octal between 0 and 07777, or symbolic as in chmod(1), such as "u=rwX,go=rX".
// "" changes nothing.
func parseMode(spec string) (modeChange, error) {
	if spec == "" {
		return func(mode int64, _ bool) int64 { return mode }, nil
	}
	if spec[0] >= '0' && spec[0] <= '9' {
		n, err := strconv.ParseUint(spec, 8, 32)
		if err != nil || n > 0o7777 {
			return nil, fmt.Errorf("--chmod=%s: it must be octal, between 0 and 07777, or symbolic, such as u=rwX,go=rX", spec)
		}
		return func(int64, bool) int64 { return int64(n) }, nil
	}
	var steps []modeChange
	for clause := range strings.SplitSeq(spec, ",") {
		more, err := parseClause(clause)
		if err != nil {
			return nil, fmt.Errorf("--chmod=%s: %w", spec, err)
		}
		steps = append(steps, more...)
	}
	return func(mode int64, dir bool) int64 {
		for _, s := range steps {
			mode = s(mode, dir)
		}
		return mode
	}, nil
}

// parseClause reads one clause of a symbolic mode: [ugoa]*([-+=][rwxXst]*|[-+=][ugo])+.
func parseClause(clause string) ([]modeChange, error) {
	rest := strings.TrimLeft(clause, "ugoa")
	who := int64(0)
	for _, c := range clause[:len(clause)-len(rest)] {
		who |= map[rune]int64{'u': 0o4700, 'g': 0o2070, 'o': 0o1007, 'a': 0o7777}[c]
	}
	if who == 0 {
		who = 0o7777
	}
	if rest == "" {
		return nil, fmt.Errorf("%q has no +, - or =", clause)
	}
	var steps []modeChange
	for rest != "" {
		op := rest[0]
		if !strings.ContainsRune("+-=", rune(op)) {
			return nil, fmt.Errorf("%q is not a mode", clause)
		}
		perms := rest[1:]
		if i := strings.IndexAny(perms, "+-="); i >= 0 {
			perms = perms[:i]
		}
		rest = rest[1+len(perms):]
		if bad := strings.Trim(perms, "rwxXst"); bad != "" && (len(perms) != 1 || !strings.Contains("ugo", perms)) {
			return nil, fmt.Errorf("%q is not a mode", clause)
		}
		steps = append(steps, func(mode int64, dir bool) int64 {
			bits := permBits(perms, mode, dir) & who
			switch op {
			case '+':
				return mode | bits
			case '-':
				return mode &^ bits
			}
			keep := int64(0)
			if dir {
				keep = mode & 0o6000 // as chmod(1): "=" leaves a directory's setuid and setgid alone
			}
			return mode&^who | bits | keep
		})
	}
	return steps, nil
}

// permBits spreads letters over user, group and others; a mask chooses among them afterwards.
func permBits(perms string, mode int64, dir bool) int64 {
	var bits int64
	for _, c := range perms {
		switch c {
		case 'r':
			bits |= 0o444
		case 'w':
			bits |= 0o222
		case 'x':
			bits |= 0o111
		case 'X':
			if dir || mode&0o111 != 0 {
				bits |= 0o111
			}
		case 's':
			bits |= 0o6000
		case 't':
			bits |= 0o1000
		case 'u':
			bits |= mode >> 6 & 7 * 0o111
		case 'g':
			bits |= mode >> 3 & 7 * 0o111
		case 'o':
			bits |= mode & 7 * 0o111
		}
	}
	return bits
}
