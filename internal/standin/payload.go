package standin

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/clusterimage/keg/internal/lockfile"
)

// ErrNoPayload says that an executable has no programs behind it.
var ErrNoPayload = errors.New("no payload")

// The payload is followed by a footer: its offset (8 bytes, big endian), its SHA-256 and this word.
const (
	payloadMagic = "keg-standin-payload-1"
	footerSize   = 8 + sha256.Size + int64(len(payloadMagic))
)

// programNames are what a payload holds. All but the CNI plugins and runc are in the e2e set's
// directory, and those of Kubernetes in its directory "before" as well.
var programNames = []string{
	"etcd", "etcdctl", "etcdutl",
	"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl",
	"containerd", "containerd-shim-runc-v2", "ctr",
	"bridge", "host-local", "loopback", "portmap",
}

// Programs maps the name of each program of a payload to its file: those of dir (testdata/e2e/binaries),
// with those of dir/before in front if before is set, and runc.
func Programs(dir string, before bool, runc string) (map[string]string, error) {
	programs := map[string]string{"runc": runc}
	for _, name := range programNames {
		file := filepath.Join(dir, name)
		if older := filepath.Join(dir, "before", name); before {
			if _, err := os.Stat(older); err == nil {
				file = older
			}
		}
		programs[name] = file
	}
	for name, file := range programs {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("finding program %s: %w", name, err)
		}
	}
	return programs, nil
}

// AppendPayload writes to file the executable exe with programs behind it, mode 0755. The same input gives the
// same bytes.
func AppendPayload(ctx context.Context, file, exe string, programs map[string]string) (err error) {
	out, err := os.OpenFile(file+".part", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("appending payload: %w", err)
	}
	defer func() {
		_ = out.Close()
		if err != nil {
			_ = os.Remove(file + ".part")
		}
	}()
	offset, err := copyFile(out, exe)
	if err != nil {
		return fmt.Errorf("appending payload: %w", err)
	}
	sum := sha256.New()
	// One encoder goroutine: with several, the output depends on nothing but the input all the same, but
	// the level matters for time: half a gigabyte in a few seconds.
	packed, err := zstd.NewWriter(io.MultiWriter(out, sum), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return fmt.Errorf("appending payload: %w", err)
	}
	archive := tar.NewWriter(packed)
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		fi, err := os.Stat(programs[name])
		if err != nil {
			return fmt.Errorf("appending payload: %w", err)
		}
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: fi.Size(), Typeflag: tar.TypeReg}); err != nil {
			return fmt.Errorf("appending program %s: %w", name, err)
		}
		if _, err := copyFile(archive, programs[name]); err != nil {
			return fmt.Errorf("appending program %s: %w", name, err)
		}
	}
	if err := errors.Join(archive.Close(), packed.Close()); err != nil {
		return fmt.Errorf("appending payload: %w", err)
	}
	footer := binary.BigEndian.AppendUint64(nil, uint64(offset)) //nolint:gosec // a file's size is not negative
	footer = append(sum.Sum(footer), payloadMagic...)
	if _, err := out.Write(footer); err != nil {
		return fmt.Errorf("appending payload: %w", err)
	}
	if err := errors.Join(out.Close(), os.Rename(file+".part", file)); err != nil {
		return fmt.Errorf("appending payload: %w", err)
	}
	return nil
}

func copyFile(w io.Writer, file string) (int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.Copy(w, f)
}

// Payload is where the programs behind an executable are.
type Payload struct {
	// Hash is the SHA-256 of the payload in hex: the name of the directory it is unpacked to.
	Hash         string
	exe          string
	offset, size int64
}

// OpenPayload reads the footer of exe. Without one the error is ErrNoPayload.
func OpenPayload(exe string) (Payload, error) {
	f, err := os.Open(exe)
	if err != nil {
		return Payload{}, fmt.Errorf("opening payload: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Payload{}, fmt.Errorf("opening payload: %w", err)
	}
	if fi.Size() < footerSize {
		return Payload{}, ErrNoPayload
	}
	footer := make([]byte, footerSize)
	if _, err := f.ReadAt(footer, fi.Size()-footerSize); err != nil {
		return Payload{}, fmt.Errorf("reading the payload's footer: %w", err)
	}
	if string(footer[8+sha256.Size:]) != payloadMagic {
		return Payload{}, ErrNoPayload
	}
	offset := int64(binary.BigEndian.Uint64(footer)) //nolint:gosec // checked on the next line
	if offset < 0 || offset > fi.Size()-footerSize {
		return Payload{}, fmt.Errorf("reading the payload's footer: offset %d is outside the file", offset)
	}
	return Payload{Hash: hex.EncodeToString(footer[8 : 8+sha256.Size]), exe: exe, offset: offset, size: fi.Size() - footerSize - offset}, nil
}

// Unpack makes dir/HASH/bin, unless it is there already, and returns its path. A payload whose bytes do not
// match the hash is refused, and nothing of it is left.
func (p Payload) Unpack(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, p.Hash, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("unpacking payload: %w", err)
	}
	release, err := lockfile.Acquire(ctx, filepath.Join(dir, ".lock"), lockfile.Exclusive, nil)
	if err != nil {
		return "", fmt.Errorf("unpacking payload: %w", err)
	}
	defer release()
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	part := filepath.Join(dir, p.Hash+"-tmp")
	if err := os.RemoveAll(part); err != nil {
		return "", fmt.Errorf("unpacking payload: %w", err)
	}
	if err := p.unpack(ctx, filepath.Join(part, "bin")); err != nil {
		_ = os.RemoveAll(part)
		return "", fmt.Errorf("unpacking payload: %w", err)
	}
	if err := os.Rename(part, filepath.Join(dir, p.Hash)); err != nil {
		return "", fmt.Errorf("unpacking payload: %w", err)
	}
	return bin, nil
}

func (p Payload) unpack(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Open(p.exe)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	source := io.TeeReader(bufio.NewReaderSize(io.NewSectionReader(f, p.offset, p.size), 1<<20), sum)
	packed, err := zstd.NewReader(source)
	if err != nil {
		return err
	}
	defer packed.Close()
	for archive := tar.NewReader(packed); ; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if strings.Contains(header.Name, "/") || !fs.ValidPath(header.Name) || header.Typeflag != tar.TypeReg {
			return fmt.Errorf("entry %q is not a program", header.Name)
		}
		if err := writeProgram(filepath.Join(dir, header.Name), archive); err != nil {
			return err
		}
	}
	return p.verify(source, packed, sum)
}

// verify reads what the archive's reader has not asked for, so that the hash is of all bytes.
func (p Payload) verify(source, packed io.Reader, sum hash.Hash) error {
	if _, err := io.Copy(io.Discard, packed); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, source); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.Hash {
		return fmt.Errorf("payload is damaged: its SHA-256 is %s, not %s", got, p.Hash)
	}
	return nil
}

func writeProgram(file string, r io.Reader) error {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, r)
	return errors.Join(err, out.Close())
}
