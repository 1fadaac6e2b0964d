package host

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore/registry"
)

// Registry serves the embedded images until ctx ends, and then lets running requests finish for a few
// seconds. Host.Ready is called when it listens.
func (h *Host) Registry(ctx context.Context) error {
	c, err := h.readConfig()
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(h.path(c.CertFile), h.path(c.KeyFile))
	if err != nil {
		return fmt.Errorf("reading the registry's certificate: %w", err)
	}
	store, err := h.store()
	if err != nil {
		return err
	}
	var images []ocispec.Descriptor
	for _, d := range c.Indexes {
		if err := validDigest(d); err != nil {
			return err
		}
		images = append(images, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d})
	}
	source, err := registry.EmbeddedSource(store, images...)
	if err != nil {
		return err
	}
	logger := log.New(h.log(), "", 0)
	srv := &http.Server{
		Handler: registry.Handler(source, registry.Options{
			OnMiss:  func(ns, repository, ref string) { logger.Printf("not here: %s %s %s", ns, repository, ref) },
			OnError: func(err error) { logger.Printf("error: %v", err) },
		}),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          logger,
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("serving the registry: %w", err)
	}
	if h.Ready != nil {
		h.Ready(l.Addr())
	}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-served:
		return fmt.Errorf("serving the registry: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(last); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stopping the registry: %w", err)
	}
	return srv.Close()
}
