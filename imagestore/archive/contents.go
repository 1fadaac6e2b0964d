package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/internal/ctxio"
)

// Limits on what an archive may make us keep in memory.
const (
	maxEntries  = 250_000   // files, directories and links
	maxName     = 1024      // bytes of an entry's name, or of what a link leads to
	maxDocument = 4 << 20   // bytes of index.json, manifest.json, oci-layout; of a config
	maxLink     = 1024      // bytes of a link file in a registry's storage
	maxSmall    = 256 << 10 // files up to this size are kept in memory until it is known what they are
	maxSmallSum = 32 << 20  // all of them; what is beyond goes to the store
	maxRest     = 64 << 20  // zeros after the end of a tar
)

const dockerManifestFile = "manifest.json"

// contents is what was read of an archive. Blobs are in the store.
type contents struct {
	s *imagestore.Store
	// documents are the files that say what the archive is: index.json, manifest.json, oci-layout.
	documents map[string][]byte
	// files are those that a docker archive may name.
	files map[string]file
	// links are the link files of a registry's storage: path below docker/registry/v2/repositories.
	links map[string]digest.Digest
	// seen has the names of all entries but directories.
	seen  map[string]bool
	small int64 // bytes in files
}

// file is one of: a blob in the store, a few bytes in memory, a link to another file.
type file struct {
	desc ocispec.Descriptor // digest and size
	data []byte
	link string
}

func newContents(s *imagestore.Store) *contents {
	return &contents{s: s, documents: map[string][]byte{}, files: map[string]file{}, links: map[string]digest.Digest{}, seen: map[string]bool{}}
}

// scan reads the whole tar.
func (c *contents) scan(ctx context.Context, r io.Reader) error {
	tail := &tailReader{r: r}
	tr := tar.NewReader(tail)
	var end int64 // where the last entry ended, with its padding
	for entries := 0; ; entries++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return tarError(err)
		}
		if entries == maxEntries {
			return fmt.Errorf("it has more than %d entries: %w", maxEntries, ErrFormat)
		}
		if err := c.entry(ctx, h, tr); err != nil {
			return fmt.Errorf("entry %.200q: %w", h.Name, tarError(err))
		}
		if _, err := io.Copy(io.Discard, ctxio.Reader(ctx, tr)); err != nil {
			return fmt.Errorf("entry %.200q: %w", h.Name, tarError(err))
		}
		end = (tail.n + 511) &^ 511
	}
	if tail.n == 0 {
		return fmt.Errorf("it is empty: %w", ErrFormat)
	}
	// Without the two blocks of zeros at its end a tar that was cut between two entries looks whole.
	if tail.n-end < 1024 || tail.zeros < 1024 {
		return fmt.Errorf("it is cut off: %w: %w", ErrFormat, io.ErrUnexpectedEOF)
	}
	// The rest is read for the sake of checksums at the end of compressed streams.
	start := tail.n
	if _, err := io.Copy(io.Discard, io.LimitReader(ctxio.Reader(ctx, tail), maxRest)); err != nil {
		return tarError(err)
	}
	if rest := tail.n - start; rest == maxRest || tail.zeros < rest {
		return fmt.Errorf("something follows its end: %w", ErrFormat)
	}
	return nil
}

// tarError says of errors about the archive's form that they are.
func tarError(err error) error {
	if errors.Is(err, ErrFormat) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it is cut off: %w: %w", ErrFormat, err)
	}
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("it is not a tar, plain or compressed by gzip, zstd, bzip2 or xz: %w: %w", ErrFormat, err)
	}
	return err
}

// entry takes in one entry, and leaves what it does not need of its content.
func (c *contents) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	if c.seen[name] {
		return fmt.Errorf("it stands in the archive twice: %w", ErrFormat)
	}
	c.seen[name] = true
	switch h.Typeflag {
	case tar.TypeReg:
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "GNU.sparse.") {
				return fmt.Errorf("it is a sparse file: %w", ErrFormat)
			}
		}
		return c.regular(ctx, name, h.Size, r)
	case tar.TypeSymlink:
		if path.IsAbs(h.Linkname) {
			return fmt.Errorf("link to the absolute path %.200q: %w", h.Linkname, ErrFormat)
		}
		return c.link(name, path.Join(path.Dir(name), h.Linkname))
	case tar.TypeLink:
		return c.link(name, h.Linkname)
	}
	return fmt.Errorf("it is neither a file nor a directory nor a link (type %q): %w", h.Typeflag, ErrFormat)
}

func (c *contents) link(name, target string) error {
	target, err := cleanName(target)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	c.files[name] = file{link: target}
	return nil
}

// cleanName makes an entry's name relative to the archive, and refuses those that lead out of it.
func cleanName(name string) (string, error) {
	switch {
	case len(name) > maxName:
		return "", fmt.Errorf("a name of %d bytes: %w", len(name), ErrFormat)
	case path.IsAbs(name):
		return "", fmt.Errorf("the absolute path %q: %w", name, ErrFormat)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("the path %q leads out of the archive: %w", name, ErrFormat)
		}
	}
	return path.Clean(name), nil
}

