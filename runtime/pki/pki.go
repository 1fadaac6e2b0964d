// Package pki makes the certificate authority that each cluster has for its registry, and the
// registry's certificate. It does no I/O: keys and certificates are PEM that the caller keeps.
//
// Lifetimes: the authority lives ten years and every certificate ends with it. Nothing renews them
// by a clock, since a cluster in an air gap may run untouched for years and its registry must still
// answer when a pod has to be moved on some bad day; every `keg run` makes a new certificate if the old
// one nears its end (see CA.Covers) or lacks a name. The authority signs nothing but this registry: a
// stolen key of it lets somebody serve images to that one cluster, for which he must be in its network.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"time"
)

const (
	// Lifetime is that of an authority.
	Lifetime = 10 * 365 * 24 * time.Hour
	// Renewal is how long before its end a certificate no longer Covers.
	Renewal = 365 * 24 * time.Hour
	// backdate lets hosts whose clocks are slow accept a certificate made just now.
	backdate = 24 * time.Hour
)

// CA is a certificate authority.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Option replaces what the machine gives.
type Option func(*source)

type source struct {
	now    time.Time
	random io.Reader
}

// At makes it another time than now.
func At(now time.Time) Option { return func(s *source) { s.now = now } }

// Random is where keys and serial numbers come from; crypto/rand otherwise. Equal bytes give equal
// certificates.
func Random(r io.Reader) Option { return func(s *source) { s.random = r } }

func sourceOf(opts []Option) source {
	s := source{now: time.Now(), random: rand.Reader}
	for _, o := range opts {
		o(&s)
	}
	s.now = s.now.UTC().Truncate(time.Second)
	return s
}

// NewCA makes an authority whose subject is name.
func NewCA(name string, opts ...Option) (*CA, error) {
	s := sourceOf(opts)
	key, err := newKey(s.random)
	if err != nil {
		return nil, fmt.Errorf("making certificate authority: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name, Organization: []string{"keg"}},
		NotBefore:             s.now.Add(-backdate),
		NotAfter:              s.now.Add(Lifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	cert, err := sign(s, template, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("making certificate authority: %w", err)
	}
	return &CA{cert: cert, key: key}, nil
}

// ParseCA reads what CertPEM and KeyPEM gave.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("reading certificate authority: %w", err)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("reading certificate authority: the key is no PEM block of a PRIVATE KEY")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading certificate authority: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !cert.IsCA || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("reading certificate authority: certificate and key do not belong together")
	}
	return &CA{cert: cert, key: key}, nil
}

func parseCert(certPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("the certificate is no PEM block of a CERTIFICATE")
	}
	return x509.ParseCertificate(block.Bytes)
}

// CertPEM is the authority's certificate, for those who are to trust it.
func (ca *CA) CertPEM() []byte { return certPEM(ca.cert) }

// KeyPEM is the authority's key: PKCS #8, not encrypted.
func (ca *CA) KeyPEM() []byte { return keyPEM(ca.key) }

// Server makes a key and a certificate for a TLS server of these names and addresses, as PEM. It ends
// with the authority.
func (ca *CA) Server(names []string, ips []netip.Addr, opts ...Option) (cert, key []byte, err error) {
	if len(names)+len(ips) == 0 {
		return nil, nil, errors.New("making server certificate: it needs a name or an address")
	}
	s := sourceOf(opts)
	k, err := newKey(s.random)
	if err != nil {
		return nil, nil, fmt.Errorf("making server certificate: %w", err)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "registry", Organization: ca.cert.Subject.Organization},
		NotBefore:   s.now.Add(-backdate),
		NotAfter:    ca.cert.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    names,
	}
	if template.NotBefore.Before(ca.cert.NotBefore) {
		template.NotBefore = ca.cert.NotBefore
	}
	for _, ip := range ips {
		if !ip.IsValid() {
			return nil, nil, errors.New("making server certificate: an address is not valid")
		}
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.Unmap().AsSlice()))
	}
	c, err := sign(s, template, ca.cert, k, ca.key)
	if err != nil {
		return nil, nil, fmt.Errorf("making server certificate: %w", err)
	}
	return certPEM(c), keyPEM(k), nil
}

// Covers says whether a certificate is this authority's, for a server of all these names and addresses,
// and not near its end. One that ends with the authority counts as long as it is valid.
func (ca *CA) Covers(cert []byte, names []string, ips []netip.Addr, opts ...Option) bool {
	s := sourceOf(opts)
	c, err := parseCert(cert)
	if err != nil || c.CheckSignatureFrom(ca.cert) != nil || s.now.Before(c.NotBefore) || s.now.After(c.NotAfter) {
		return false
	}
	if s.now.Add(Renewal).After(c.NotAfter) && c.NotAfter.Before(ca.cert.NotAfter) {
		return false
	}
	for _, n := range names {
		if c.VerifyHostname(n) != nil {
			return false
		}
	}
	for _, ip := range ips {
		if c.VerifyHostname(ip.Unmap().String()) != nil {
			return false
		}
	}
	return true
}

// newKey draws a P-256 key by rejection, since ecdsa.GenerateKey takes no randomness from its caller.
func newKey(random io.Reader) (*ecdsa.PrivateKey, error) {
	for range 100 { // one draw in 2^32 is too large
		b := make([]byte, 32)
		if _, err := io.ReadFull(random, b); err != nil {
			return nil, fmt.Errorf("drawing key: %w", err)
		}
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b); err == nil {
			return key, nil
		}
	}
	return nil, errors.New("drawing key: the source of randomness is broken")
}

func sign(s source, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	if _, err := io.ReadFull(s.random, serial); err != nil {
		return nil, fmt.Errorf("drawing serial number: %w", err)
	}
	serial[0] &= 0x7f // positive, RFC 5280 section 4.1.2.2
	serial[15] |= 1   // not zero
	template.SerialNumber = new(big.Int).SetBytes(serial)
	id, err := keyID(key)
	if err != nil {
		return nil, err
	}
	template.SubjectKeyId = id
	// Without a source of randomness the signature is deterministic, RFC 6979.
	der, err := x509.CreateCertificate(nil, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func keyID(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return sum[:20], nil
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func keyPEM(key *ecdsa.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil { // cannot be: the key is of P-256
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
