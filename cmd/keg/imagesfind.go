package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/builder"
	"github.com/clusterimage/keg/builder/discover"
)

type findFlags struct {
	values      []string
	kubeVersion string
	apiVersions []string
	env         []string
	take        []string
	ignore      []string
	candidates  bool
	strict      bool
	keepGoing   bool
	quiet       bool
	why         string
}

func newImagesFindCommand(a *app) *cobra.Command {
	var flags findFlags
	var out output
	c := &cobra.Command{
		Use:   "find [flags] [PATH...]",
		Short: "Find the container images that files will pull",
		Long: `Find the container images that manifests, Helm charts, kustomizations, custom resources and image
lists in PATH (a directory, a file, a packed chart; by default the working directory) will make a
cluster pull, with the file, line and field that name each. Nothing is downloaded.`,
		Example: `  keg images find .
  keg images find --values prod.yaml charts/shop
  keg images find -q . > imageList
  keg images find --why registry.example.com/shop/web:1.4 .`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"."}
			}
			report, err := a.findImages(c.Context(), args, flags)
			if report == nil {
				return err
			}
			return errors.Join(a.writeReport(report, flags, out), err)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&flags.values, "values", nil, "file of values for all charts, in place of those beside them; later ones win")
	f.StringVar(&flags.kubeVersion, "set-kube-version", "", "version of Kubernetes that charts see (default: that of the file Metadata)")
	f.StringSliceVar(&flags.apiVersions, "api-versions", nil, "APIs that charts see beside those of Kubernetes")
	f.StringArrayVarP(&flags.env, "env", "e", nil, "value for templates, K=V")
	f.BoolVar(&flags.candidates, "candidates", false, "take also what only looks like an image")
	f.StringSliceVar(&flags.take, "take", nil, "candidates to take: names, or patterns with * and **")
	f.StringSliceVar(&flags.ignore, "ignore", nil, "images to leave out: names, or patterns with * and **")
	f.BoolVar(&flags.strict, "strict", false, "fail if something could not be looked into (exit code 3)")
	f.BoolVar(&flags.keepGoing, "keep-going", false, "report all broken files and charts, and what the others name")
	f.StringVar(&flags.why, "why", "", "tell all places that name this image")
	f.BoolVarP(&flags.quiet, "quiet", "q", false, "print only the names of the images to embed, as an image list")
	out.register(c)
	return c
}

// findImages searches paths, each by itself.
func (a *app) findImages(ctx context.Context, paths []string, flags findFlags) (*discover.Report, error) {
	env, err := keyValues("--env", flags.env)
	if err != nil {
		return nil, err
	}
	o := discover.Options{
		KubeVersion: flags.kubeVersion, APIVersions: flags.apiVersions, Env: env, Candidates: flags.candidates,
		Take: flags.take, Ignore: flags.ignore, KeepGoing: flags.keepGoing,
	}
	for _, name := range flags.values {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading values: %w", err)
		}
		o.Values = append(o.Values, discover.Values{Name: name, Data: data})
	}
	var reports []*discover.Report
	var errs []error
	for _, p := range paths {
		dir, r, err := findIn(ctx, filepath.Clean(p), o)
		if r != nil {
			reports = append(reports, r.Under(filepath.ToSlash(dir)))
		}
		if err != nil {
			err = fmt.Errorf("searching %s: %w", p, err)
			if !flags.keepGoing {
				return nil, err
			}
			errs = append(errs, err)
		}
	}
	report := discover.Merge(reports...)
	if flags.strict && len(report.Skipped) > 0 {
		errs = append(errs, &discover.StrictError{Skipped: report.Skipped})
	}
	return report, errors.Join(errs...)
}

// findIn searches one directory or file, and says to which directory the files in the report are relative.
func findIn(ctx context.Context, path string, o discover.Options) (dir string, report *discover.Report, err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return "", nil, err
	}
	dir = path
	if !fi.IsDir() {
		dir, o.Roots = filepath.Dir(path), []string{filepath.Base(path)}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", nil, err
	}
	defer root.Close()
	tree := root.FS()
	if data, err := fs.ReadFile(tree, basefs.MetadataFile); err == nil && fi.IsDir() {
		if o.Metadata, err = basefs.ParseMetadata(data); err != nil {
			return "", nil, fmt.Errorf("%s: %w", basefs.MetadataFile, err)
		}
		o.System = !slices.ContainsFunc(basefs.ImageLists(), func(n string) bool {
			_, err := fs.Stat(tree, n)
			return err == nil
		})
	}
	report, err = discover.Find(ctx, tree, o)
	return dir, report, err
}

func (a *app) writeReport(r *discover.Report, flags findFlags, out output) error {
	if flags.why != "" {
		f, ok := r.Why(flags.why)
		if !ok {
			return fmt.Errorf("nothing here names %s", flags.why)
		}
		return out.write(a.stdout, f, func(w io.Writer) {
			fmt.Fprintln(w, f.Ref+": "+kindOf(f))
			for _, where := range f.Where {
				fmt.Fprintln(w, "  "+where.String())
			}
		})
	}
	if flags.quiet {
		for _, f := range r.Taken() {
			fmt.Fprintln(a.stdout, f.Ref)
		}
		return nil
	}
	err := out.write(a.stdout, r, func(w io.Writer) {
		row(w, "IMAGE", "EMBED", "KIND", "WHERE")
		for _, f := range r.Images {
			embed := "yes"
			if !f.Taken {
				embed = "no"
			}
			where := f.Where[0].String()
			if n := len(f.Where) - 1; n > 0 {
				where += fmt.Sprintf(" (and %d more)", n)
			}
			row(w, f.Ref, embed, kindOf(f), where)
		}
	})
	if out.format != "json" && !flags.strict {
		for _, s := range r.Skipped {
			fmt.Fprintf(a.stderr, "keg: warning: skipped: %s\n", s)
		}
	}
	return err
}

// kindOf is how an image is known, for people.
func kindOf(f discover.Found) string {
	switch {
	case f.Ignored:
		return "ignored"
	case f.Kind == discover.Candidate:
		return fmt.Sprintf("candidate, %s: %s", f.Confidence, f.Reason)
	}
	return string(f.Kind)
}

// warnDiscovered tells, after a build, what was not looked into, and what may be an image that is missing.
func (a *app) warnDiscovered(result builder.Result, quiet bool) {
	if quiet {
		return
	}
	var reports []*discover.Report
	for _, p := range result.Platforms {
		if p.Discovered != nil {
			reports = append(reports, p.Discovered)
		}
	}
	embedded := map[string]bool{}
	for _, e := range result.Image.Embedded {
		embedded[e.Name] = true
	}
	r := discover.Merge(reports...)
	for _, s := range r.Skipped {
		fmt.Fprintf(a.stderr, "keg: warning: looking for images: %s\n", s)
	}
	var names []string
	for _, f := range r.Candidates() {
		tagged, _, _ := strings.Cut(f.Ref, "@")
		if f.Confidence != discover.Low && !embedded[f.Ref] && !embedded[tagged] {
			names = append(names, f.Ref)
		}
	}
	if len(names) > 0 {
		fmt.Fprintf(a.stderr, "keg: warning: these look like images and are not embedded: %s\n", strings.Join(names, ", "))
		fmt.Fprintln(a.stderr, "hint: IMAGES embeds one, --candidates all of them; keg images find --why NAME tells where one is named")
	}
}
