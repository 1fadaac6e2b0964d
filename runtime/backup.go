package runtime

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/opencontainers/go-digest"
)

// BackupHeader is what a backup says of itself. A backup is a tar stream encrypted by age
// (age-encryption.org/v1): keg-backup.json, which is this, settings.json, registry/ca.crt and
// registry/ca.key, and below runtime/ what the driver needs.
type BackupHeader struct {
	Format      string        `json:"format"` // BackupFormat
	Cluster     string        `json:"cluster"`
	UID         string        `json:"uid"`
	Runtime     string        `json:"runtime"`
	KubeVersion string        `json:"kubeVersion"` // of the API
	Image       string        `json:"image"`
	Digest      digest.Digest `json:"digest"`
	Nodes       []RecordNode  `json:"nodes"`
	// Steps are what was done once in the cluster, so that a restored one does not do it again.
	Steps []string  `json:"steps,omitempty"`
	Time  time.Time `json:"time"`
}

// Hosts are those that the cluster had.
func (h BackupHeader) Hosts() []*Node {
	var nodes []*Node
	for _, n := range h.Nodes {
		nodes = append(nodes, n.node())
	}
	return nodes
}

// BackupFormat is the Format of backups that this keg writes and reads.
const BackupFormat = "keg.backup.1"

const (
	backupHeader   = "keg-backup.json"
	backupSettings = "settings.json"
	backupCACert   = "registry/ca.crt"
	backupCAKey    = "registry/ca.key"
	backupRuntime  = "runtime/"
)

// BackupPhases write a backup of the cluster's state to w, encrypted to the recipients.
func BackupPhases(w io.Writer, recipients ...age.Recipient) []Phase {
	return append(servicePhases(whoever), &phase{title: "back up", limit: 1, batches: func(c *Cluster) []Batch {
		return []Batch{{c.First().On("take a snapshot", func(ctx context.Context, _ io.Writer) error {
			return c.Backup(ctx, w, recipients...)
		})}}
	}})
}

// Backup writes a backup of the cluster's state to w, encrypted to the recipients. Its hosts are
// connected, as in the middle of phases.
func (c *Cluster) Backup(ctx context.Context, w io.Writer, recipients ...age.Recipient) error {
	encrypted, err := age.Encrypt(w, recipients...)
	if err != nil {
		return fmt.Errorf("encrypting backup: %w", err)
	}
	if err := c.writeBackup(ctx, encrypted); err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	if err := encrypted.Close(); err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	return nil
}

func (c *Cluster) writeBackup(ctx context.Context, w io.Writer) error {
	h, err := c.backupHeader(ctx)
	if err != nil {
		return err
	}
	if err := c.findAuthority(ctx); err != nil {
		return err
	}
	out := tar.NewWriter(w)
	put := func(name string, data []byte) error {
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err := out.Write(data)
		return err
	}
	for _, doc := range []struct {
		name  string
		value any
	}{{backupHeader, h}, {backupSettings, c.Options.Settings}} {
		data, err := json.MarshalIndent(doc.value, "", "  ")
		if err != nil {
			return err
		}
		if err := put(doc.name, append(data, '\n')); err != nil {
			return err
		}
	}
	if err := errors.Join(put(backupCACert, c.ca.cert), put(backupCAKey, c.ca.key)); err != nil {
		return err
	}
	if err := c.copyRuntime(ctx, out); err != nil {
		return err
	}
	return out.Close()
}

// copyRuntime puts the driver's tar stream below backupRuntime.
func (c *Cluster) copyRuntime(ctx context.Context, out *tar.Writer) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(c.Driver.Backup(ctx, c, w)) }()
	defer func() { _ = r.Close() }()
	in, files := tar.NewReader(r), 0
	for {
		hdr, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the state of %s: %w", c.Driver.Name(), err)
		}
		hdr.Name, hdr.Format = backupRuntime+strings.TrimPrefix(hdr.Name, "./"), tar.FormatPAX
		if err := out.WriteHeader(hdr); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return fmt.Errorf("reading the state of %s: %w", c.Driver.Name(), err)
		}
		files++
	}
	if files == 0 {
		return fmt.Errorf("reading the state of %s: it wrote nothing", c.Driver.Name())
	}
	_, err := io.Copy(io.Discard, r) // the driver's error comes at the very end
	return err
}

