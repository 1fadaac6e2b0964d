package transfer

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/clusterimage/keg/internal/registrytest"
)

// fixed gives one user's credentials to everybody who asks.
type fixed authn.AuthConfig

func (f fixed) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(f)), nil
}

var ada = fixed{Username: "ada", Password: "s3cret"}

func TestCredentialsDoNotFollowRedirects(t *testing.T) {
	backend := registrytest.Handler()
	var mu sync.Mutex
	var seen []string
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Header.Get("Authorization"))
		mu.Unlock()
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(storage.Close)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != ada.Username || password != ada.Password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if isBlobGet(r) {
			http.Redirect(w, r, storage.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	s := newStore(t)
	desc := clusterImage(t, s)
	ref := mustRef(t, strings.TrimPrefix(front.URL, "http://")+"/a/b:c")
	c := newClient(Options{Keychain: ada})
	if _, err := c.Push(t.Context(), s, desc, ref, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	back := newStore(t)
	if _, err := c.Pull(t.Context(), back, ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	served{s: s}.same(t, back)
	if len(seen) == 0 {
		t.Error("nothing was read from the other host")
	}
	for _, h := range seen {
		if h != "" {
			t.Errorf("the other host was sent %q", h)
		}
	}
}

// tokens is a registry that wants a token for each scope and forgets each after so many uses.
type tokens struct {
	next   http.Handler
	uses   int
	issued atomic.Int32

	mu     sync.Mutex
	left   map[string]int
	scopes map[string]string
}

func (a *tokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.URL.Path == "/token" {
		user, password, ok := r.BasicAuth()
		if !ok || user != ada.Username || password != ada.Password {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}`)
			return
		}
		token := fmt.Sprintf("token-%d", a.issued.Add(1))
		a.left[token] = a.uses
		a.scopes[token] = strings.Join(r.URL.Query()["scope"], " ")
		_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
		return
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	repo := strings.Join(strings.SplitN(strings.TrimPrefix(r.URL.Path, "/v2/"), "/", 3)[:min(2, strings.Count(r.URL.Path, "/")-1)], "/")
	if a.left[token] == 0 || repo != "" && !strings.Contains(a.scopes[token], "repository:"+repo+":") {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	a.left[token]--
	a.next.ServeHTTP(w, r)
}

func TestTokens(t *testing.T) {
	// A token that is good for few requests expires at every kind of request, uploads too.
	for _, uses := range []int{1, 2, 3, 5, 1000} {
		t.Run(fmt.Sprint(uses), func(t *testing.T) {
			auth := &tokens{next: registrytest.Handler(), uses: uses, left: map[string]int{}, scopes: map[string]string{}}
			srv := httptest.NewServer(auth)
			t.Cleanup(srv.Close)
			addr := strings.TrimPrefix(srv.URL, "http://")
			s := newStore(t)
			desc := clusterImage(t, s)
			ref := mustRef(t, addr+"/a/b:c")
			c := newClient(Options{Keychain: ada, Parallelism: 1})
			c.documents = c.blobs // one request at a time: none uses up the token that another just got
			if _, err := c.Push(t.Context(), s, desc, ref, PushOptions{MountFrom: []string{"x/y"}}); err != nil {
				t.Fatal(err)
			}
			back := newStore(t)
			if _, err := c.Pull(t.Context(), back, ref, PullOptions{}); err != nil {
				t.Fatal(err)
			}
			served{s: s}.same(t, back)
			_, err := newClient(Options{Keychain: fixed{Username: "ada", Password: "wrong"}}).Pull(t.Context(), newStore(t), ref, PullOptions{})
			if !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "incorrect username") {
				t.Errorf("wrong password: %v", err)
			}
		})
	}
}

// named sends what is meant for any host to addr.
func named(addr string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
}

func TestPlainHTTP(t *testing.T) {
	rec := &recorder{}
	addr := registrytest.Start(t, rec.wrap)
	s := newStore(t)
	desc := clusterImage(t, s)
	for _, tt := range []struct {
		registry string
		insecure []string
		allowed  bool
	}{
		{"127.0.0.1:5000", nil, true},
		{"127.3.2.1:5000", nil, true},
		{"localhost:5000", nil, true},
		{"[::1]:5000", nil, true},
		{"registry.example.com", nil, false},
		{"registry.example.com:5000", nil, false},
		{"10.1.2.3:5000", nil, false},
		{"192.168.1.1:5000", nil, false},
		{"registry.local:5000", nil, false},
		{"127.0.0.1.example.com:5000", nil, false},
		{"localhost.example.com:5000", nil, false},
		{"registry.example.com:5000", []string{"other.example.com"}, false},
		{"registry.example.com:5000", []string{"registry.example.com:6000"}, false},
		{"registry.example.com:5000", []string{"registry.example.com:5000"}, true},
		{"registry.example.com:5000", []string{"registry.example.com"}, true},
		{"10.1.2.3:5000", []string{"*"}, true},
	} {
		t.Run(tt.registry+strings.Join(tt.insecure, ","), func(t *testing.T) {
			rec.reset()
			c := newClient(Options{Transport: named(addr), Insecure: tt.insecure})
			_, err := c.Push(t.Context(), s, desc, mustRef(t, tt.registry+"/a/b:c"), PushOptions{})
			if tt.allowed && err != nil {
				t.Error(err)
			}
			if !tt.allowed && (!errors.Is(err, ErrPlainHTTP) || errors.Is(err, ErrUnreachable)) {
				t.Errorf("error %v, want ErrPlainHTTP", err)
			}
			if !tt.allowed && len(rec.requests) > 0 {
				t.Errorf("sent %v", rec.requests)
			}
		})
	}
}

func TestRedirectToPlainHTTP(t *testing.T) {
	rec := &recorder{}
	addr := registrytest.Start(t, rec.wrap)
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		http.Redirect(w, r, "http://storage.example.com"+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(front.Close)
	tr := front.Client().Transport.(*http.Transport).Clone()
	tr.DialContext = func(ctx context.Context, network, to string) (net.Conn, error) {
		if strings.HasPrefix(to, "storage.") {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
		return (&net.Dialer{}).DialContext(ctx, network, to)
	}
	_, _, err := newClient(Options{Transport: tr}).Resolve(t.Context(), mustRef(t, front.Listener.Addr().String()+"/a/b:c"))
	if !errors.Is(err, ErrPlainHTTP) || len(rec.requests) > 0 {
		t.Errorf("error %v, sent %v", err, rec.requests)
	}
}

func TestCertificates(t *testing.T) {
	srv := httptest.NewUnstartedServer(registrytest.Handler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().String()
	const registry = "example.com:5000" // httptest's certificate is for example.com
	s := newStore(t)
	desc := clusterImage(t, s)
	push := func(o Options) error {
		o.Transport = named(addr)
		_, err := newClient(o).Push(t.Context(), s, desc, mustRef(t, registry+"/a/b:c"), PushOptions{})
		return err
	}
	var unverified *tls.CertificateVerificationError
	if err := push(Options{}); !errors.As(err, &unverified) || errors.Is(err, ErrUnreachable) {
		t.Errorf("unknown authority: %v", err)
	}
	if err := push(Options{Insecure: []string{"other.example.com"}}); !errors.As(err, &unverified) {
		t.Errorf("unknown authority, another registry is insecure: %v", err)
	}
	if err := push(Options{Insecure: []string{registry}}); err != nil {
		t.Errorf("insecure: %v", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, registry), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, registry, "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := push(Options{CertDir: dir}); err != nil {
		t.Errorf("authority in CertDir: %v", err)
	}
	if err := os.WriteFile(file, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := push(Options{CertDir: dir}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("rubbish in CertDir: %v", err)
	}
}

func TestOffline(t *testing.T) {
	v := serve(t)
	s, err := v.pull(t, Options{})
	if err != nil {
		t.Fatal(err)
	}
	v.rec.reset()
	c := newClient(Options{Offline: true})
	if _, err := c.Pull(t.Context(), newStore(t), mustRef(t, v.name), PullOptions{}); !errors.Is(err, ErrOffline) || !strings.Contains(err.Error(), v.addr) {
		t.Errorf("pull by tag: %v", err)
	}
	if _, err := c.Push(t.Context(), v.s, v.desc, mustRef(t, v.name), PushOptions{}); !errors.Is(err, ErrOffline) {
		t.Errorf("push: %v", err)
	}
	if err := Login(t.Context(), c, v.addr, "a", "b", t.TempDir()); !errors.Is(err, ErrOffline) {
		t.Errorf("login: %v", err)
	}
	// What is there by its digest needs no registry.
	byDigest := mustRef(t, v.addr+"/shop/cluster@"+v.desc.Digest.String())
	if d, err := c.Pull(t.Context(), s, byDigest, PullOptions{}); err != nil || d.Digest != v.desc.Digest {
		t.Errorf("pull by digest of what is there: %v, %v", d, err)
	}
	if len(v.rec.requests) > 0 {
		t.Errorf("sent %v", v.rec.requests)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, err = newClient(Options{}).Pull(t.Context(), newStore(t), mustRef(t, addr+"/a/b:c"), PullOptions{})
	re := (*RegistryError)(nil)
	if !errors.Is(err, ErrUnreachable) || !errors.As(err, &re) || re.Registry != addr || re.Status != 0 || !re.Temporary() {
		t.Errorf("error %v", err)
	}
	v := serve(t)
	_, err = newClient(Options{}).Pull(t.Context(), newStore(t), mustRef(t, v.addr+"/no/such:thing"), PullOptions{})
	if !errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnreachable) {
		t.Errorf("error %v", err)
	}
}

func TestKeychain(t *testing.T) {
	dir, bin := t.TempDir(), t.TempDir()
	write := func(path, text string, mode os.FileMode) string {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// dTpw is u:p, eDp5 is x:y, cjpz is r:s
	write(filepath.Join(dir, "config.json"), `{
		"auths": {"reg.example.com:5000": {"auth": "dTpw"}, "https://index.docker.io/v1/": {"auth": "eDp5"}},
		"credHelpers": {"helped.example.com": "kegtest", "broken.example.com": "kegmissing"}}`, 0o600)
	podman := write(filepath.Join(dir, "auth.json"), `{"auths": {"quay.io/team/app": {"auth": "cjpz"}, "quay.io": {"auth": "dTpw"}, "reg.example.com:5000": {"auth": "cjpz"}}}`, 0o600)
	write(filepath.Join(bin, "docker-credential-kegtest"), `#!/bin/sh
case $1 in
get) read host; echo '{"ServerURL":"'$host'","Username":"helper","Secret":"of '$host'"}' ;;
store) cat > `+filepath.Join(dir, "stored")+` ;;
erase) cat > `+filepath.Join(dir, "erased")+` ;;
esac
`, 0o700)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	k, err := Keychain(dir, podman, filepath.Join(dir, "missing.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ repo, user, password string }{
		{"reg.example.com:5000/a/b", "u", "p"},
		{"docker.io/library/nginx", "x", "y"},
		{"quay.io/team/app", "r", "s"},
		{"quay.io/team/app/deeper", "r", "s"},
		{"quay.io/team/other", "u", "p"},
		{"helped.example.com/a", "helper", "of helped.example.com"},
		{"unknown.example.com/a", "", ""},
	} {
		repo, err := name.NewRepository(tt.repo)
		if err != nil {
			t.Fatal(err)
		}
		auth, err := k.Resolve(repo)
		if err != nil {
			t.Errorf("%s: %v", tt.repo, err)
			continue
		}
		got, err := auth.Authorization()
		if err != nil || got.Username != tt.user || got.Password != tt.password {
			t.Errorf("%s: %+v, %v", tt.repo, got, err)
		}
	}
	repo, _ := name.NewRepository("broken.example.com/a")
	if _, err := k.Resolve(repo); err == nil || !strings.Contains(err.Error(), "broken.example.com") {
		t.Errorf("a helper that is not there: %v", err)
	}
	if _, err := Keychain(filepath.Dir(write(filepath.Join(bin, "config.json"), "{", 0o600))); err == nil {
		t.Error("rubbish was read as configuration")
	}

	// Login keeps with the helper what is to be kept with it.
	addr := registrytest.Start(t)
	other := t.TempDir()
	write(filepath.Join(other, "config.json"), `{"credHelpers": {"`+addr+`": "kegtest"}}`, 0o600)
	if err := Login(t.Context(), newClient(Options{}), addr, "ada", "s3cret", other); err != nil {
		t.Fatal(err)
	}
	stored, _ := os.ReadFile(filepath.Join(dir, "stored"))
	kept, _ := os.ReadFile(filepath.Join(other, "config.json"))
	if !strings.Contains(string(stored), "s3cret") || strings.Contains(string(kept), "auth\"") {
		t.Errorf("helper got %q, the file has %s", stored, kept)
	}
	if err := Logout(t.Context(), addr, other); err != nil {
		t.Fatal(err)
	}
	if erased, _ := os.ReadFile(filepath.Join(dir, "erased")); !strings.Contains(string(erased), addr) {
		t.Errorf("helper was told to erase %q", erased)
	}
}
