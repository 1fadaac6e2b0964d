package contextdir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"

	"github.com/clusterimage/keg/imagestore/transfer"
)

// Errors of git contexts that callers tell apart.
var (
	// ErrNoGit says that there is no git.
	ErrNoGit = errors.New("git is not in PATH")
	// ErrUnencrypted says that a repository is named by a protocol on whose way anybody can change it.
	ErrUnencrypted = errors.New("is neither encrypted nor pinned to a commit")
)

// IsGit says whether text names a git repository, as docker reads it: git://, ssh://, git@HOST:PATH, and http:// and
// https:// where the path ends with .git. A path is none.
func IsGit(text string) bool {
	ref, remote, err := dfgitutil.ParseGitRef(text)
	return remote && (err != nil || !ref.IndistinguishableFromLocal)
}

// Git brings the files of a repository into dir, which is empty: URL[#REF[:SUBDIR]], where REF is a branch, a tag or a commit. It
// returns the directory that is the context, and the commit.
func Git(ctx context.Context, text, dir string) (at, commit string, err error) {
	at, commit, err = checkout(ctx, text, dir)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return "", "", cause
		}
		return "", "", fmt.Errorf("reading build context %s: %w", text, err)
	}
	return at, commit, nil
}

func checkout(ctx context.Context, text, dir string) (string, string, error) {
	ref, _, err := dfgitutil.ParseGitRef(text)
	if err != nil {
		return "", "", err
	}
	if ref.UnencryptedTCP && !isCommit(ref.Ref) && ref.Checksum == "" {
		if u, err := url.Parse(ref.Remote); err != nil || !transfer.Loopback(u.Host) {
			return "", "", ErrUnencrypted
		}
	}
	if strings.HasPrefix(ref.Ref, "-") || strings.HasPrefix(ref.Remote, "-") {
		return "", "", fmt.Errorf("%q is no name of git's", ref.Ref)
	}
	if _, err := exec.LookPath("git"); err != nil {
		return "", "", ErrNoGit
	}
	g := repository(dir)
	if _, err := g.run(ctx, "init", "--quiet"); err != nil {
		return "", "", err
	}
	if err := g.fetch(ctx, ref.Remote, ref.Ref); err != nil {
		return "", "", err
	}
	commit, err := g.run(ctx, "rev-parse", "FETCH_HEAD^{commit}")
	if err != nil {
		return "", "", err
	}
	if isCommit(ref.Ref) && commit != ref.Ref || !strings.HasPrefix(commit, ref.Checksum) {
		return "", "", fmt.Errorf("it is commit %s, and not the one that was asked for", commit)
	}
	if _, err := g.run(ctx, "checkout", "--quiet", "--detach", commit); err != nil {
		return "", "", err
	}
	if ref.Submodules == nil || *ref.Submodules {
		if _, err := g.run(ctx, "submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1"); err != nil {
			return "", "", err
		}
	}
	at := dir
	if ref.SubDir != "" {
		if at, err = below(dir, ref.SubDir); err != nil {
			return "", "", err
		}
	}
	return at, commit, tidy(dir, ref.KeepGitDir != nil && *ref.KeepGitDir)
}

// repository is a directory that git works in.
type repository string

// fetch brings one commit. A server that gives out no commits by their name is asked for everything.
func (g repository) fetch(ctx context.Context, remote, name string) error {
	if name == "" {
		name = "HEAD"
	}
	_, err := g.run(ctx, "fetch", "--quiet", "--depth", "1", "--no-tags", "--", remote, name)
	if err == nil || !isCommit(name) {
		return err
	}
	if _, all := g.run(ctx, "fetch", "--quiet", "--tags", "--", remote, "+refs/heads/*:refs/remotes/origin/*"); all != nil {
		return all
	}
	_, err = g.run(ctx, "fetch", "--quiet", ".", name)
	return err
}

// run runs git, and never waits for a person.
func (g repository) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", string(g), "-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false", "-c", "advice.detachedHead=false"}, args...)...)
	env := without(cmd.Environ(), "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE") // of a hook that calls keg
	cmd.Env = append(env, "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			return "", fmt.Errorf("git %s: %s", args[0], lastLine(text))
		}
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimSpace(stdout.String()), nil
}

// without are the variables but those named.
func without(env []string, names ...string) []string {
	var out []string
next:
	for _, kv := range env {
		for _, n := range names {
			if strings.HasPrefix(kv, n+"=") {
				continue next
			}
		}
		out = append(out, kv)
	}
	return out
}

// lastLine of what git says is the reason; before stands what it did.
func lastLine(text string) string { return text[strings.LastIndexByte(text, '\n')+1:] }

func isCommit(name string) bool {
	return len(name) == 40 && strings.Trim(name, "0123456789abcdef") == ""
}

// below is a directory of the repository; links out of it are not followed.
func below(dir, sub string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	name, err := inside(sub)
	if err != nil {
		return "", err
	}
	fi, err := root.Stat(name)
	if err != nil {
		return "", fmt.Errorf("%s: no such directory in the repository", sub)
	}
	if !fi.IsDir() {
		return "", fmt.Errorf("%s is no directory", sub)
	}
	return filepath.EvalSymlinks(filepath.Join(dir, name))
}

// tidy gives files the modes that git knows, whatever the umask, and removes what only git needs.
func tidy(dir string, keepGit bool) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case d.Name() == ".git" && !keepGit:
			if err := os.RemoveAll(name); err != nil {
				return err
			}
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.Chmod(name, 0o755)
		case d.Type().IsRegular():
			fi, err := d.Info()
			if err != nil {
				return err
			}
			mode := fs.FileMode(0o644)
			if fi.Mode()&0o100 != 0 {
				mode = 0o755
			}
			return os.Chmod(name, mode)
		}
		return nil
	})
}
