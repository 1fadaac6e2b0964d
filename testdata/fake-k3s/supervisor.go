package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clusterimage/keg/internal/standin"
)

// critical are the settings that servers must have in common.
// https://docs.k3s.io/cli/server#critical-configuration-values
type critical struct {
	ClusterCIDR, ServiceCIDR, ClusterDomain, FlannelBackend, EgressSelectorMode, EncryptProvider                                          string
	ClusterDNS                                                                                                                            []string
	DisableCCM, DisableHelmController, DisableNPC, DisableServiceLB, EmbeddedRegistry, FlannelExternalIP, FlannelIPv6Masq, EncryptSecrets bool
}

func (c *config) critical() critical {
	serviceLB := false
	for _, d := range c.list("disable") {
		serviceLB = serviceLB || d == "servicelb"
	}
	return critical{
		ClusterCIDR: c.clusterCIDR, ServiceCIDR: c.serviceCIDR, ClusterDomain: c.clusterDomain, FlannelBackend: c.flannelBackend, ClusterDNS: c.clusterDNS,
		EgressSelectorMode: c.or("egress-selector-mode", "agent"), EncryptProvider: c.or("secrets-encryption-provider", "aescbc"),
		DisableCCM: c.bool("disable-cloud-controller"), DisableHelmController: c.bool("disable-helm-controller"), DisableNPC: c.bool("disable-network-policy"),
		DisableServiceLB: serviceLB, EmbeddedRegistry: c.bool("embedded-registry"), FlannelExternalIP: c.bool("flannel-external-ip"),
		FlannelIPv6Masq: c.bool("flannel-ipv6-masq"), EncryptSecrets: c.bool("secrets-encryption"),
	}
}

// clusterConfig is what a server tells agents and other servers.
type clusterConfig struct {
	CriticalControlArgs critical
	Version             string
}

// supervisor answers on 6443: its own paths, and the API for all others.
type supervisor struct {
	c       *config
	ca      authorities
	mu      sync.Mutex
	pass    passwords
	api     atomic.Pointer[http.Handler]                         // nil until the API is up
	admin   atomic.Pointer[standin.Client]                       // of the API
	servers func(context.Context) ([]string, error)              // host:port
	members func(context.Context) ([]standin.Member, error)      // of etcd
	rotate  func(ctx context.Context, old, next passwords) error // of bootstrap data
	light   http.Handler                                         // replication of the light mode
}

func (s *supervisor) passwords() passwords {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pass
}

// listen serves until ctx ends.
func (s *supervisor) listen(ctx context.Context) error {
	cert, err := tls.LoadX509KeyPair(s.c.tls("serving-kube-apiserver.crt"), s.c.tls("serving-kube-apiserver.key"))
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	clients.AddCert(s.ca.client.Cert)
	config := &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: clients, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(s.c.get("bind-address"), s.c.or("https-listen-port", "6443")))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.handler(), TLSConfig: config, ReadHeaderTimeout: 10 * time.Second, ErrorLog: nil}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	go func() { _ = server.ServeTLS(listener, "", "") }()
	return nil
}

