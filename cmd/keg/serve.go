package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/registry"
)

func newServeCommand(a *app) *cobra.Command {
	var addr string
	c := &cobra.Command{
		Use:   "serve [STORE]",
		Short: "Serve the store as a read-only registry",
		Long: `Serve the images in the store as a read-only registry over plain HTTP, until interrupted. Images
are found by their full name, such as 127.0.0.1:5000/reg.example.com/shop:v1, and by their path alone
(127.0.0.1:5000/shop:v1) where one registry only has it. keg run serves the images inside a cluster
image to its hosts; here they come with it.`,
		Example: `  keg serve
  skopeo copy --all --src-tls-verify=false docker://127.0.0.1:5000/reg.example.com/shop:v1 dir:shop
  keg serve --addr 10.0.0.1:5000 /srv/keg`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageErrorf("%s wants at most one store, got %s", c.CommandPath(), quoteAll(args))
			}
			return nil
		},
		ValidArgsFunction: completeDirs,
		RunE: func(c *cobra.Command, args []string) error {
			open := a.store
			if len(args) == 1 {
				// A name mistyped would be made, and an empty store served.
				if _, err := os.Stat(filepath.Join(args[0], ocispec.ImageLayoutFile)); err != nil {
					return fmt.Errorf("serving %s: it is no store: %w", args[0], err)
				}
				open = func() (*imagestore.Store, error) { return openStore(args[0]) }
			}
			s, err := open()
			if err != nil {
				return err
			}
			return a.serve(c.Context(), addr, registry.Handler(registry.StoreSource(s), registry.Options{}))
		},
	}
	c.Flags().StringVar(&addr, "addr", "127.0.0.1:5000", "address to listen on; port 0 takes a free one")
	return c
}

func (a *app) serve(ctx context.Context, addr string, handler http.Handler) error {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("serving the store: %w", err)
	}
	fmt.Fprintf(a.stdout, "serving on http://%s\n", l.Addr())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the store: %w", err)
	}
	return <-stopped
}
