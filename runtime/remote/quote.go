package remote

import (
	"errors"
	"fmt"
	"strings"
)

// Path is the PATH of every command, whatever the login user's is: without it a login that is not
// root's lacks the sbin directories, and sudo's secure_path lacks /usr/local/bin on some systems.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// runVariable marks the processes of one command, so that they can be found again and killed: their
// process group would not do, since sudo and scripts may make their own.
const runVariable = "KEG_RUN"

// lineLimit is what fits into one argument of a process on Linux (MAX_ARG_STRLEN), with some room:
// an SSH server gives the whole line to `sh -c`.
const lineLimit = 120 << 10

// environment is the whole of what a command sees, Cmd.Env apart.
func environment() []string {
	return []string{"HOME=/root", "LANG=C.UTF-8", "PATH=" + Path}
}

// String is the command as one may type it into a POSIX shell: for plans and errors.
func (c Cmd) String() string {
	words := make([]string, 0, len(c.Env)+len(c.Args))
	for _, kv := range c.Env {
		words = append(words, quote(kv))
	}
	for _, arg := range c.Args {
		words = append(words, quote(arg))
	}
	line := strings.Join(words, " ")
	if c.Dir != "" {
		return "cd " + quote(c.Dir) + " && " + line
	}
	return line
}

// check refuses what no host could run as it was meant.
func (c Cmd) check() error {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return errors.New("running a command: no program given")
	}
	if strings.HasPrefix(c.Args[0], "-") {
		return fmt.Errorf("running %q: the name of a program cannot begin with a dash", c.Args[0])
	}
	for _, kv := range c.Env {
		key, _, ok := strings.Cut(kv, "=")
		if !ok || key == "" || key[0] == '-' {
			return fmt.Errorf("running %s: %q in its environment is not of the form KEY=value", c.Args[0], key)
		}
	}
	for _, word := range append(append([]string{c.Dir}, c.Env...), c.Args...) {
		if strings.ContainsRune(word, 0) {
			return fmt.Errorf("running %s: an argument contains a NUL byte", c.Args[0])
		}
	}
	return nil
}

// words are the argument vector that runs c in the fixed environment, marked by token. The shell that
// changes the directory stands in front, since shells add variables of their own.
func words(c Cmd, token string) []string {
	var out []string
	if c.Dir != "" {
		out = append(out, "sh", "-c", `cd -- "$1" && shift && exec "$@"`, "sh", c.Dir)
	}
	out = append(out, "env", "-i")
	out = append(out, environment()...)
	out = append(out, c.Env...)
	out = append(out, runVariable+"="+token)
	if strings.Contains(c.Args[0], "=") { // env would take it for a variable
		out = append(out, "sh", "-c", `exec "$@"`, "sh")
	}
	return append(out, c.Args...)
}

// line is words for a POSIX shell.
func line(c Cmd, token string) (string, error) {
	quoted := words(c, token)
	for i, w := range quoted {
		quoted[i] = quote(w)
	}
	out := strings.Join(quoted, " ")
	if len(out) > lineLimit {
		return "", fmt.Errorf("running %s: its arguments are %d bytes long, a host takes %d: send them on stdin", c.Args[0], len(out), lineLimit)
	}
	return out, nil
}

// quote makes one word of s for any POSIX shell. This is the only place in keg that quotes.
func quote(s string) string {
	plain := s != ""
	for i := 0; i < len(s) && plain; i++ {
		b := s[i]
		plain = b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("-_./:,+@=%", b) >= 0
	}
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
