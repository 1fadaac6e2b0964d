package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"
)

var day = time.Date(2026, 11, 23, 4, 5, 6, 7, time.FixedZone("x", 3600))

func seeded(n byte) Option { return Random(rand.NewChaCha8([32]byte{n})) }

func newCA(t *testing.T, opts ...Option) *CA {
	t.Helper()
	ca, err := NewCA("registry of shop", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestEqualRandomnessGivesEqualCertificates(t *testing.T) {
	a, b := newCA(t, At(day), seeded(1)), newCA(t, At(day), seeded(1))
	if !bytes.Equal(a.CertPEM(), b.CertPEM()) || !bytes.Equal(a.KeyPEM(), b.KeyPEM()) {
		t.Error("equal randomness and time gave different authorities")
	}
	if c := newCA(t, At(day), seeded(2)); bytes.Equal(a.KeyPEM(), c.KeyPEM()) {
		t.Error("other randomness gave the same key")
	}
	if c := newCA(t); bytes.Equal(c.KeyPEM(), newCA(t).KeyPEM()) {
		t.Error("two authorities have one key")
	}
}

func TestServerIsAcceptedByTLS(t *testing.T) {
	ca := newCA(t)
	ca, err := ParseCA(ca.CertPEM(), ca.KeyPEM())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Server([]string{"registry.cluster.local"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.CertPEM())
	srv := httptest.NewUnstartedServer(nil)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	for name, want := range map[string]bool{"registry.cluster.local": true, "127.0.0.1": true, "docker.io": false} {
		d := tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: name}}
		c, err := d.DialContext(t.Context(), "tcp", srv.Listener.Addr().String())
		if (err == nil) != want {
			t.Errorf("handshake with %s: %v, want accepted: %v", name, err, want)
		}
		if err == nil {
			_ = c.Close()
		}
	}
}

func TestCovers(t *testing.T) {
	ca, other := newCA(t, At(day)), newCA(t, At(day))
	names, ips := []string{"r.local"}, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	cert, _, err := ca.Server(names, ips, At(day))
	if err != nil {
		t.Fatal(err)
	}
	foreign, _, err := other.Server(names, ips, At(day))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		cert  []byte
		names []string
		ips   []netip.Addr
		at    time.Time
		want  bool
	}{
		{"same", cert, names, ips, day, true},
		{"fewer", cert, nil, ips[:1], day, true},
		{"slow clock", cert, names, ips, day.Add(-23 * time.Hour), true},
		{"last year of the authority", cert, names, ips, day.Add(Lifetime - time.Hour), true},
		{"over", cert, names, ips, day.Add(Lifetime + time.Hour), false},
		{"other name", cert, []string{"x.local"}, ips, day, false},
		{"other address", cert, names, []netip.Addr{netip.MustParseAddr("10.0.0.2")}, day, false},
		{"other authority", foreign, names, ips, day, false},
		{"no certificate", []byte("x"), names, ips, day, false},
	} {
		if got := ca.Covers(tc.cert, tc.names, tc.ips, At(tc.at)); got != tc.want {
			t.Errorf("%s: Covers = %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestParseCARefuses(t *testing.T) {
	a, b := newCA(t), newCA(t)
	cert, key, err := a.Server([]string{"x"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string][2][]byte{
		"nothing":        {nil, nil},
		"swapped":        {a.KeyPEM(), a.CertPEM()},
		"foreign key":    {a.CertPEM(), b.KeyPEM()},
		"server's":       {cert, key},
		"truncated cert": {a.CertPEM()[:100], a.KeyPEM()},
	} {
		if _, err := ParseCA(tc[0], tc[1]); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, _, err := a.Server(nil, nil); err == nil {
		t.Error("a certificate for nobody was made")
	}
	if _, err := NewCA("x", Random(bytes.NewReader(make([]byte, 4000)))); err == nil {
		t.Error("zeros were taken for randomness")
	}
}
