package main

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// proxy forwards connections to the first API server that answers. k0s runs envoy or traefik in a static pod
// for this; here it is a part of the worker's own process.
type proxy struct {
	mu      sync.Mutex
	targets []string
	next    int
}

func (p *proxy) set(targets []string) {
	if len(targets) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = targets
}

// dial tries every target once, a different one first each time.
func (p *proxy) dial(ctx context.Context) (net.Conn, error) {
	p.mu.Lock()
	targets, first := p.targets, p.next
	p.next++
	p.mu.Unlock()
	var err error
	for i := range targets {
		dialer := net.Dialer{Timeout: 2 * time.Second}
		var conn net.Conn
		if conn, err = dialer.DialContext(ctx, "tcp", targets[(first+i)%len(targets)]); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func (p *proxy) serve(ctx context.Context, listener net.Listener) {
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			upstream, err := p.dial(ctx)
			if err != nil {
				return
			}
			defer upstream.Close()
			done := make(chan struct{}, 2)
			pipe := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				done <- struct{}{}
			}
			go pipe(upstream, conn)
			go pipe(conn, upstream)
			select {
			case <-done:
			case <-ctx.Done():
			}
		}()
	}
}

// startNLLB starts the proxy on 127.0.0.1:7443 and returns a kubeconfig and a client that go through it. Its list of
// servers follows the worker configuration.
func (d *daemon) startNLLB(ctx context.Context, profile *workerConfig) (string, *standin.Client, error) {
	p := &proxy{}
	p.set(profile.APIServers)
	address := joinHostPort("127.0.0.1", profile.NLLB.port())
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return "", nil, err
	}
	go p.serve(ctx, listener)
	kubeconfig := filepath.Join(d.run, "nllb", "kubeconfig.yaml")
	if err := d.kubeconfigTo(kubeconfig, "https://"+address); err != nil {
		return "", nil, err
	}
	client, err := standin.KubeconfigClient(kubeconfig, "")
	if err != nil {
		return "", nil, err
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Second):
			}
			var m configMap
			if client.Get(ctx, configMapsPath+"/"+profileName(d.profile), &m) != nil {
				continue
			}
			if fresh, err := parseProfile(&m); err == nil {
				p.set(fresh.APIServers)
			}
		}
	}()
	return kubeconfig, client, nil
}
