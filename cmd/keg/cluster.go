package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/basefs"
	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime"
	"github.com/clusterimage/keg/runtime/k0s"
	"github.com/clusterimage/keg/runtime/k3s"
	"github.com/clusterimage/keg/runtime/kubernetes"
)

// drivers are the runtimes of this build.
func drivers() []runtime.Driver {
	return []runtime.Driver{kubernetes.Driver{}, k3s.Driver{}, k0s.Driver{}}
}

// clusterFlags are those of every command about a cluster that is there.
type clusterFlags struct {
	name string
	ssh  sshFlags
	out  output
}

func (f *clusterFlags) register(a *app, c *cobra.Command) {
	c.Flags().StringVar(&f.name, "name", "default", "name of the cluster")
	f.ssh.register(c)
	f.out.register(c)
	_ = c.RegisterFlagCompletionFunc("name", a.completeClusters)
}

// onCluster runs phases on a recorded cluster, with progress.
func (a *app) onCluster(c *cobra.Command, cluster *runtime.Cluster, phases []runtime.Phase) error {
	show, err := a.display()
	if err != nil {
		return err
	}
	defer show.close()
	cluster.Options.Progress = show.event
	return runtime.Run(c.Context(), cluster, phases)
}

// attachImage finds the image that what names, and gives it to a cluster with its driver and its content.
// An app image brings no driver. What the image needs may not be pruned until release is called.
func (a *app) attachImage(ctx context.Context, cluster *runtime.Cluster, what string, show *display) (release func(), err error) {
	s, err := a.store()
	if err != nil {
		return nil, err
	}
	if release, err = s.Hold(ctx); err != nil {
		return nil, err
	}
	err = func() error {
		tagged, err := a.findImage(ctx, s, what, show)
		if err != nil {
			return err
		}
		if cluster.Image, err = readImage(s, tagged); err != nil {
			return err
		}
		cluster.Content = storeContent{s}
		driver, err := chooseDriver(cluster.Image)
		switch {
		case err != nil || driver == nil:
			return err
		case cluster.Driver != nil && cluster.Driver.Name() != driver.Name():
			return &refusedError{fmt.Sprintf("cluster %q runs %s, and %s is for %s: a cluster keeps its runtime", cluster.Name, cluster.Driver.Name(), tagged.Name, driver.Name())}
		}
		cluster.Driver = driver
		return nil
	}()
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// clusterDir is where the record, the journal and the registry's CA of a cluster are kept.
func (a *app) clusterDir(name string) (string, error) {
	if !clusterName.MatchString(name) {
		return "", usageErrorf("%q is no name of a cluster: small letters, digits and dashes are allowed, 40 at most", name)
	}
	dir, err := a.dataDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "clusters", name), nil
}

// recorded is the cluster of that name as an earlier run recorded it, ready to be reached again.
func (a *app) recorded(c *cobra.Command, name string, ssh *sshFlags) (*runtime.Cluster, error) {
	dir, err := a.clusterDir(name)
	if err != nil {
		return nil, err
	}
	record, err := runtime.LoadRecord(dir)
	if err != nil {
		return nil, err
	}
	if record == nil {
		return nil, &hintedError{
			err:  fmt.Errorf("no cluster %q is recorded in %s", name, filepath.Dir(dir)),
			hint: "give its --name; on another machine than the one it was made from, the same keg run records it here and changes nothing",
		}
	}
	if err := ssh.recall(c, record.Login); err != nil {
		return nil, err
	}
	cluster := record.Cluster(dir, drivers())
	cluster.Agent = newAgent
	cluster.Connect, err = a.connector(*ssh)
	return cluster, err
}

// recallLogin sets the flags that were not given to what the record of a cluster has, if there is one.
func (a *app) recallLogin(c *cobra.Command, name string, ssh *sshFlags) error {
	dir, err := a.clusterDir(name)
	if err != nil {
		return err
	}
	record, err := runtime.LoadRecord(dir)
	if err != nil || record == nil {
		return err
	}
	return ssh.recall(c, record.Login)
}

// storeContent gives hosts the blobs of the store.
type storeContent struct{ s *imagestore.Store }

func (c storeContent) Open(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return c.s.Open(d)
}

// readImage reads the documents of a cluster image that a run needs.
func readImage(s *imagestore.Store, t imagestore.Tagged) (*runtime.Image, error) {
	var index ocispec.Index
	if err := s.ReadJSON(t.Target.Digest, &index); err != nil {
		return nil, err
	}
	parsed, err := clusterimage.Parse(index)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	img := &runtime.Image{
		Name: t.Name, Target: t.Target, Index: parsed,
		Platforms: map[string]runtime.Rootfs{}, Documents: map[digest.Digest]ocispec.Manifest{},
	}
	for _, d := range parsed.Rootfs {
		r := runtime.Rootfs{Descriptor: d}
		if err := s.ReadJSON(d.Digest, &r.Manifest); err != nil {
			return nil, err
		}
		var config ocispec.Image
		if err := s.ReadJSON(r.Manifest.Config.Digest, &config); err != nil {
			return nil, err
		}
		r.Labels = config.Config.Labels
		r.Metadata = basefs.Metadata{Version: r.Labels[clusterimage.LabelKubeVersion], Arch: d.Platform.Architecture, Variant: d.Platform.Variant, Runtime: r.Labels[clusterimage.LabelRuntime]}
		img.Platforms[clusterimage.PlatformString(d.Platform)] = r
	}
	if img.Spec, err = clusterimage.ParseSpec(img.Platforms[clusterimage.PlatformString(parsed.Rootfs[0].Platform)].Labels); err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name, err)
	}
	for _, e := range parsed.Embedded {
		if err := addDocument(s, img, e.Manifest); err != nil {
			return nil, err
		}
	}
	for _, d := range parsed.Refs {
		if err := addDocument(s, img, d); err != nil {
			return nil, err
		}
	}
	return img, nil
}

func addDocument(s *imagestore.Store, img *runtime.Image, d ocispec.Descriptor) error {
	var m ocispec.Manifest
	if err := s.ReadJSON(d.Digest, &m); err != nil {
		return err
	}
	img.Documents[d.Digest] = m
	return nil
}

// chooseDriver picks the runtime that all platforms of the image agree on; nil for an app image.
func chooseDriver(img *runtime.Image) (runtime.Driver, error) {
	var chosen runtime.Driver
	for platform, r := range img.Platforms {
		d, err := runtime.Choose(drivers(), r.Metadata, r.Labels[clusterimage.LabelRuntime])
		if err != nil {
			var unknown *runtime.UnknownRuntimeError
			if errors.As(err, &unknown) && unknown.Name == "" {
				return nil, nil
			}
			return nil, fmt.Errorf("%s (%s): %w", img.Name, platform, err)
		}
		if chosen != nil && chosen.Name() != d.Name() {
			return nil, fmt.Errorf("%s: its platforms are for different runtimes, %s and %s", img.Name, chosen.Name(), d.Name())
		}
		chosen = d
	}
	return chosen, nil
}

// wantRuntime refuses an app image where a cluster image is wanted.
func wantRuntime(img *runtime.Image) error {
	driver, err := chooseDriver(img)
	if err != nil || driver != nil {
		return err
	}
	return &refusedError{fmt.Sprintf("%s is an app image, without a runtime: keg run --cluster NAME runs it on a cluster", img.Name)}
}
