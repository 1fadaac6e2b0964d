package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/clusterimage/keg/internal/lockfile"
)

// hostKeys checks the key of one host by a policy.
type hostKeys struct {
	policy HostKeyPolicy
	files  []string
	host   string // host:port
	// accepted says that the host has proved to be the right one; err is why not.
	accepted bool
	err      error
}

// check is an ssh.HostKeyCallback.
func (h *hostKeys) check(ctx context.Context, remote net.Addr, key ssh.PublicKey) error {
	h.err = h.verify(ctx, remote, key)
	h.accepted = h.err == nil
	return h.err
}

func (h *hostKeys) verify(ctx context.Context, remote net.Addr, key ssh.PublicKey) error {
	if h.policy == Insecure {
		return nil
	}
	err := h.lookUp(remote, key)
	var unknown *HostKeyError
	if h.policy == AcceptNew && errors.As(err, &unknown) && unknown.Known == "" && !unknown.Revoked {
		return h.remember(ctx, remote, key)
	}
	return err
}

// lookUp finds key in the files.
func (h *hostKeys) lookUp(remote net.Addr, key ssh.PublicKey) error {
	check, err := h.load()
	if err != nil {
		return err
	}
	err = check(h.host, remote, key)
	var mismatch *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &revoked):
		return &HostKeyError{Host: h.host, Got: describe(key), File: revoked.Revoked.Filename, Line: revoked.Revoked.Line, Revoked: true}
	case errors.As(err, &mismatch) && len(mismatch.Want) > 0:
		want := mismatch.Want[0]
		for _, k := range mismatch.Want {
			if k.Key.Type() == key.Type() {
				want = k
			}
		}
		return &HostKeyError{Host: h.host, Known: describe(want.Key), Got: describe(key), File: want.Filename, Line: want.Line}
	case errors.As(err, &mismatch):
		return &HostKeyError{Host: h.host, Got: describe(key), File: strings.Join(h.files, ", ")}
	}
	return fmt.Errorf("checking the host key of %s: %w", h.host, err)
}

// load reads the files that exist.
func (h *hostKeys) load() (ssh.HostKeyCallback, error) {
	var there []string
	for _, f := range h.files {
		if _, err := os.Stat(f); err == nil {
			there = append(there, f)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading known hosts: %w", err)
		}
	}
	check, err := knownhosts.New(there...)
	if err != nil {
		return nil, fmt.Errorf("reading known hosts: %w", err)
	}
	return check, nil
}

// remember appends key to the first file. The lock is on the file itself, so that no other file is left
// beside it, and what another keg wrote in the meantime counts.
func (h *hostKeys) remember(ctx context.Context, remote net.Addr, key ssh.PublicKey) error {
	path := h.files[0]
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("remembering the host key of %s: %w", h.host, err)
	}
	release, err := lockfile.Acquire(ctx, path, lockfile.Exclusive, nil)
	if err != nil {
		return fmt.Errorf("remembering the host key of %s: %w", h.host, err)
	}
	defer release()
	err = h.lookUp(remote, key)
	var unknown *HostKeyError
	if !errors.As(err, &unknown) || unknown.Known != "" || unknown.Revoked {
		return err
	}
	if err := appendLine(path, knownhosts.Line([]string{h.host}, key)); err != nil {
		return fmt.Errorf("remembering the host key of %s: %w", h.host, err)
	}
	return nil
}

// appendLine adds a line in one write, after a last line that may lack its end.
func appendLine(path, text string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if size := info.Size(); size > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, size-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			text = "\n" + text
		}
	}
	if _, err := f.WriteString(text + "\n"); err != nil {
		return err
	}
	return f.Sync()
}

// algorithms asks for keys of the kinds on record first: a host with several would show another one,
// which nobody could check. Certificates are asked for only where an authority is on record.
func (h *hostKeys) algorithms() ([]string, error) {
	if h.policy == Insecure {
		return nil, nil
	}
	known, err := h.knownTypes()
	if err != nil {
		return nil, err
	}
	authority, err := h.hasAuthority()
	if err != nil {
		return nil, err
	}
	var certs, first, rest []string
	for _, a := range ssh.SupportedAlgorithms().HostKeys {
		switch {
		case strings.Contains(a, "-cert-"):
			if authority {
				certs = append(certs, a)
			}
		case slices.Contains(known, keyType(a)):
			first = append(first, a)
		default:
			rest = append(rest, a)
		}
	}
	return slices.Concat(certs, first, rest), nil
}

// knownTypes asks the record about a key that nobody has; its complaint lists those it does have.
func (h *hostKeys) knownTypes() ([]string, error) {
	check, err := h.load()
	if err != nil {
		return nil, err
	}
	var mismatch *knownhosts.KeyError
	var types []string
	if errors.As(check(h.host, &net.TCPAddr{IP: net.IPv4zero}, nobodysKey{}), &mismatch) {
		for _, k := range mismatch.Want {
			types = append(types, k.Key.Type())
		}
	}
	return types, nil
}

func (h *hostKeys) hasAuthority() (bool, error) {
	for _, f := range h.files {
		text, err := os.ReadFile(f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("reading known hosts: %w", err)
		}
		if bytes.Contains(text, []byte("@cert-authority")) {
			return true, nil
		}
	}
	return false, nil
}

// keyType is the type of the keys that an algorithm signs with.
func keyType(algorithm string) string {
	if strings.HasPrefix(algorithm, "rsa-sha2-") {
		return ssh.KeyAlgoRSA
	}
	return algorithm
}

func describe(key ssh.PublicKey) string { return key.Type() + " " + ssh.FingerprintSHA256(key) }

// nobodysKey is no host's.
type nobodysKey struct{}

func (nobodysKey) Type() string                        { return "none" }
func (nobodysKey) Marshal() []byte                     { return nil }
func (nobodysKey) Verify([]byte, *ssh.Signature) error { return errors.New("nobody's key") }