func (s *supervisor) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "pong") })
	mux.HandleFunc("GET /cacerts", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(s.ca.server.CertPEM) })
	mux.HandleFunc("GET /v1-k3s/config", s.allow(true, func(w http.ResponseWriter, _ *http.Request, _ string) {
		writeJSON(w, clusterConfig{CriticalControlArgs: s.c.critical(), Version: version})
	}))
	mux.HandleFunc("GET /v1-k3s/apiservers", s.allow(true, func(w http.ResponseWriter, r *http.Request, _ string) {
		list, err := s.servers(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeJSON(w, list)
	}))
	for _, name := range []string{"client-ca", "server-ca"} {
		mux.HandleFunc("GET /v1-k3s/"+name+".crt", s.allow(true, func(w http.ResponseWriter, _ *http.Request, _ string) {
			if data, err := os.ReadFile(s.c.tls(name + ".crt")); err == nil {
				_, _ = w.Write(data)
			}
		}))
	}
	mux.HandleFunc("POST /v1-k3s/client-kubelet.crt", s.allow(true, s.sign))
	mux.HandleFunc("POST /v1-k3s/serving-kubelet.crt", s.allow(true, s.sign))
	mux.HandleFunc("POST /v1-k3s/client-k3s-controller.crt", s.allow(true, s.sign))
	mux.HandleFunc("GET /v1-k3s/server-bootstrap", s.allow(false, func(w http.ResponseWriter, _ *http.Request, _ string) {
		data, err := s.c.readBootstrap()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, data)
	}))
	mux.HandleFunc("GET /db/info", s.allow(false, func(w http.ResponseWriter, r *http.Request, _ string) {
		members, err := s.members(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeJSON(w, members)
	}))
	mux.HandleFunc("PUT /v1-k3s/token", s.allow(false, s.rotateToken))
	if s.light != nil {
		mux.Handle("POST /v1-k3s/light/", s.allow(false, func(w http.ResponseWriter, r *http.Request, _ string) { s.light.ServeHTTP(w, r) }))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		api := s.api.Load()
		if api == nil {
			http.Error(w, "apiserver not ready", http.StatusServiceUnavailable)
			return
		}
		(*api).ServeHTTP(w, r)
	})
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// allow lets servers in, and agents too if so said: by password, client certificate or, agents, by bootstrap token.
func (s *supervisor) allow(agents bool, f func(http.ResponseWriter, *http.Request, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who := s.authenticate(r)
		switch {
		case who == "":
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
		case who == "server" || agents:
			f(w, r, who)
		default:
			http.Error(w, "Forbidden", http.StatusForbidden)
		}
	}
}

// authenticate returns server, node or nothing.
func (s *supervisor) authenticate(r *http.Request) string {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		for _, o := range subject.Organization {
			switch o {
			case "system:nodes":
				return "node"
			case "system:masters":
				return "server"
			}
		}
	}
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		if s.bootstrapTokenValid(r.Context(), bearer) {
			return "node"
		}
		return ""
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		return ""
	}
	pass := s.passwords()
	same := func(want string) bool {
		a, b := sha256.Sum256([]byte(password)), sha256.Sum256([]byte(want))
		return want != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
	}
	switch {
	case user == "server" && same(pass.server):
		return "server"
	case user == "node" && (same(pass.node) || same(pass.server)):
		return "node"
	}
	return ""
}

func (s *supervisor) bootstrapTokenValid(ctx context.Context, text string) bool {
	id, secret, ok := strings.Cut(text, ".")
	client := s.admin.Load()
	if !ok || client == nil || !bootstrapToken.MatchString(text) {
		return false
	}
	var object struct{ Data map[string][]byte }
	if err := client.Get(ctx, secretPath("bootstrap-token-"+id), &object); err != nil {
		return false
	}
	if subtle.ConstantTimeCompare(object.Data["token-secret"], []byte(secret)) != 1 || string(object.Data["usage-bootstrap-authentication"]) != "true" {
		return false
	}
	if expiry := string(object.Data["expiration"]); expiry != "" {
		at, err := time.Parse(time.RFC3339, expiry)
		return err == nil && time.Now().Before(at)
	}
	return true
}

func secretPath(name string) string { return "/api/v1/namespaces/kube-system/secrets/" + name }

