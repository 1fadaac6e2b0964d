package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	_ "embed"
)

// putScript and sameScript are POSIX sh, busybox's too.
var (
	//go:embed put.sh
	putScript string
	//go:embed same.sh
	sameScript string
)

// PutFile makes name (absolute) a file with content, whose digest is d (sha256), and with mode's
// permission bits. The host verifies the digest; the file appears by rename, whole and durable or not at
// all, also where name is a program that runs. Directories that are missing are made for root alone
// (0700). If the host has it already, content is not read and only the mode is set; changed says so.
func PutFile(ctx context.Context, r Runner, name string, mode fs.FileMode, content io.Reader, d digest.Digest) (changed bool, err error) {
	if err := checkTarget(name); err != nil {
		return false, fmt.Errorf("putting %s: %w", name, err)
	}
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return false, fmt.Errorf("putting %s: %q is not a sha256 digest", name, d)
	}
	octal := fmt.Sprintf("%04o", mode.Perm())
	var answer bytes.Buffer
	err = r.Run(ctx, Cmd{Args: []string{"sh", "-c", sameScript, "sh", name, octal, d.Encoded()}, Stdout: &answer})
	if err != nil {
		return false, fmt.Errorf("putting %s: %w", name, err)
	}
	if strings.TrimSpace(answer.String()) == "same" {
		return false, nil
	}
	part := path.Join(path.Dir(name), "."+path.Base(name)+"."+rand.Text()+".part")
	err = r.Run(ctx, Cmd{Args: []string{"sh", "-c", putScript, "sh", name, octal, d.Encoded(), part}, Stdin: content})
	if err != nil {
		return false, fmt.Errorf("putting %s: %w", name, err)
	}
	return true, nil
}

// checkTarget refuses what the scripts could not handle.
func checkTarget(name string) error {
	if !path.IsAbs(name) || path.Clean(name) != name || name == "/" {
		return fmt.Errorf("%q is not a clean absolute path", name)
	}
	if strings.ContainsAny(name, "\n\r") {
		return fmt.Errorf("%q contains a line break", name)
	}
	return nil
}
