package buildkit_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clusterimage/keg/builder/buildkit"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	dir  string
	name string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t, dir: t.TempDir(), name: name}
	a.cert, a.key = a.sign(name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// file is NAME.crt or NAME.key.
func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) sign(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func TestRemoteTLS(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	ca.sign("server", &x509.Certificate{DNSNames: []string{"builder.example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	ca.sign("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	other.sign("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "tcp://" + l.Addr().String()
	_ = l.Close()
	daemon(t, "--addr", address, "--tlscacert", ca.file("ca.crt"), "--tlscert", ca.file("server.crt"), "--tlskey", ca.file("server.key"))
	good := buildkit.TLS{CA: ca.file("ca.crt"), Cert: ca.file("client.crt"), Key: ca.file("client.key")}
	named, wrongName := good, good
	named.Name, wrongName.Name = "builder.example.com", "example.com"
	// What a buildkitd has against this side's certificate does not always arrive before the end of the connection.
	for _, tt := range []struct {
		name string
		tls  buildkit.TLS
		want string
	}{
		{"both sides", good, ""},
		{"by name", named, ""},
		{"another name", wrongName, "not example.com"},
		{"another authority", buildkit.TLS{CA: other.file("other.crt"), Cert: good.Cert, Key: good.Key}, "unknown authority"},
		{"the system's authorities", buildkit.TLS{Cert: good.Cert, Key: good.Key}, "unknown authority"},
		{"no certificate", buildkit.TLS{CA: good.CA}, "dialing buildkitd " + address},
		{"a stranger's certificate", buildkit.TLS{CA: good.CA, Cert: other.file("client.crt"), Key: other.file("client.key")}, "dialing buildkitd " + address},
		{"no TLS", buildkit.TLS{}, "dialing buildkitd " + address},
		{"no such file", buildkit.TLS{CA: ca.file("none")}, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, buildkit.Options{Address: address, TLS: tt.tls})
			_, err := r.try("FROM base:v1\nRUN echo x >/x\n", "", "x:v1")
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, not %q", err, tt.want)
			}
		})
	}
	if _, _, err := buildkit.Dial(t.Context(), "unix:///nowhere", good); !errors.Is(err, buildkit.ErrTLS) {
		t.Errorf("a socket: %v", err)
	}
}