// sign answers an agent's certificate request, once its node password has been checked.
func (s *supervisor) sign(w http.ResponseWriter, r *http.Request, _ string) {
	node, password := r.Header.Get("k3s-Node-Name"), r.Header.Get("k3s-Node-Password")
	if node == "" || password == "" {
		http.Error(w, "node name and password are required", http.StatusBadRequest)
		return
	}
	client := s.admin.Load()
	if client == nil {
		http.Error(w, "runtime core not ready", http.StatusServiceUnavailable)
		return
	}
	if err := checkNodePassword(r.Context(), client, node, password); err != nil {
		code := http.StatusServiceUnavailable
		if errors.Is(err, errNodePassword) {
			code = http.StatusForbidden
		}
		http.Error(w, err.Error(), code)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	public, err := standin.RequestedKey(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var data []byte
	switch {
	case strings.HasSuffix(r.URL.Path, "/client-kubelet.crt"):
		data, err = s.ca.client.Sign(public, standin.Leaf{CommonName: "system:node:" + node, Organizations: []string{"system:nodes"}, Client: true})
	case strings.HasSuffix(r.URL.Path, "/serving-kubelet.crt"):
		hosts := append([]string{node, "localhost", "127.0.0.1"}, strings.Split(r.Header.Get("k3s-Node-IP"), ",")...)
		data, err = s.ca.server.Sign(public, standin.Leaf{CommonName: node, Hosts: hosts, Server: true})
	default:
		data, err = s.ca.client.Sign(public, standin.Leaf{CommonName: "system:k3s-controller", Client: true})
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(data)
}

var errNodePassword = errors.New("Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match server node-passwd entry, try enabling a unique node name with the --with-node-id flag") //nolint:staticcheck // the words of the real one

func passwordHash(salt, password string) string {
	sum := sha256.Sum256([]byte(salt + password))
	return "$1:" + salt + ":" + hex.EncodeToString(sum[:])
}

// checkNodePassword compares with secret NODE.node-password.k3s, and makes that at the first time.
func checkNodePassword(ctx context.Context, client *standin.Client, node, password string) error {
	name := node + ".node-password.k3s"
	var secret struct{ Data map[string][]byte }
	err := client.Get(ctx, secretPath(name), &secret)
	if standin.IsStatus(err, http.StatusNotFound) {
		return client.Create(ctx, secretPath(""), map[string]any{
			"apiVersion": "v1", "kind": "Secret", "immutable": true, "metadata": map[string]any{"name": name, "namespace": "kube-system"},
			"data": map[string][]byte{"hash": []byte(passwordHash(randomHex(8), password))},
		})
	}
	if err != nil {
		return err
	}
	hash := string(secret.Data["hash"])
	if f := strings.Split(hash, ":"); len(f) != 3 || passwordHash(f[1], password) != hash {
		return errNodePassword
	}
	return nil
}

// rotateToken encrypts the bootstrap data with a new token. Servers must be restarted with it afterwards.
func (s *supervisor) rotateToken(w http.ResponseWriter, r *http.Request, _ string) {
	var body struct {
		NewToken string `json:"newToken"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&body); err != nil || body.NewToken == "" {
		http.Error(w, "no new token", http.StatusBadRequest)
		return
	}
	next, err := parseToken(body.NewToken)
	if err != nil || next.password == "" {
		http.Error(w, "the new token is not usable", http.StatusBadRequest)
		return
	}
	old := s.passwords()
	changed := passwords{server: next.password, node: old.node}
	if old.node == old.server {
		changed.node = next.password
	}
	if err := s.rotate(r.Context(), old, changed); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.mu.Lock()
	s.pass = changed
	s.mu.Unlock()
	fmt.Fprintln(w, "ok")
}

// apiProxy passes requests on to the API server. Who has shown a certificate is named to it by request headers,
// as TLS ends here; tokens are passed on as they are.
func (s *supervisor) apiProxy(target string) (http.Handler, error) {
	cert, err := tls.LoadX509KeyPair(s.c.tls("client-auth-proxy.crt"), s.c.tls("client-auth-proxy.key"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.server.Cert)
	transport := func(known, http2 bool) *http.Transport {
		config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		if known {
			config.Certificates = []tls.Certificate{cert}
		}
		if !http2 {
			config.NextProtos = []string{"http/1.1"}
		}
		return &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: http2, MaxIdleConnsPerHost: 32, IdleConnTimeout: 30 * time.Second}
	}
	transports := map[[2]bool]*http.Transport{{true, true}: transport(true, true), {true, false}: transport(true, false), {false, true}: transport(false, true), {false, false}: transport(false, false)}
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	return &httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			for name := range r.Out.Header {
				if strings.HasPrefix(name, "X-Remote-") {
					r.Out.Header.Del(name)
				}
			}
			if r.In.TLS != nil && len(r.In.TLS.VerifiedChains) > 0 {
				subject := r.In.TLS.VerifiedChains[0][0].Subject
				r.Out.Header.Set("X-Remote-User", subject.CommonName)
				r.Out.Header["X-Remote-Group"] = subject.Organization
			}
		},
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return transports[[2]bool{r.Header.Get("X-Remote-User") != "", r.Header.Get("Upgrade") == ""}].RoundTrip(r)
		}),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
