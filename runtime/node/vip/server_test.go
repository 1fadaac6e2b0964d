package vip

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/pki"
)

// fakeAPI keeps one Lease as an API server does.
type fakeAPI struct {
	mu      sync.Mutex
	lease   map[string]any
	version int
	code    int // of /readyz
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer secret" && len(r.TLS.PeerCertificates) == 0 {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	const list = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
	switch r.Method + " " + r.URL.Path {
	case "GET /readyz":
		w.WriteHeader(f.code)
		return
	case "POST " + list, "PUT " + list + "/keg-vip":
		var l map[string]any
		if err := json.NewDecoder(r.Body).Decode(&l); err != nil || l["kind"] != "Lease" || l["apiVersion"] != "coordination.k8s.io/v1" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		meta, spec := l["metadata"].(map[string]any), l["spec"].(map[string]any)
		given, _ := meta["resourceVersion"].(string)
		if holder, ok := spec["holderIdentity"]; ok && holder == "" {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		switch {
		case r.Method == http.MethodPost && f.lease != nil, r.Method == http.MethodPut && f.lease != nil && given != strconv.Itoa(f.version):
			w.WriteHeader(http.StatusConflict)
			return
		case f.lease == nil: // with PUT as well
			w.WriteHeader(http.StatusCreated)
		}
		f.version++
		meta["resourceVersion"] = strconv.Itoa(f.version)
		f.lease = l
	case "GET " + list + "/keg-vip":
		if f.lease == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
	default:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(f.lease)
}

// serveAPI is a fakeAPI over TLS and a kubeconfig for it, with a client certificate or a token.
func serveAPI(t *testing.T, token string) (*fakeAPI, *httptest.Server, string) {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Server([]string{"api"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeAPI{code: 200}
	s := httptest.NewUnstartedServer(f)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	user := "token: " + token
	if token == "" {
		user = "client-certificate: client.crt\n    client-key-data: " + base64.StdEncoding.EncodeToString(key)
	}
	dir := t.TempDir()
	text := `apiVersion: v1
kind: Config
current-context: admin@keg
contexts:
- name: admin@keg
  context: {cluster: keg, user: admin}
clusters:
- name: keg
  cluster:
    server: ` + s.URL + `/
    certificate-authority-data: ` + base64.StdEncoding.EncodeToString(ca.CertPEM()) + `
users:
- name: admin
  user:
    ` + user + "\n"
	for name, data := range map[string][]byte{"admin.conf": []byte(text), "client.crt": cert} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f, s, filepath.Join(dir, "admin.conf")
}

func TestServer(t *testing.T) {
	for _, token := range []string{"", "secret"} {
		f, httpServer, file := serveAPI(t, token)
		s := &server{file: file, read: os.ReadFile}
		ctx := t.Context()
		if err := s.ready(ctx); err != nil {
			t.Fatal(err)
		}
		f.code = 500
		if err := s.ready(ctx); !errors.Is(err, errNotReady) {
			t.Errorf("ready: %v", err)
		}
		if _, err := s.get(ctx); !errors.Is(err, errNoLease) {
			t.Errorf("get: %v", err)
		}
		if _, err := s.put(ctx, lease{version: "7", holder: "a"}); err != nil {
			t.Errorf("a Lease that was deleted: %v", err)
		}
		f.lease = nil
		at := time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)
		want := lease{holder: "a", acquired: at, renewed: at.Add(time.Second), duration: leaseTime, transitions: 3}
		made, err := s.put(ctx, want)
		if err != nil {
			t.Fatal(err)
		}
		want.version = made.version
		got, err := s.get(ctx)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(lease{})); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
		if got := f.lease["spec"].(map[string]any)["renewTime"]; got != "2026-03-04T05:06:08.000008Z" {
			t.Errorf("renewTime %v", got)
		}
		if _, err := s.put(ctx, lease{holder: "b"}); !errors.Is(err, errConflict) {
			t.Errorf("making it twice: %v", err)
		}
		if _, err := s.put(ctx, made); err != nil {
			t.Error(err)
		}
		if _, err := s.put(ctx, made); !errors.Is(err, errConflict) {
			t.Errorf("an old version: %v", err)
		}
		free, err := s.get(ctx)
		if err != nil {
			t.Fatal(err)
		}
		free.holder = ""
		if free, err = s.put(ctx, free); err != nil || free.holder != "" {
			t.Errorf("giving it back: %v %v", free, err)
		}
		httpServer.Close()
		if err := s.ready(ctx); !errors.Is(err, errNotReady) {
			t.Errorf("an API server that is gone: %v", err)
		}
		if err := (&server{file: file + "x", read: os.ReadFile}).ready(ctx); !errors.Is(err, errNotReady) {
			t.Errorf("a kubeconfig that is not there yet: %v", err)
		}
	}
}

// TestRenewedKubeconfig: the certificates of the kubeconfig, and the CA, may be replaced.
func TestRenewedKubeconfig(t *testing.T) {
	_, _, file := serveAPI(t, "secret")
	_, _, other := serveAPI(t, "")
	s := &server{file: file, read: os.ReadFile}
	if err := s.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.read = func(name string) ([]byte, error) {
		if name == file {
			return os.ReadFile(other)
		}
		return os.ReadFile(filepath.Join(filepath.Dir(other), filepath.Base(name)))
	}
	if err := s.ready(t.Context()); err != nil {
		t.Error(err)
	}
	s.url = "https://127.0.0.1:1"
	s.data = nil
	if err := s.ready(t.Context()); !errors.Is(err, errNotReady) {
		t.Errorf("the server that the configuration names is not asked: %v", err)
	}
}

func TestBadKubeconfig(t *testing.T) {
	_, httpServer, file := serveAPI(t, "secret")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ from, to, want string }{
		{"current-context: admin", "current-context: other", "no cluster"},
		{"https://", "http://", "no cluster with an https server"},
		{"certificate-authority-data", "x-data", "no certificate authority"},
		{"token: secret", "x: y", "neither"},
		{"token: secret", "client-certificate-data: " + base64.StdEncoding.EncodeToString([]byte("x")), "client certificate"},
		{"kind: Config", "kind: [", "no kubeconfig"},
	} {
		s := &server{file: "/k", read: func(string) ([]byte, error) { return []byte(strings.Replace(string(data), tc.from, tc.to, 1)), nil }}
		if err := s.ready(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q", tc.to, err, tc.want)
		}
	}
	var unknown x509.UnknownAuthorityError
	_, _, foreign := serveAPI(t, "secret")
	s := &server{file: foreign, url: httpServer.URL, read: os.ReadFile}
	if err := s.ready(t.Context()); !errors.As(err, &unknown) || errors.Is(err, errNotReady) {
		t.Errorf("a server of another cluster: %v", err)
	}
}

func TestParse(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{`{"address":"10.0.0.100","kubeconfig":"/etc/kubernetes/admin.conf"}`, "10.0.0.100/32"},
		{`{"address":"10.0.0.100/24","kubeconfig":"/k","interface":"eth0","server":"https://10.0.0.1:6443","identity":"m1"}`, "10.0.0.100/24"},
		{`{"address":"fd00::5","kubeconfig":"/k"}`, "fd00::5/128"},
		{`{"address":"","kubeconfig":"/k"}`, "is no address"},
		{`{"address":"127.0.0.1","kubeconfig":"/k"}`, "for others"},
		{`{"address":"10.0.0.100/0","kubeconfig":"/k"}`, "for others"},
		{`{"address":"fe80::1","kubeconfig":"/k"}`, "for others"},
		{`{"address":"::ffff:10.0.0.1","kubeconfig":"/k"}`, "plain address"},
		{`{"address":"10.0.0.100","kubeconfig":"k"}`, "not absolute"},
		{`{"address":"10.0.0.100","kubeconfig":"/k","interface":"a/b"}`, "network device"},
		{`{"address":"10.0.0.100","kubeconfig":"/k","server":"http://a"}`, "not https"},
		{`{"address":"10.0.0.100","kubeconfig":"/k","server":"https://10.0.0.100:6443"}`, "itself"},
		{`{"address":"10.0.0.100","kubeconfig":"/k","lease":"1s"}`, "unknown field"},
		{`{"address":"10.0.0.100","kubeconfig":"/k"} {}`, "something stands after"},
	} {
		_, prefix, err := parse([]byte(tc.text))
		if err == nil && prefix.String() != tc.want || err != nil && (!strings.Contains(err.Error(), tc.want) || !errors.Is(err, &node.Error{Kind: node.KindRequest})) {
			t.Errorf("%s: %v, %v, want %q", tc.text, prefix, err, tc.want)
		}
	}
}
