package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/archive"
	"github.com/clusterimage/keg/imagestore/relocate"
	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/internal/lockfile"
)

// domainRules are the values of --domain-rule.
var domainRules = map[string]relocate.Rule{"drop": relocate.Path, "prefix": relocate.Scoped}

type exportFlags struct {
	output, rule, result string
}

func newBasefsExportRegistryCommand(a *app) *cobra.Command {
	var flags exportFlags
	c := &cobra.Command{
		Use:   "export-registry -o FILE|DIR IMAGE",
		Short: "Write the embedded images as the storage of a docker-registry",
		Long: `Write the container images embedded in a cluster image (a file, an image of the store, or one in a registry) as
the storage of a distribution registry: docker-registry, registry:2 and registry:3 serve it as it is. FILE
ends with .tar, .tar.gz, .tgz or .tar.zst and unpacks into the registry's root directory; a name that ends
with / is a directory that does not exist or is empty. The same image gives the same bytes.

--domain-rule says what becomes of the registry in the names: "drop", as the registries of older tools have it,
makes docker.io/library/nginx library/nginx and registry.k8s.io/pause pause; two images that would get one
name are an error. "prefix" makes it the first part of the path: docker.io/library/nginx, registry.k8s.io/pause.`,
		Example: `  keg basefs export-registry reg.example.com/shop:v1 -o registry.tar.gz
  tar -xzf registry.tar.gz -C /var/lib/docker-registry
  keg basefs export-registry shop.tar -o ./registry/ --domain-rule prefix`,
		Args: oneArg("an image or a file"),
		ValidArgsFunction: func(c *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			names, _ := a.completeImages(1)(c, args, prefix)
			return names, cobra.ShellCompDirectiveDefault
		},
		RunE: func(c *cobra.Command, args []string) error { return a.exportRegistry(c.Context(), args[0], flags) },
	}
	f := c.Flags()
	f.StringVarP(&flags.output, "output", "o", "", "the file, or with / at its end the directory, to write; - is standard output, a plain tar")
	f.StringVar(&flags.rule, "domain-rule", "drop", "what becomes of the registry in the names: drop or prefix")
	f.StringVar(&flags.result, "images-result", "", "file for what was written: JSON with source, target and digest of each image")
	_ = c.RegisterFlagCompletionFunc("domain-rule", cobra.FixedCompletions([]string{"drop", "prefix"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) exportRegistry(ctx context.Context, what string, flags exportFlags) error {
	rule, ok := domainRules[flags.rule]
	if !ok {
		return usageErrorf("--domain-rule %q is none of drop, prefix", flags.rule)
	}
	dir, pack, err := exportForm(flags.output)
	if err != nil {
		return err
	}
	s, err := a.store()
	if err != nil {
		return err
	}
	release, err := s.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	show, err := a.display()
	if err != nil {
		return err
	}
	defer show.close()
	_, placed, err := a.placeImages(ctx, s, what, rule, "", show)
	if err != nil {
		return err
	}
	written := &writtenBytes{emit: show.event}
	if written.total, err = mirroredSize(ctx, s, placed); err != nil {
		return err
	}
	switch {
	case dir:
		err = exportDir(ctx, flags.output, s, placed, written)
	default:
		write := func(w io.Writer) error {
			return pack(w, func(w io.Writer) error {
				written.w = w
				return archive.SaveStorage(ctx, written, s, placed)
			})
		}
		if flags.output == "-" {
			err = saveStdout(a.stdout, write)
		} else {
			err = saveFile(flags.output, write)
		}
	}
	written.end(err)
	show.close()
	if err != nil {
		return err
	}
	lines := make([]mirrored, 0, len(placed))
	for _, p := range placed {
		lines = append(lines, mirrored{Source: p.Name, Target: p.String(), Digest: p.Target.Digest.String(), SourceDigest: p.Target.Digest.String(), Outcome: "written"})
	}
	if err := writeResult(flags.result, lines); err != nil {
		return err
	}
	if flags.output != "-" {
		fmt.Fprintf(a.stdout, "wrote %s: %s\n", flags.output, imageCount(len(placed)))
	}
	return nil
}

// exportForm reads what the name of the output asks for: a directory, or a file that pack compresses.
func exportForm(output string) (dir bool, pack func(io.Writer, func(io.Writer) error) error, err error) {
	plain := func(w io.Writer, write func(io.Writer) error) error { return write(w) }
	if fi, err := os.Stat(output); strings.HasSuffix(output, "/") || err == nil && fi.IsDir() {
		return true, nil, nil
	}
	switch name := strings.ToLower(output); {
	case output == "":
		return false, nil, usageErrorf("-o is missing: a file such as registry.tar.gz, or a directory such as registry/")
	case output == "-", strings.HasSuffix(name, ".tar"):
		return false, plain, nil
	case strings.HasSuffix(name, ".tar.gz"), strings.HasSuffix(name, ".tgz"):
		return false, packGzip, nil
	case strings.HasSuffix(name, ".tar.zst"):
		return false, packZstd, nil
	}
	if fi, err := os.Stat(output); err == nil && !fi.Mode().IsRegular() { // a pipe, /dev/null
		return false, plain, nil
	}
	return false, nil, usageErrorf("-o %s: the name ends with none of .tar, .tar.gz, .tgz, .tar.zst, and with no / either", output)
}

// packGzip compresses lightly: most of the content is compressed layers.
func packGzip(w io.Writer, write func(io.Writer) error) error {
	gz, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if err := write(gz); err != nil {
		return err
	}
	return gz.Close()
}

func packZstd(w io.Writer, write func(io.Writer) error) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	if err := write(z); err != nil {
		return errors.Join(err, z.Close())
	}
	return z.Close()
}

// exportDir writes beside the directory and renames. What a killed export left is taken away by the next.
func exportDir(ctx context.Context, dir string, s *imagestore.Store, placed []relocate.Placed, written *writtenBytes) error {
	dir = filepath.Clean(dir)
	fail := func(err error) error { return fmt.Errorf("writing %s: %w", dir, err) }
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return usageErrorf("-o %s: the directory is not empty", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	part := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".part")
	lock, err := os.OpenFile(part+".lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	locked, err := lockfile.TryLock(lock, lockfile.Exclusive)
	if err != nil {
		return fail(err)
	}
	if !locked || !stillNamed(lock, part+".lock") {
		return fail(errSaving)
	}
	defer os.Remove(part + ".lock")
	if err := os.RemoveAll(part); err != nil {
		return fail(err)
	}
	defer os.RemoveAll(part) // gone after the rename
	if err := os.Mkdir(part, 0o755); err != nil {
		return fail(err)
	}
	if err := archive.SaveStorageDir(ctx, part, s, placed, written.count); err != nil {
		return fail(err)
	}
	if err := os.Rename(part, dir); err != nil { // takes the place of an empty one
		return fail(err)
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}
