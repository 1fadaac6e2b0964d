package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/clusterimage/keg/imagestore"
	"github.com/clusterimage/keg/imagestore/clusterimage"
	"github.com/clusterimage/keg/runtime/node"
	"github.com/clusterimage/keg/runtime/node/host"
	"github.com/clusterimage/keg/runtime/pki"
)

// most is how large keg-node may be: it is sent to every host, twice is embedded in keg.
const most = 12 << 20

func TestSize(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: building for two architectures takes time")
	}
	for _, arch := range []string{"amd64", "arm64"} {
		out := filepath.Join(t.TempDir(), "keg-node")
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building for %s: %v\n%s", arch, err, text)
		}
		st, err := os.Stat(out)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.1f MB", arch, float64(st.Size())/(1<<20))
		if st.Size() >= most {
			t.Errorf("keg-node for %s has %d bytes, %d are too many", arch, st.Size(), most)
		}
	}
}

func TestImports(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", ".")
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing imports: %v", err)
	}
	for pkg := range strings.Lines(string(out)) {
		pkg = strings.TrimSpace(pkg)
		for _, banned := range []string{
			"github.com/moby/buildkit", "helm.sh/", "golang.org/x/crypto/ssh", "github.com/google/go-containerregistry/pkg/v1/remote",
			"k8s.io/", "google.golang.org/grpc", "github.com/spf13/cobra",
			"github.com/clusterimage/keg/runtime/remote", "github.com/clusterimage/keg/builder", "github.com/clusterimage/keg/imagestore/transfer",
		} {
			if pkg == strings.TrimSuffix(banned, "/") || strings.HasPrefix(pkg, strings.TrimSuffix(banned, "/")+"/") {
				t.Errorf("keg-node imports %s", pkg)
			}
		}
	}
}

func TestUsage(t *testing.T) {
	for _, tc := range []struct {
		args     []string
		code     int
		out, log string
	}{
		{[]string{"--version"}, 0, "keg-node ", ""},
		{nil, 2, "", "usage: keg-node VERB"},
		{[]string{"dance"}, 2, "", "facts lock state"},
		{[]string{"facts", "more"}, 2, "", "usage"},
		{[]string{"facts"}, 1, `"kind":"bad-request"`, "reading request"},
	} {
		var out, log bytes.Buffer
		if code := run(t.Context(), tc.args, strings.NewReader(""), &out, &log); code != tc.code || !strings.Contains(out.String(), tc.out) || !strings.Contains(log.String(), tc.log) {
			t.Errorf("keg-node %q: code %d, stdout %q, stderr %q", tc.args, code, out.String(), log.String())
		}
	}
}

const childEnv = "KEG_NODE_TEST_ROOT"

// TestRegistryChild is keg-node registry on a pretended host, with main's signals and notification.
func TestRegistryChild(t *testing.T) {
	root := os.Getenv(childEnv)
	if root == "" {
		t.Skip("it is a part of TestRegistry")
	}
	ctx, stop := signals()
	defer stop()
	h := &host.Host{Root: root, Log: os.Stderr, Ready: notifyReady}
	if err := h.Do(ctx, node.VerbRegistry, nil, os.Stdout); err != nil {
		t.Fatal(err)
	}
}

// TestRegistry serves an embedded image over TLS, from a process that says when it is ready and ends on SIGTERM.
func TestRegistry(t *testing.T) {
	root := t.TempDir()
	index, manifest := clusterImage(t, filepath.Join(root, node.StoreDir))
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Server([]string{"registry.cluster.local"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := probe.Addr().String()
	_ = probe.Close()
	config, err := json.Marshal(node.RegistryConfig{Listen: addr, CertFile: "/tls.crt", KeyFile: "/tls.key", Indexes: []digest.Digest{index}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{node.RegistryConfigFile: config, "/tls.crt": cert, "/tls.key": key} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRegistryChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+root, "NOTIFY_SOCKET="+socket)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		_, _ = systemd.WriteTo([]byte("ended"), systemd.LocalAddr()) // so that the next read does not wait for ever
	}()
	ready := make([]byte, 100)
	if n, err := systemd.Read(ready); err != nil || string(ready[:n]) != "READY=1" {
		t.Fatalf("it said %q, %v\n%s", ready[:n], err, log.String())
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.CertPEM())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	for path, want := range map[string]int{
		"/v2/":                                     200,
		"/v2/shop/web/manifests/v1?ns=docker.io":   200,
		"/v2/shop/web/manifests/v1?ns=quay.io":     404,
		"/v2/shop/web/manifests/none?ns=docker.io": 404,
	} {
		resp, err := client.Get("https://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != want {
			t.Errorf("GET %s: %s, %v", path, resp.Status, err)
		}
		if strings.Contains(path, "v1?ns=docker") && digest.FromBytes(body) != manifest {
			t.Errorf("GET %s gave %s", path, body)
		}
	}
	if _, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if n, err := systemd.Read(ready); err != nil || string(ready[:n]) != "ended" {
		t.Errorf("after SIGTERM: %q, %v", ready[:n], err)
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("it ended with code %d\n%s", code, log.String())
	}
}

// clusterImage makes a store with a cluster image in it that embeds docker.io/shop/web:v1.
func clusterImage(t *testing.T, dir string) (index, manifest digest.Digest) {
	t.Helper()
	s, err := imagestore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, v any) ocispec.Descriptor {
		d, err := s.PutJSON(t.Context(), mediaType, v)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	image := func(arch string) ocispec.Descriptor {
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: put(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}})}
		m.SchemaVersion = 2
		return put(ocispec.MediaTypeImageManifest, m)
	}
	rootfs, web := image("amd64"), image("arm64")
	rootfs.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	idx := put(ocispec.MediaTypeImageIndex, clusterimage.Image{
		Rootfs:   []ocispec.Descriptor{rootfs},
		Embedded: []clusterimage.Embedded{{Name: "docker.io/shop/web:v1", Platform: "linux/arm64", Manifest: web}},
	}.Index())
	return idx.Digest, web.Digest
}
