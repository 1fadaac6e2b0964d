package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// caResponse is what GET /v1beta1/ca gives to who may join: the keys of the cluster.
type caResponse struct {
	Key   []byte `json:"key"`
	Cert  []byte `json:"cert"`
	SAKey []byte `json:"saKey"`
	SAPub []byte `json:"saPub"`
}

type etcdRequest struct {
	Node        string `json:"node"`
	PeerAddress string `json:"peerAddress"`
}

type etcdResponse struct {
	CA             caResponse `json:"ca"`
	InitialCluster []string   `json:"initialCluster"`
}

// memberStore is the list of etcd's members, or that of the light mode.
type memberStore interface {
	Members(ctx context.Context) ([]standin.Member, error)
	AddLearner(ctx context.Context, address string) ([]standin.Member, error)
	Remove(ctx context.Context, nameOrPeerURL string) error
	PromoteLearners(ctx context.Context) (int, error)
}

// serveJoin answers controllers that join, on port 9443, until ctx ends.
func serveJoin(ctx context.Context, v *vars, config *ClusterConfig, client *standin.Client, members memberStore) error {
	mux := http.NewServeMux()
	authorized := func(next func(*http.Request) (any, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if !ok || !mayJoin(r.Context(), client, bearer) {
				http.Error(w, "go away", http.StatusUnauthorized)
				return
			}
			answer, err := next(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(answer)
		}
	}
	mux.HandleFunc("GET /v1beta1/ca", authorized(func(*http.Request) (any, error) { return v.caFiles() }))
	mux.HandleFunc("POST /v1beta1/etcd/members", authorized(func(r *http.Request) (any, error) {
		var request etcdRequest
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&request); err != nil {
			return nil, err
		}
		if request.Node == "" || request.PeerAddress == "" {
			return nil, errors.New("node and peerAddress cannot be empty")
		}
		return v.addMember(r.Context(), members, request)
	}))
	certificate := v.tls("ca", "k0s-api")
	pair, err := tls.LoadX509KeyPair(certificate.Cert, certificate.Key)
	if err != nil {
		return err
	}
	host := ""
	if config.Spec.API.OnlyBindToAddress || os.Getenv(rootEnv) != "" {
		host = config.Spec.API.Address
	}
	server := &http.Server{
		Addr: joinHostPort(host, config.Spec.API.K0sAPIPort), Handler: mux, ReadHeaderTimeout: 15 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}
	return serveTLS(ctx, server)
}

// serveTLS listens, and serves until ctx ends.
func serveTLS(ctx context.Context, server *http.Server) error {
	listener, err := tls.Listen("tcp", server.Addr, server.TLSConfig)
	if err != nil {
		return err
	}
	go func() { _ = server.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return nil
}

func (v *vars) caFiles() (any, error) {
	var answer caResponse
	for file, to := range map[string]*[]byte{"ca.key": &answer.Key, "ca.crt": &answer.Cert, "sa.key": &answer.SAKey, "sa.pub": &answer.SAPub} {
		data, err := os.ReadFile(filepath.Join(v.pki, file))
		if err != nil {
			return nil, err
		}
		*to = data
	}
	return answer, nil
}

// addMember adds a learner. A second one while the first is not promoted is etcd's error: "too many learner members".
func (v *vars) addMember(ctx context.Context, members memberStore, request etcdRequest) (any, error) {
	address := strings.TrimSuffix(strings.TrimPrefix(request.PeerAddress, "https://"), ":2380")
	all, err := members.AddLearner(ctx, strings.Trim(address, "[]"))
	if err != nil {
		return nil, err
	}
	var answer etcdResponse
	for _, m := range all {
		name := m.Name
		if len(m.PeerURLs) == 0 {
			continue
		}
		if m.PeerURLs[0] == request.PeerAddress {
			name = request.Node
		}
		answer.InitialCluster = append(answer.InitialCluster, name+"="+m.PeerURLs[0])
	}
	key, keyErr := os.ReadFile(filepath.Join(v.etcdPKI, "ca.key"))
	cert, certErr := os.ReadFile(filepath.Join(v.etcdPKI, "ca.crt"))
	answer.CA = caResponse{Key: key, Cert: cert}
	return answer, errors.Join(keyErr, certErr)
}

// bearerClient speaks to a server of a token.
type bearerClient struct {
	server, bearer string
	http           *http.Client
}

func (t *joinToken) client() (*bearerClient, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(t.ca) {
		return nil, errors.New("the join token has no CA certificate in it")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	return &bearerClient{server: t.server, bearer: t.bearer(), http: &http.Client{Timeout: 10 * time.Second, Transport: transport}}, nil
}

func (c *bearerClient) do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, c.server+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+c.bearer)
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 1<<22))
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return &standin.StatusError{Code: response.StatusCode, Message: string(bytes.TrimSpace(data))}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// retry calls f up to n times, with growing pauses: what k0s does before it gives up and systemd starts it again.
func retry(ctx context.Context, n int, f func(context.Context) error) error {
	pause := time.Second
	for i := 1; ; i++ {
		err := f(ctx)
		if err == nil || i == n {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(pause):
		}
		if pause < 8*time.Second {
			pause *= 2
		}
	}
}

// join fetches the keys of a cluster, and the members to start etcd with.
func (v *vars) join(ctx context.Context, token *joinToken, config *ClusterConfig, name string) ([]standin.Member, error) {
	client, err := token.client()
	if err != nil {
		return nil, fmt.Errorf("failed to join controller: %w", err)
	}
	var keys caResponse
	if err := retry(ctx, 4, func(ctx context.Context) error { return client.do(ctx, http.MethodGet, "/v1beta1/ca", nil, &keys) }); err != nil {
		return nil, fmt.Errorf("failed to join controller: failed to join existing cluster via %s: %w", token.server, err)
	}
	files := map[string][]byte{"ca.key": keys.Key, "ca.crt": keys.Cert, "sa.key": keys.SAKey, "sa.pub": keys.SAPub}
	for file, data := range files {
		mode := os.FileMode(0o640)
		if !strings.HasSuffix(file, ".key") {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(v.pki, file), data, mode); err != nil {
			return nil, err
		}
	}
	var answer etcdResponse
	request := etcdRequest{Node: name, PeerAddress: standin.PeerURL(config.Spec.Storage.Etcd.PeerAddress)}
	if err := retry(ctx, 8, func(ctx context.Context) error {
		return client.do(ctx, http.MethodPost, "/v1beta1/etcd/members", request, &answer)
	}); err != nil {
		return nil, fmt.Errorf("failed to sync etcd config: failed to synchronize etcd config with existing cluster via %s: %w", token.server, err)
	}
	if err := os.MkdirAll(v.etcdPKI, 0o711); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(v.etcdPKI, "ca.key")); err != nil { // one that is there is kept, as k0s does
		for file, data := range map[string][]byte{"ca.key": answer.CA.Key, "ca.crt": answer.CA.Cert} {
			if err := os.WriteFile(filepath.Join(v.etcdPKI, file), data, 0o640); err != nil {
				return nil, err
			}
		}
	}
	var members []standin.Member
	for _, m := range answer.InitialCluster {
		name, url, _ := strings.Cut(m, "=")
		members = append(members, standin.Member{Name: name, PeerURLs: []string{url}})
	}
	return members, nil
}
