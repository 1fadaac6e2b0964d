package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// balancer is the agents' own: TCP from 127.0.0.1:6444 to the servers.
type balancer struct {
	c       *config
	seed    string // host:port of --server
	mu      sync.Mutex
	servers []string // the one in use first
	dead    map[string]bool
	conns   map[net.Conn]string
}

// balancerState is agent/etc/k3s-agent-load-balancer.json.
type balancerState struct {
	ServerURL       string
	ServerAddresses []string
}

func (b *balancer) file() string { return b.c.agentFile("etc/k3s-agent-load-balancer.json") }

func startBalancer(ctx context.Context, c *config) (*balancer, error) {
	u, err := url.Parse(c.serverURL)
	if err != nil {
		return nil, err
	}
	seed := u.Host
	if u.Port() == "" {
		seed = net.JoinHostPort(u.Hostname(), "443")
	}
	b := &balancer{c: c, seed: seed, dead: map[string]bool{}, conns: map[net.Conn]string{}}
	var state balancerState
	if data, err := os.ReadFile(b.file()); err == nil && json.Unmarshal(data, &state) == nil && state.ServerURL == c.serverURL {
		b.servers = state.ServerAddresses
	}
	if !slices.Contains(b.servers, seed) {
		b.servers = append(b.servers, seed)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:"+c.or("lb-server-port", "6444"))
	if err != nil {
		return nil, err
	}
	logf("info", "Running load balancer k3s-agent-load-balancer %s -> %v [default: %s]", listener.Addr(), b.servers, seed)
	go func() {
		<-ctx.Done()
		_ = listener.Close()
	}()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go b.serve(ctx, conn)
		}
	}()
	go b.check(ctx)
	return b, b.save()
}

func (b *balancer) save() error {
	b.mu.Lock()
	state := balancerState{ServerURL: b.c.serverURL, ServerAddresses: slices.Sorted(slices.Values(b.servers))}
	b.mu.Unlock()
	data, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	return writeSecret(b.file(), string(data))
}

// candidates are the servers, those that answered last first.
func (b *balancer) candidates() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var good, bad []string
	for _, s := range b.servers {
		if b.dead[s] {
			bad = append(bad, s)
		} else {
			good = append(good, s)
		}
	}
	return append(good, bad...)
}

func (b *balancer) serve(ctx context.Context, client net.Conn) {
	defer func() { _ = client.Close() }()
	for _, address := range b.candidates() {
		server, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			continue
		}
		b.mu.Lock()
		b.conns[server] = address
		b.mu.Unlock()
		done := make(chan struct{}, 2)
		go func() { _, _ = io.Copy(server, client); done <- struct{}{} }()
		go func() { _, _ = io.Copy(client, server); done <- struct{}{} }()
		<-done
		_ = server.Close()
		b.mu.Lock()
		delete(b.conns, server)
		b.mu.Unlock()
		return
	}
}

// check closes connections to a server that no longer answers, so that their users go elsewhere.
func (b *balancer) check(ctx context.Context) {
	failed := map[string]int{}
	insecure := &http.Client{Timeout: 3 * time.Second, Transport: insecureTransport()}
	for ctx.Err() == nil {
		for _, address := range b.candidates() {
			if _, err := request(ctx, insecure, http.MethodGet, "https://"+address+"/ping", nil, nil); err == nil {
				failed[address] = 0
			} else {
				failed[address]++
			}
			b.mu.Lock()
			b.dead[address] = failed[address] >= 2
			if b.dead[address] {
				for conn, to := range b.conns {
					if to == address {
						_ = conn.Close()
					}
				}
			}
			b.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// follow keeps the list of servers as the cluster has it.
func (b *balancer) follow(ctx context.Context, a *access) {
	for ctx.Err() == nil {
		var list []string
		data, err := a.do(ctx, http.MethodGet, "/v1-k3s/apiservers", nil, nil)
		if err == nil && json.Unmarshal(data, &list) == nil && len(list) > 0 {
			b.mu.Lock()
			same := slices.Equal(slices.Sorted(slices.Values(b.servers)), slices.Sorted(slices.Values(list)))
			if !same {
				logf("info", "Updated load balancer k3s-agent-load-balancer server addresses -> [%s] [default: %s]", strings.Join(list, " "), b.seed)
				b.servers = list
				for conn, to := range b.conns {
					if !slices.Contains(list, to) {
						_ = conn.Close()
					}
				}
			}
			b.mu.Unlock()
			if !same {
				_ = b.save()
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(3 * time.Second):
		}
	}
}