func (c *Cluster) backupHeader(ctx context.Context) (BackupHeader, error) {
	first := c.First()
	version, err := c.apiVersion(ctx)
	if err != nil {
		return BackupHeader{}, err
	}
	h := BackupHeader{
		Format: BackupFormat, Cluster: c.Name, UID: c.UID, Runtime: c.Driver.Name(), KubeVersion: version,
		Image: first.State.Name, Digest: first.State.Image,
		Steps: slices.DeleteFunc(slices.Clone(first.State.Done), func(s string) bool { return !isClusterStep(s) }),
		Time:  time.Now().UTC().Truncate(time.Second),
	}
	for _, n := range c.staying() {
		h.Nodes = append(h.Nodes, RecordNode{Address: n.Address, Role: n.Role, Name: n.Name, IP: n.IP})
	}
	return h, nil
}

// apiVersion is the version of the API server that is asked, such as "v1.37.2".
func (c *Cluster) apiVersion(ctx context.Context) (string, error) {
	out, err := c.Kubectl(ctx, "get", "--raw", "/version", apiLimit)
	if err != nil {
		return "", err
	}
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(out, &v); err != nil || v.GitVersion == "" {
		return "", fmt.Errorf("reading the API's version: it answers %.100q", out)
	}
	return v.GitVersion, nil
}

// Archive is a backup that was read and found whole.
type Archive struct {
	Header   BackupHeader
	Settings Settings
	ca       registryCA
	open     func() (io.ReadCloser, error)
}

// maxBackupDocument bounds what is read of a backup into memory.
const maxBackupDocument = 16 << 20

// ReadBackup reads the backup file of that name to its end, so that a restore does not find out half way that
// the file was cut off or changed. Of identities one must be able to decrypt it.
func ReadBackup(name string, identities ...age.Identity) (*Archive, error) {
	a := &Archive{open: func() (io.ReadCloser, error) { return openRuntime(name, identities) }}
	fail := func(err error) (*Archive, error) { return nil, fmt.Errorf("reading backup %s: %w", name, err) }
	f, err := os.Open(name)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	plain, err := age.Decrypt(f, identities...)
	if err != nil {
		return fail(err)
	}
	documents := map[string]any{backupHeader: &a.Header, backupSettings: &a.Settings}
	texts := map[string]*[]byte{backupCACert: &a.ca.cert, backupCAKey: &a.ca.key}
	in := tar.NewReader(plain)
	files := 0
	for {
		hdr, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fail(err)
		}
		into, text := documents[hdr.Name], texts[hdr.Name]
		if into == nil && text == nil {
			if _, err := io.Copy(io.Discard, in); err != nil {
				return fail(err)
			}
			files++
			continue
		}
		data, err := io.ReadAll(io.LimitReader(in, maxBackupDocument))
		if err != nil {
			return fail(err)
		}
		if text != nil {
			*text = data
		} else if err := json.Unmarshal(data, into); err != nil {
			return fail(fmt.Errorf("%s: %w", hdr.Name, err))
		}
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return fail(err)
	}
	switch {
	case a.Header.Format != BackupFormat:
		return fail(fmt.Errorf("its format is %q, this keg reads %q", a.Header.Format, BackupFormat))
	case files == 0:
		return fail(errors.New("it holds no state of a cluster"))
	}
	return a, nil
}

// openRuntime opens the part that the driver wrote, as it wrote it.
func openRuntime(name string, identities []age.Identity) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	plain, err := age.Decrypt(f, identities...)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r, w := io.Pipe()
	go func() {
		defer f.Close()
		w.CloseWithError(onlyRuntime(w, plain))
	}()
	return r, nil
}

func onlyRuntime(w io.Writer, plain io.Reader) error {
	in, out := tar.NewReader(plain), tar.NewWriter(w)
	for {
		hdr, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return err
		}
		rest, ok := strings.CutPrefix(hdr.Name, backupRuntime)
		if !ok || rest == "" {
			continue
		}
		hdr.Name = rest
		if err := out.WriteHeader(hdr); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}