var (
	ociBlob = regexp.MustCompile(`^blobs/([a-z0-9+._-]+)/([a-zA-Z0-9=_-]+)$`)
	// Storage of the distribution registry, below any directory.
	storageBlob = regexp.MustCompile(`^(?:.*/)?docker/registry/v2/blobs/([a-z0-9]+)/[0-9a-f]{2}/([0-9a-f]+)/data$`)
	storageLink = regexp.MustCompile(`^(?:.*/)?docker/registry/v2/repositories/(.*_manifests/.*/link)$`)
	storageRest = regexp.MustCompile(`(^|/)docker/registry/v2/`)
	// What the writers of docker archives call configs and layers: HEX.json, HEX.tar, ID/layer.tar,
	// HEX.tar.gz, sha256:HEX.
	dockerFile = regexp.MustCompile(`^([^/]+/)?([^/]+\.(json|tar|tar\.gz|tgz)|(sha256:)?[0-9a-f]{64})$`)
)

func (c *contents) regular(ctx context.Context, name string, size int64, r io.Reader) error {
	switch name {
	case ocispec.ImageIndexFile, ocispec.ImageLayoutFile, dockerManifestFile:
		data, err := readAll(r, size, maxDocument)
		c.documents[name] = data
		return err
	}
	if m := ociBlob.FindStringSubmatch(name); m != nil {
		return c.blob(ctx, name, m[1], m[2], size, r)
	}
	if m := storageBlob.FindStringSubmatch(name); m != nil {
		return c.blob(ctx, name, m[1], m[2], size, r)
	}
	if m := storageLink.FindStringSubmatch(name); m != nil {
		data, err := readAll(r, size, maxLink)
		if err != nil {
			return err
		}
		d := digest.Digest(strings.TrimSpace(string(data)))
		if err := d.Validate(); err != nil {
			return fmt.Errorf("it holds no digest: %w: %w", ErrFormat, err)
		}
		c.links[m[1]] = d
		return nil
	}
	if storageRest.MatchString(name) || !dockerFile.MatchString(name) {
		return nil
	}
	if size <= maxSmall && c.small+size <= maxSmallSum {
		c.small += size
		data, err := readAll(r, size, maxSmall)
		c.files[name] = file{data: data}
		return err
	}
	d, err := c.store(ctx, r, "", 0)
	c.files[name] = file{desc: ocispec.Descriptor{Digest: d, Size: size}}
	return err
}

// blob takes in content that is named by its digest.
func (c *contents) blob(ctx context.Context, name, algorithm, encoded string, size int64, r io.Reader) error {
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded)
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("blob %s: it is not named by a SHA-256 digest: %w", d, ErrFormat)
	}
	c.files[name] = file{desc: ocispec.Descriptor{Digest: d, Size: size}}
	if c.s.Has(d) {
		return nil
	}
	_, err := c.store(ctx, r, d, size)
	return err
}

// store writes a blob; want and size are checked if want is not "".
func (c *contents) store(ctx context.Context, r io.Reader, want digest.Digest, size int64) (digest.Digest, error) {
	w, err := c.s.Writer(ctx)
	if err != nil {
		return "", err
	}
	defer w.Close()
	if _, err := io.Copy(w, ctxio.Reader(ctx, r)); err != nil {
		return "", err
	}
	return w.Commit(want, size)
}

// lookup follows links to a file.
func (c *contents) lookup(name string) (file, error) {
	name, err := cleanName(name)
	if err != nil {
		return file{}, err
	}
	for range 16 {
		f, ok := c.files[name]
		if !ok {
			return file{}, fmt.Errorf("file %s is not in the archive: %w", name, imagestore.ErrNotFound)
		}
		if f.link == "" {
			return f, nil
		}
		name = f.link
	}
	return file{}, fmt.Errorf("file %s: links lead nowhere: %w", name, ErrFormat)
}

// stored gives a file as a blob of the store.
func (c *contents) stored(ctx context.Context, name string) (ocispec.Descriptor, error) {
	f, err := c.lookup(name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if f.desc.Digest != "" {
		return f.desc, nil
	}
	return c.s.Put(ctx, "", f.data)
}

func readAll(r io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fmt.Errorf("%d bytes are too many, %d are allowed: %w", size, limit, ErrFormat)
	}
	data := make([]byte, size)
	_, err := io.ReadFull(r, data)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return data, err
}

// tailReader counts what was read, and the zeros at its end.
type tailReader struct {
	r        io.Reader
	n, zeros int64
}

// Read implements io.Reader.
func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	i := n
	for i > 0 && p[i-1] == 0 {
		i--
	}
	if i > 0 {
		t.zeros = 0
	}
	t.zeros += int64(n - i)
	t.n += int64(n)
	return n, err
}
