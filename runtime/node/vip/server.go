package vip

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"syscall"
	"time"

	"github.com/clusterimage/keg/runtime/node"
)

// server is the API server of this host, reached with a kubeconfig.
type server struct {
	file string // the kubeconfig
	url  string // instead of the one in it, if not ""
	read func(name string) ([]byte, error)

	data   []byte // of the kubeconfig that client was made of
	access *access
	client *http.Client
}

var _ api = (*server)(nil)

const (
	leases    = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
	microTime = "2006-01-02T15:04:05.000000Z07:00"
	maxAnswer = 1 << 20
)

// document is a Lease of coordination.k8s.io/v1.
type document struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Spec       spec     `json:"spec"`
}

type metadata struct {
	Name            string `json:"name"`
	Namespace       string `json:"namespace"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

// spec has no holderIdentity where nobody holds it: the API refuses an empty one.
type spec struct {
	HolderIdentity       string `json:"holderIdentity,omitempty"`
	LeaseDurationSeconds int    `json:"leaseDurationSeconds,omitempty"`
	AcquireTime          string `json:"acquireTime,omitempty"`
	RenewTime            string `json:"renewTime,omitempty"`
	LeaseTransitions     int    `json:"leaseTransitions"`
}

func (s *server) ready(ctx context.Context) error {
	code, _, err := s.do(ctx, http.MethodGet, "/readyz", nil)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: %w", errNotReady, err) // there is no cluster yet, or its program is gone
	case err != nil:
		return err
	case code != http.StatusOK:
		return fmt.Errorf("%w: /readyz: %s", errNotReady, http.StatusText(code))
	}
	return nil
}

func (s *server) get(ctx context.Context) (lease, error) {
	return s.lease(ctx, http.MethodGet, leases+"/"+node.VIPLease, nil)
}

func (s *server) put(ctx context.Context, l lease) (lease, error) {
	data, err := json.Marshal(document{
		APIVersion: "coordination.k8s.io/v1", Kind: "Lease",
		Metadata: metadata{Name: node.VIPLease, Namespace: "kube-system", ResourceVersion: l.version},
		Spec: spec{
			HolderIdentity: l.holder, LeaseDurationSeconds: int(l.duration / time.Second), LeaseTransitions: l.transitions,
			AcquireTime: l.acquired.UTC().Format(microTime), RenewTime: l.renewed.UTC().Format(microTime),
		},
	})
	if err != nil {
		return lease{}, fmt.Errorf("encoding the Lease: %w", err)
	}
	if l.version == "" {
		return s.lease(ctx, http.MethodPost, leases, data)
	}
	return s.lease(ctx, http.MethodPut, leases+"/"+node.VIPLease, data)
}

// lease makes a request that is answered by a Lease.
func (s *server) lease(ctx context.Context, method, path string, body []byte) (lease, error) {
	code, data, err := s.do(ctx, method, path, body)
	switch {
	case err != nil:
		return lease{}, err
	case code == http.StatusConflict:
		return lease{}, errConflict
	case code == http.StatusNotFound && method == http.MethodGet:
		return lease{}, errNoLease
	case code != http.StatusOK && code != http.StatusCreated:
		return lease{}, fmt.Errorf("%s of the Lease: %d %s", method, code, http.StatusText(code))
	}
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return lease{}, fmt.Errorf("reading the Lease: %w", err)
	}
	if d.Metadata.ResourceVersion == "" {
		return lease{}, errors.New("reading the Lease: it has no version")
	}
	l := lease{
		version: d.Metadata.ResourceVersion, holder: d.Spec.HolderIdentity,
		duration: time.Duration(d.Spec.LeaseDurationSeconds) * time.Second, transitions: d.Spec.LeaseTransitions,
	}
	l.acquired, _ = time.Parse(microTime, d.Spec.AcquireTime) // for people
	l.renewed, _ = time.Parse(microTime, d.Spec.RenewTime)
	return l, nil
}

func (s *server) do(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	if err := s.load(); err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, s.access.server+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("asking the API server: %w", err)
	}
	req.Header.Set("User-Agent", "keg-vip")
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.access.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.access.token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("asking the API server: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("asking the API server: %w", err)
	}
	return resp.StatusCode, data, nil
}

// load reads the kubeconfig if it has changed: certificates are renewed.
func (s *server) load() error {
	data, err := s.read(s.file)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	if s.client != nil && bytes.Equal(data, s.data) {
		return nil
	}
	a, err := readKubeconfig(data, s.file, s.read)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig %s: %w", s.file, err)
	}
	if s.url != "" {
		a.server = s.url
	}
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
	s.data, s.access = data, a
	s.client = &http.Client{
		// One connection at a time, of HTTP/1.1: a request that is not answered takes its connection
		// with it, and the next one tries another.
		Transport:     &http.Transport{TLSClientConfig: a.tls, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}
