package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

func agent(ctx context.Context, args []string) error {
	c, err := newConfig(ctx, "agent", args)
	if err != nil {
		return err
	}
	if c.serverURL == "" {
		return errors.New("--server is required")
	}
	if c.token.empty() {
		return errors.New("--token is required")
	}
	logf("info", "Starting k3s agent %s", version)
	lb, err := startBalancer(ctx, c)
	if err != nil {
		return err
	}
	var a *access
	err = standin.Until(ctx, 2*time.Second, func(ctx context.Context) error {
		// Through the balancer, so that a server which has gone is no matter.
		a, err = newAccess(ctx, c.apiURL(), c.token, "node")
		if err == nil {
			err = c.remoteConfig(ctx, a)
		}
		if err != nil {
			logf("error", "Failed to validate connection to cluster at %s: %v", c.serverURL, err)
		}
		return err
	})
	if err != nil {
		return quiet(ctx, err)
	}
	if err := c.credentials(ctx, a); err != nil {
		return quiet(ctx, err)
	}
	known, err := a.withCertificate(c.agentFile("client-kubelet.crt"), c.agentFile("client-kubelet.key"))
	if err != nil {
		return err
	}
	go lb.follow(ctx, known)
	if c.bin == "" {
		return quiet(ctx, c.runLightNode(ctx, c.agentFile("client-kubelet"), ready))
	}
	s := standin.NewSupervisor(c.bin, removedWriter{removed: func() {}})
	defer s.Shutdown()
	d, err := c.startContainerd(ctx, s)
	if err != nil {
		return quiet(ctx, err)
	}
	if err := c.startKubelet(ctx, s, d); err != nil {
		return quiet(ctx, err)
	}
	ready(ctx)
	logf("info", "k3s agent is up and running")
	<-ctx.Done()
	return nil
}

// quiet is nil for an end that was asked for.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("starting kubernetes: %w", err)
}
