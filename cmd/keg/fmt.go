package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/internal/atomicfile"
	"github.com/clusterimage/keg/kubefile/format"
)

type fmtFlags struct{ write, check, diff bool }

func newFmtCommand(a *app) *cobra.Command {
	var flags fmtFlags
	c := &cobra.Command{
		Use:   "fmt [flags] [FILE...|-]",
		Short: "Write Kubefiles in one form",
		Long: `Write Kubefiles (default ./Kubefile; of a directory, the Kubefile in it; - is standard input) in one form, without changing
what they mean: names of instructions in upper case, one space between words, JSON arrays as ["a", "b"], continued
lines indented by four spaces, no empty lines inside of instructions and not more than one between them. Comments,
directives, heredocs and the text of commands stay as they are. Without a flag the result goes to standard
output.`,
		Example: `  keg fmt -w
  keg fmt --check --diff deploy/*/Kubefile`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if flags.write && flags.check {
				return usageErrorf("-w writes files, --check only looks: give one of them")
			}
			if len(args) == 0 {
				args = []string{"Kubefile"}
			}
			return a.format(c.Context(), args, flags)
		},
	}
	f := c.Flags()
	f.BoolVarP(&flags.write, "write", "w", false, "write the files instead of printing them")
	f.BoolVar(&flags.check, "check", false, "print the names of files that are in another form, and exit with 1 if there are any")
	f.BoolVarP(&flags.diff, "diff", "d", false, "print what would change")
	return c
}

// format goes on after a file that cannot be read, so that all mistakes are told at once.
func (a *app) format(ctx context.Context, names []string, flags fmtFlags) error {
	var errs []error
	other := 0
	for _, name := range names {
		changed, err := a.formatFile(ctx, name, flags)
		if err != nil {
			errs = append(errs, err)
		}
		if changed {
			other++
		}
	}
	if flags.check && other > 0 {
		errs = append(errs, &hintedError{fmt.Errorf("checking form: %s not in keg's form", files(other)), "keg fmt -w writes them so"})
	}
	return errors.Join(errs...)
}

func files(n int) string {
	if n == 1 {
		return "1 file is"
	}
	return fmt.Sprintf("%d files are", n)
}

// formatFile says whether a file was in another form.
func (a *app) formatFile(ctx context.Context, name string, flags fmtFlags) (bool, error) {
	if name == "-" && flags.write {
		return false, usageErrorf("-w writes files, and standard input is none")
	}
	if fi, err := os.Stat(name); err == nil && fi.IsDir() {
		name = filepath.Join(name, "Kubefile")
	}
	name, text, err := a.kubefileText(ctx, "", name)
	if err != nil {
		return false, err
	}
	formatted, err := format.Format(name, text)
	if err != nil {
		return false, err
	}
	changed := !bytes.Equal(text, formatted)
	var out []byte
	switch {
	case !changed && (flags.write || flags.check || flags.diff):
		return false, nil
	case flags.diff:
		out = diff.Diff(name, text, name, formatted)
	case flags.check:
		out = []byte(name + "\n")
	case !flags.write:
		out = formatted
	}
	if _, err := a.stdout.Write(out); err != nil {
		return changed, fmt.Errorf("writing output: %w", err)
	}
	if flags.write {
		return changed, rewriteFile(name, formatted)
	}
	return changed, nil
}

// rewriteFile replaces a file at once; its mode stays, and a symbolic link to it stays one.
func rewriteFile(name string, text []byte) error {
	target, err := filepath.EvalSymlinks(name)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	fi, err := os.Stat(target)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return atomicfile.Write(target, text, fi.Mode().Perm())
}
